"""One job that each shipped Slurm site can run, as its users would ask for it."""

from pathlib import Path

from jobmeter.plan import Context, make_plan
from jobmeter.render import render_files
from jobmeter.site import read_site
from jobmeter.spec import JobSpec

ACCOUNT = "p200999"
CONTEXT = Context(
    "run-1", Path("/tmp/runs/run-1"), "job.yaml", Path("/jobs"), "/opt/py/bin/python", "0"
)

RESOURCES = {
    "generic-slurm": {},
    "juwels": {"partition": "booster", "gpus_per_node": 4},
    "leonardo": {"partition": "boost_usr_prod", "qos": "boost_qos_dbg", "gpus_per_node": 4},
    "lumi": {"partition": "standard-g", "gpus_per_node": 8},
    "marenostrum5": {"qos": "acc_debug", "gpus_per_node": 4, "cpus_per_task": 80},
    "meluxina": {"partition": "gpu", "qos": "test", "gpus_per_node": 4},
}


def asked_of(site, **changes):
    """Return the resources of the site's job, with changes."""
    usual = {"nodes": 2, "time": "00:20:00", "account": ACCOUNT}
    return {**usual, **RESOURCES[site], **changes}


def files_of(site, resources):
    """Return what is rendered for a job with these resources."""
    spec = JobSpec.model_validate({"name": "job", "resources": resources, "run": "srun ./bench"})
    return render_files(make_plan(spec, site, read_site(site), CONTEXT))
