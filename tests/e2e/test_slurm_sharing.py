"""Other jobs and other users on the same nodes."""

import re

import pytest
from slurm_user import until

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]

PAIR = """
name: pair
resources: {nodes: 1, time: "00:05:00", extra: ["--nodelist=mel0002"]}
monitoring: {interval: 1s}
ports: [work]
metrics: {worker: "http://localhost:{{ ports.work }}/metrics"}
phases:
  - name: work
    run: |
      /opt/programs/start_counter.sh {{ ports.work }}
      for i in $(seq 10); do curl -sf -X POST localhost:{{ ports.work }}/add/COUNT; sleep 0.5; done
"""


def test_two_jobs_of_one_user_on_one_node_do_not_mix(user):
    runs = {count: user.submit(f"pair{count}.yaml", PAIR.replace("COUNT", count)) for count in "37"}
    for run in runs.values():
        run.wait_for_event("phase_start")
    for run in runs.values():
        run.wait_for_end()
    first, second = runs.values()
    windows = [
        (run.events("phase_start")[0]["t"], run.events("phase_end")[0]["t"])
        for run in (first, second)
    ]
    assert max(start for start, _ in windows) < min(end for _, end in windows), "not at once"
    for count, run in runs.items():
        table = run.table()
        assert table.one("work_units_total", phase="work")["value"] == 10 * int(count)
        assert table.manifest["state"] == "complete"
        assert not any("foreign_target" in row["reason"] for row in table.rows)
        used = {event["port"] for event in run.events("component_start")}
        assert len(used) == 3


OPEN = """
name: open
resources: {nodes: 2, time: "00:05:00"}
monitoring: {interval: 1s, analysis: false}
run: "sleep 60"
"""


def test_nobody_else_can_read_or_scrape_and_the_password_is_nowhere(user):
    run = user.submit("open.yaml", OPEN)
    run.wait_for_event("phase_start")
    cluster = user.cluster
    password = (run.folder / "secrets" / "password").read_text()
    assert len(password) >= 40

    for path in ("", "/secrets/password", "/run.json", f"/attempts/{run.job_id}/events.jsonl"):
        seen = cluster.run("cat", run.inside + path, user="other", check=False)
        assert "Permission denied" in seen.stderr
    # The home of this user is closed already; the run directory must be by itself.
    assert run.folder.stat().st_mode & 0o777 == 0o700
    # Slurm itself makes the job's output file.
    ours = [p for p in run.folder.rglob("*") if p.parent.name != "output"]
    assert not [p for p in ours if p.stat().st_mode & 0o077]

    urls = [
        (event["node"], f"http://{event['node']}:{event['port']}/metrics")
        for event in run.events("component_start")
        if event["component"] != "prometheus"
    ]
    (prometheus,) = [e for e in run.events("component_start") if e["component"] == "prometheus"]
    local = f"http://127.0.0.1:{prometheus['port']}"
    asked = [(None, url) for _, url in urls] + [
        (prometheus["node"], f"{local}/metrics"),
        (prometheus["node"], f"{local}/api/v1/query?query=up"),
        (prometheus["node"], f"{local}/federate?match[]=up"),
    ]
    assert len(urls) == 4
    for node, url in asked:
        for credentials in ((), ("--user", "jobmeter:wrong")):
            code = cluster.run(
                "curl", "-s", "-g", "-o", "/dev/null", "-w", "%{http_code}", *credentials, url,
                user="other", node=node, check=False,
            ).stdout  # fmt: skip
            assert code == "401", url
    # From another node Prometheus is not even there.
    refused = cluster.run(
        "curl", "-s", f"http://mel0001:{prometheus['port']}/metrics", user="other", check=False
    )
    assert refused.returncode == 7

    secrets = [
        password,
        *re.findall(r"\$2b\$\S+", (run.folder / "secrets" / "web.yml").read_text()),
    ]
    assert len(secrets) == 2
    processes = "\n".join(cluster.pids().values())
    assert run.folder.name in processes
    shown = cluster.run("scontrol", "show", "job", "-d", run.job_id).stdout
    kept = cluster.run("sacct", "-j", run.job_id, "--json", user="root").stdout
    cluster.run("scancel", run.job_id)
    run.wait_for_end()
    run.table(check=False)
    files = {
        str(path.relative_to(run.folder)): path.read_bytes().decode(errors="replace")
        for path in run.folder.rglob("*")
        if path.is_file() and "secrets" not in path.parts
    }
    assert f"attempts/{run.job_id}/report/MANIFEST.json" in files
    for secret in secrets:
        assert secret not in processes
        assert secret not in shown
        assert secret not in kept
        for name, text in files.items():
            assert secret not in text, name


def test_nothing_is_left_behind_on_the_nodes(user):
    """Not by this job, nor by one that was killed on a node before."""
    cluster = user.cluster
    make = "mkdir /tmp/jobmeter.dead /tmp/jobmeter.used; touch /tmp/jobmeter.{dead,used}/lock"
    cluster.run("bash", "-c", make, node="mel0003")
    hold = ("flock", "/tmp/jobmeter.used/lock", "sleep", "60")
    with cluster.popen(*hold, node="mel0003") as holder:
        until(
            lambda: any("sleep 60" in c for c in cluster.pids("mel0003").values()),
            10,
            lambda: str(cluster.pids("mel0003")),
        )
        run = user.submit("open.yaml", OPEN.replace("sleep 60", "sleep 1").replace("2,", "3,"))
        run.wait_for_end()
        used = "/tmp/jobmeter.used\n/tmp/jobmeter.used/lock\n"
        for node in cluster.nodes:
            assert scratch_of(user, node) == (used if node == "mel0003" else ""), node
        until(
            lambda: not [c for c in cluster.pids().values() if run.folder.name in c],
            10,
            lambda: str(cluster.pids()),
        )
        holder.kill()


def scratch_of(user, node):
    found = user.cluster.run(
        "find", "/tmp", "/dev/shm", "-mindepth", "1", "-user", "hpc", node=node, check=False
    )
    return found.stdout
