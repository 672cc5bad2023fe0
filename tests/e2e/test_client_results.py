"""Result files of a phase's own client: copied when it wrote them, and never taken from another."""

import json
import signal
from pathlib import Path

import pytest
from slurm_user import until

pytestmark = pytest.mark.prometheus


def attempt_of(tmp_path):
    (attempt,) = (tmp_path / "runs").glob("*/attempts/local")
    return attempt


def result_events(attempt):
    events = [json.loads(line) for line in (attempt / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"].startswith("results_")]


def contents(attempt):
    return {
        str(path.relative_to(attempt / "results")): path.read_text()
        for path in (attempt / "results").rglob("*")
        if path.is_file()
    }


FILES = """
ports: [api]
phases:
  - name: writes
    run: |
      mkdir -p out && echo first >out/bench.json && echo "two words" >"$PLACE/it's.json"
    results: [out/bench.json, "$PLACE/it's.json", "$JOBMETER_ATTEMPT_DIR/{{ ports.api }}.json"]
  - {name: leaves-it, run: "true", results: out/bench.json}
  - {name: writes-again, run: "echo second >out/bench.json", results: out/bench.json}
  - {name: too-much, run: "truncate --size=65M out/bench.json", results: out/bench.json}
  - {name: a-folder, run: "true", results: [out, "$NO_SUCH_VARIABLE"]}
  - {name: names-none, run: "echo third >out/bench.json"}
  - name: fails
    run: 'echo fourth >out/bench.json; touch -d 2001-01-01 out/bench.json; exit 7'
    results: out/bench.json
  - {name: skipped, run: "echo fifth >out/bench.json", results: out/bench.json}
"""


def test_each_phase_keeps_what_it_wrote_itself(started, tmp_path):
    child = started(FILES, PLACE=str(tmp_path))
    _, stderr = child.communicate(timeout=120)
    assert child.returncode == 7, stderr
    attempt = attempt_of(tmp_path)
    assert contents(attempt) == {
        "writes/bench.json": "first\n",
        "writes/it's.json": "two words\n",
        "writes-again/bench.json": "second\n",
        "fails/bench.json": "fourth\n",  # however old it says it is
    }
    said = [
        (event["phase"], Path(event["file"]).name, event.get("bytes") or event["why"])
        for event in result_events(attempt)
    ]
    api = said[2][1]
    assert said == [
        ("writes", "bench.json", 6),
        ("writes", "it's.json", 10),
        ("writes", api, "no such file"),
        ("leaves-it", "bench.json", "not written in this phase"),
        ("writes-again", "bench.json", 7),
        ("too-much", "bench.json", "larger than 67108864 bytes"),
        ("a-folder", "out", "no such file"),
        ("a-folder", "", "no such file"),
        ("fails", "bench.json", 7),
    ]
    assert api.removesuffix(".json").isdigit()
    assert {path.stat().st_mode & 0o077 for path in (attempt / "results").rglob("*")} == {0}


def test_a_file_written_at_the_interruption_is_kept(started, tmp_path):
    child = started(
        "phases:\n"
        "  - name: bench\n"
        "    run: |\n"
        "      trap 'echo partial >bench.json; exit 0' TERM\n"
        "      touch ready; while :; do sleep 0.1; done\n"
        "    results: bench.json\n"
    )
    until(lambda: (tmp_path / "work" / "ready").exists(), 30, lambda: "the phase does not start")
    child.send_signal(signal.SIGTERM)
    _, stderr = child.communicate(timeout=60)
    assert "Traceback" not in stderr
    attempt = attempt_of(tmp_path)
    assert contents(attempt) == {"bench/bench.json": "partial\n"}
    (event,) = result_events(attempt)
    assert (event["event"], event["bytes"]) == ("results_copied", 8)


def test_results_that_cannot_be_kept_do_not_fail_the_job(started, tmp_path):
    child = started(
        "phases:\n"
        "  - name: bench\n"
        "    run: 'echo x >bench.json; touch \"$JOBMETER_ATTEMPT_DIR/results\"'\n"
        "    results: bench.json\n"
    )
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 0, stderr
    (event,) = result_events(attempt_of(tmp_path))
    assert event["why"] == "cannot be copied; see logs/results.log"


@pytest.mark.cluster
def test_a_cancelled_slurm_job_keeps_what_its_client_wrote(user):
    """Slurm's TERM reaches the client and the script at once; the file name holds the job's id."""
    run = user.submit(
        "client.yaml",
        "phases:\n"
        "  - name: bench\n"
        "    run: |\n"
        "      trap 'echo partial >bench-$SLURM_JOB_ID.json; exit 0' TERM\n"
        "      while :; do sleep 0.1; done\n"
        "    results: 'bench-$SLURM_JOB_ID.json'\n",
    )
    run.wait_for_event("phase_start", phase="bench")
    user.cluster.run("scancel", run.job_id)
    run.wait_for_end()
    (event,) = result_events(run.attempt)
    assert (event["event"], event["bytes"]) == ("results_copied", 8)
    assert contents(run.attempt) == {f"bench/bench-{run.job_id}.json": "partial\n"}
