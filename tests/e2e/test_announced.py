"""Endpoints that the processes of a payload announce while the job runs."""

import json
from pathlib import Path

import pytest
from slurm_user import Table

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
