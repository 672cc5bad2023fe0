"""Endpoints that the processes of a payload announce while the job runs."""

import json
from pathlib import Path

import pytest
from slurm_user import Table, until

PROGRAMS = Path(__file__).parent / "programs"
STEPS = 16
JOB = f"""
monitoring: {{interval: 1s}}
phases:
  - name: alone
    run: RANK=0 WORLD_SIZE=1 {{{{ python }}}} {PROGRAMS}/ranks.py {STEPS}
  - name: together
    run: |
      for rank in 0 1 2; do
        RANK=$rank WORLD_SIZE=3 {{{{ python }}}} {PROGRAMS}/ranks.py {STEPS} &
      done
      wait
  - {{name: strangers, run: "{{{{ python }}}} {PROGRAMS}/announce.py"}}
"""

pytestmark = pytest.mark.prometheus


def test_ranks_are_found_recorded_and_exact_to_the_last_step(started, tmp_path):
    child = started(JOB)
    _, stderr = child.communicate(timeout=180)
    assert child.returncode == 0, stderr
    (attempt,) = (tmp_path / "runs").glob("*/attempts/local")
    events = [json.loads(line) for line in (attempt / "events.jsonl").read_text().splitlines()]
    found = [event["service"] for event in events if event["event"] == "endpoint_found"]
    assert sorted(found) == ["training", "training-rank0", "training-rank1", "training-rank2"]
    refused = {e["service"]: e["why"] for e in events if e["event"] == "endpoint_refused"}
    assert refused == {
        "cgroup": "has the name of another target",
        "other": "is of another run",
        "far": "listens where only its own node can reach it",
    }
    table = Table(json.loads((attempt / "report" / "kpis.json").read_text()))
    for phase, ranks in {"alone": 1, "together": 3}.items():
        row = table.one("steps_total", phase=phase, scope="job")
        assert (row["value"], row["status"]) == (STEPS * ranks, "exact"), phase
        row = table.one("tokens_total", phase=phase, scope="job")
        assert (row["value"], row["status"]) == (1000 * STEPS * ranks, "exact"), phase
    # The third rank takes a hundred milliseconds longer for each step.
    ranks = table.find("rank_step_seconds_mean", phase="together", scope="rank")
    means = {row["entity"]: row["value"] for row in ranks}
    assert max(means, key=means.get).startswith("rank2"), means
    assert len(means) == 3
    scraped = (attempt / "tsdb").rglob("*")
    assert any(b"training-rank1" in path.read_bytes() for path in scraped if path.is_file())
    secret = (attempt.parents[1] / "secrets" / "password").read_text().strip()
    assert secret not in json.dumps(events)


TOLD = "$HOME/enough.$SLURM_JOB_ID"
THREE_NODES = f"""
name: ranks
resources: {{nodes: 3, tasks_per_node: 2, time: "00:05:00"}}
monitoring: {{interval: 1s}}
phases:
  - name: alone
    run: srun --nodes=1 --ntasks=1 --nodelist=mel0003 {{{{ python }}}} /opt/programs/ranks.py 4
  - name: together
    run: srun --ntasks=6 --ntasks-per-node=2 {{{{ python }}}} /opt/programs/ranks.py 8 "{TOLD}"
  - {{name: after, run: "true"}}
"""


def asked(run, port, *options, node="mel0001", address="127.0.0.1", path=""):
    """Return what curl gets on a node from ``address``, and the status."""
    url = f"http://{address}:{port}/{path}"
    always = ("--silent", "--show-error", "--max-time", "10", "--write-out", "\\n%{http_code}")
    done = run.user.cluster.run("curl", *always, *options, url, node=node, check=False)
    answer, _, status = done.stdout.rpartition("\n")
    return answer + done.stderr, status


def recorded(run):
    """Return the nodes of the ranks that Prometheus has scraped with success, by service."""
    port = run.wait_for_event("component_start", component="prometheus")["port"]
    password = ("--config", f"{run.inside}/secrets/curl.conf")
    query = ("--get", "--data-urlencode", 'query=up{service=~"training-rank.*"} == 1')
    answer, status = asked(run, port, *password, *query, path="api/v1/query")
    assert status == "200", f"{answer} {run.events()} {run.output}"
    found = [one["metric"] for one in json.loads(answer)["data"]["result"]]
    return {one["service"]: one["node"] for one in found}


@pytest.mark.cluster
def test_ranks_of_several_nodes_are_recorded_behind_the_password(user):
    run = user.submit("ranks.yaml", THREE_NODES)
    wanted = {f"training-rank{rank}": f"mel000{1 + rank // 2}" for rank in range(6)}
    until(lambda: recorded(run) == wanted, 90, lambda: f"{run.events()} {recorded(run)}")
    announcements = [json.loads(p.read_text()) for p in (run.attempt / "endpoints").iterdir()]
    for said in announcements:
        there = {"node": "mel0001", "address": said["node"], "path": "metrics"}
        assert (said["auth"], asked(run, said["port"], **there)[1]) == ("basic", "401")
    run.enough()
    run.wait_for_end()
    assert not list((run.attempt / "endpoints").iterdir())
    assert not run.events("endpoint_refused")

    table = run.table()
    assert table.manifest["state"] == "complete", table.manifest["reasons"]
    for phase, ranks, steps in (("alone", 1, 4), ("together", 6, 8)):
        row = table.one("steps_total", phase=phase, scope="job")
        # Another node's clock is known to a tenth of a second: a rank may seem to be born before.
        assert row["low"] <= ranks * steps == row["high"], phase
        assert row["value"] == pytest.approx(ranks * steps, rel=0.1)
        services = table.find("steps_total", phase=phase, scope="service")
        assert len(services) == ranks, services
    ranks = {row["entity"] for row in table.find("rank_step_seconds_mean", phase="together")}
    assert {entity.partition("@")[2] for entity in ranks if "@" in entity} == set(
        user.cluster.nodes
    )
    assert not table.find("steps_total", phase="after")
