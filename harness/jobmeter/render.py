"""From a plan to the text of every file that the job needs. Nothing is written here.

Printing, testing and submitting a job all use this one call.
"""

from __future__ import annotations

from collections.abc import Mapping

from jobmeter.plan import Plan
from jobmeter.templating import render

_SCRIPTS = {
    "scripts/node.sh": "node.sh.j2",
    "scripts/recorder.sh": "recorder.sh.j2",
}


def render_files(plan: Plan) -> Mapping[str, str]:
    """Return the text of each file by its path in the run directory.

    Raises:
        RenderError: a template asks for something the plan does not have.
    """
    first = ("scripts/control.sh", "control.sh.j2")
    if plan.kind == "job":
        first = ("job.sbatch", "job.sbatch.j2")
    scripts = (first, *_SCRIPTS.items())
    files = {path: render("sbatch", name, {"plan": plan}) for path, name in scripts}
    if plan.services.every:
        files["scripts/service.sh"] = render("sbatch", "service.sh.j2", {"plan": plan})
    files["prometheus/prometheus.yml"] = render(
        "prometheus_templates", "prometheus.yml.j2", {"plan": plan}
    )
    if plan.started("dcgm"):
        for name in ("dcgm_counters.csv", "dcgm_profiling.csv"):
            files[f"scripts/{name}"] = render("prometheus_templates", f"{name}.j2", {})
    return files


def render_web_config(username: str, bcrypt_hash: str) -> str:
    """Return the web configuration of Prometheus and node_exporter."""
    values = {"username": username, "bcrypt_hash": bcrypt_hash}
    return render("prometheus_templates", "web.yml.j2", values)
