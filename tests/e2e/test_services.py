"""Services of a job: ready before the phases, proved to be ours, recorded, and gone at the end."""

import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest
from slurm_user import UNTIL_TOLD, Table, kill, until

PROGRAM = Path(__file__).parent / "programs" / "service.py"

pytestmark = pytest.mark.prometheus


def ended(child, code=0):
    stdout, stderr = child.communicate(timeout=120)
    assert child.returncode == code, stderr
    assert "Traceback" not in stderr
    return stdout, stderr


def attempt_of(tmp_path):
    (attempt,) = (tmp_path / "runs").glob("*/attempts/local")
    return attempt


def events_of(attempt, name=None):
    events = [json.loads(line) for line in (attempt / "events.jsonl").read_text().splitlines()]
    return [event for event in events if name in (None, event["event"])]


def table_of(attempt):
    return Table(json.loads((attempt / "report" / "kpis.json").read_text()))


def running(text):
    """Command lines of processes of this machine that hold ``text``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if text in command and int(folder.name) != os.getpid():
            found.append(command)
    return found


def service(name, *options, **keys):
    words = ", ".join(
        json.dumps(word) for word in (str(PROGRAM), "{{ host }}", "{{ port }}", *options)
    )
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    return f"  {name}: {{recipe: http, command: [{words}], ready_path: /ready{more}}}\n"


def test_services_are_ready_in_order_and_counted_exactly(started, tmp_path):
    child = started(
        "monitoring: {interval: 1s}\nservices:\n"
        + service("second", after="[first]")
        + service("first", "--ready-after", "3", "--child")
        + """phases:
  - {name: seven, run: "curl -sf -X POST {{ services.first.url }}/add/7"}
  - name: both
    run: |
      curl -sf -X POST $JOBMETER_URL_SECOND/add/3
      curl -sf -X POST $JOBMETER_URL_FIRST/add/4
"""
    )
    ended(child)
    attempt = attempt_of(tmp_path)
    assert [e["service"] for e in events_of(attempt, "service_ready")] == ["first", "second"]
    assert (attempt / "logs" / "service.first.log").read_text().count("GET /ready") == 4
    table = table_of(attempt)
    assert table.manifest["state"] == "complete", table.manifest["reasons"]
    counts = {("seven", "first"): 7, ("seven", "second"): 0, ("both", "first"): 4}
    for (phase, name), count in {**counts, ("both", "second"): 3}.items():
        (row,) = [
            row
            for row in table.find("work_units_total", phase=phase)
            if row["entity"].startswith(f"{name}@")
        ]
        assert (row["value"], row["status"]) == (count, "exact")
    # What users of such a service read and this one does not tell, is not left out.
    missing = table.one(
        "http_requests_total", phase="seven", entity=f"first@{socket.gethostname()}"
    )
    assert (missing["status"], missing["reason"]) == ("unavailable", "metric_absent")
    until(lambda: not running(str(PROGRAM)), 10, lambda: str(running(str(PROGRAM))))
    assert not running("sleep 301")


FAILURES = {
    "ends": (("--no-such-option",), "ended with status 2 before it was ready"),
    "is never ready": (("--never-ready",), "is not ready after 1 s: /ready does not answer"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_service_that_is_never_ready_ends_the_job(name, started, tmp_path):
    options, why = FAILURES[name]
    child = started(
        "services:\n" + service("web", *options, ready_limit="1s") + "run: echo the phase runs\n"
    )
    stdout, stderr = ended(child, 1)
    assert "the phase runs" not in stdout
    assert f"service web on {socket.gethostname()} {why}" in stderr
    log = {"ends": "unrecognized arguments: --no-such-option", "is never ready": "GET /ready"}[name]
    assert log in stderr
    attempt = attempt_of(tmp_path)
    table = table_of(attempt)
    assert any(f"service web@{socket.gethostname()} {why}" in r for r in table.manifest["reasons"])
    assert events_of(attempt, "recording_closed")[0]["clean"] is True
    assert not running(str(PROGRAM))


def test_the_first_error_is_shown_where_the_end_of_the_log_says_nothing(started):
    said = "echo \"ValueError: no model 'x'\"; echo 'RuntimeError: see above'; seq 20; exit 3"
    command = json.dumps(["bash", "-c", said])
    child = started(f"services:\n  web: {{recipe: http, command: {command}}}\nrun: echo no\n")
    _, stderr = ended(child, 1)
    assert "\n11\n" in stderr
    assert "\n10\n" not in stderr
    assert "jobmeter: its first error is: ValueError: no model 'x'\n" in stderr


def test_a_service_that_dies_ends_the_phase(started, tmp_path):
    child = started(
        "monitoring: {interval: 1s}\nservices:\n"
        + service("web")
        + """phases:
  - {name: fatal, run: "curl -s -X POST {{ services.web.url }}/end/9; sleep 302"}
  - {name: after, run: "echo the next phase runs"}
"""
    )
    stdout, stderr = ended(child, 1)
    assert "the next phase runs" not in stdout
    assert "service web on" in stderr
    assert "ended with status 9" in stderr
    table = table_of(attempt_of(tmp_path))
    row = table.one("phase_seconds", phase="fatal")
    assert "phase_interrupted" in row["reason"]
    reasons = table.manifest["reasons"]
    assert any(reason.endswith("ended with status 9") for reason in reasons), reasons
    assert not running("sleep 302")


STORED = """
description: a server that has a model
parameters:
  model: {help: its model, required: true, look_up: models}
command: [bash, -c, 'printenv MODEL HUB; exec "$0" "$@"', PROGRAM, "{{ host }}", "{{ port }}"]
environment: {MODEL: "{{ found.model }} as {{ model }}"}
caches: {HUB: hub}
ready: {path: /ready}
"""


def test_models_and_caches_lie_where_the_site_says(started, tmp_path):
    models = tmp_path / "it's here"
    (models / "a" / "b").mkdir(parents=True)
    (tmp_path / "stored.yaml").write_text(STORED.replace("PROGRAM", str(PROGRAM)))
    storage = {"models": ["$NOWHERE", str(models)], "cache": str(tmp_path / "cache")}
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "own.yaml").write_text(
        json.dumps({"inherits": "local", "storage": storage})
    )
    services = ", ".join(f"{n}: {{recipe: stored.yaml, model: a/{n}}}" for n in ("b", "c"))
    ended(started(f"services: {{{services}}}\nrun: 'true'\n", "--site", "own"))
    for name, found in (("b", str(models / "a/b")), ("c", "a/c")):
        log = (attempt_of(tmp_path) / "logs" / f"service.{name}.log").read_text().splitlines()
        said = [f"jobmeter: a/{name} is {found}", f"{found} as a/{name}"]
        assert log[:3] == [*said, str(tmp_path / "cache" / "hub")]
    assert (tmp_path / "cache").is_dir()


WITH_A_STRANGER = """#!/bin/bash
# On the first start a stranger has taken the port a moment before, and lets it be shared.
if mkdir {place}/once; then
  env --ignore-environment setsid {program} "$1" "$2" --shares-port 2>{place}/stranger &
  echo "$!" >{place}/pid
  until [[ -s {place}/stranger ]]; do sleep 0.05; done
  until (exec 3<>"/dev/tcp/$1/$2"); do sleep 0.05; done
fi
exec {program} "$1" "$2" --shares-port
"""


def test_a_stranger_on_the_port_is_not_taken_for_the_service(started, tmp_path):
    program = tmp_path / "server.sh"
    program.write_text(WITH_A_STRANGER.format(place=tmp_path, program=PROGRAM))
    program.chmod(0o755)
    child = started(
        "monitoring: {interval: 1s}\n"
        "services:\n  web:\n    recipe: http\n    ready_path: /ready\n"
        f"    command: [{program}, '{{{{ host }}}}', '{{{{ port }}}}']\n"
        "run: curl -sf -X POST {{ services.web.url }}/add/5\n"
    )
    try:
        ended(child)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    attempt = attempt_of(tmp_path)
    taken = (tmp_path / "stranger").read_text().split()[2]
    (ready,) = events_of(attempt, "service_ready")
    assert ready["port"] != int(taken)
    row = table_of(attempt).one("work_units_total")
    assert (row["value"], row["status"]) == (5, "exact")


def test_an_interrupted_start_leaves_nothing(started, tmp_path):
    child = started("services:\n" + service("web", "--never-ready") + "run: echo no\n")
    until(lambda: running(str(PROGRAM)), 30, lambda: "the service does not start")
    child.send_signal(signal.SIGTERM)
    ended(child, 143)
    assert not running(str(PROGRAM))


KEYED = """
description: a server with a key
command: [/opt/programs/service.py, "{{ host }}", "{{ port }}"]
key: {server: SERVICE_KEY, client: CLIENT_KEY}
ready: {path: /ready, limit: 30s}
metrics: {path: /metrics, key: true}
snapshots: {settings: {path: /settings}}
"""
SPREAD = """
name: spread
resources: {nodes: 3, time: "00:05:00"}
monitoring: {interval: 1s}
services:
  web: {recipe: keyed.yaml, node: 1, replicas: 2}
phases:
  - name: work
    run: |
      echo {{ services.web.urls }}
      curl -sf -X POST {{ services.web.url }}/add/6
      test "$CLIENT_KEY" = "{{ services.web.key }}"
      curl -sf -H "Authorization: Bearer $CLIENT_KEY" {{ services.web.url }}/metrics
      test "$(curl -s -o /dev/null -w '%{http_code}' {{ services.web.url }}/metrics)" = 401
"""


@pytest.mark.cluster
def test_services_on_other_nodes_with_a_key(user):
    user.write("keyed.yaml", KEYED)
    run = user.submit("spread.yaml", SPREAD, "--wait")
    urls = re.search(r"http://mel0002:\d+,http://mel0003:\d+", run.output)
    assert urls, run.output
    table = run.table()
    assert table.manifest["state"] == "complete", table.manifest["reasons"]
    rows = {row["entity"]: row for row in table.find("work_units_total", phase="work")}
    assert {entity: row["value"] for entity, row in rows.items() if "@" in entity} == {
        "web-0@mel0002": 6,
        "web-1@mel0003": 0,
    }
    assert all(row["status"] == "exact" for row in rows.values())
    key = (run.folder / "secrets" / "service.key").read_text()
    said = [p for p in run.folder.rglob("*") if p.is_file() and "secrets" not in p.parts]
    assert not [p for p in said if key.encode() in p.read_bytes()]
    assert not [c for c in user.cluster.pids().values() if "service.py" in c]


@pytest.mark.cluster
@pytest.mark.parametrize("way", ["scancel", "server killed"])
def test_nothing_is_left_on_any_node_after_a_bad_end(way, user):
    user.write("keyed.yaml", KEYED)
    run = user.submit("spread.yaml", SPREAD.replace("echo {{", "sleep 300; echo {{"))
    run.wait_for_event("phase_start")
    if way == "scancel":
        user.cluster.run("scancel", run.job_id)
    else:
        (pid,) = [p for p, c in user.cluster.pids("mel0003").items() if "/service.py" in c]
        os.kill(pid, signal.SIGKILL)
    run.wait_for_end()
    assert not [c for c in user.cluster.pids().values() if "service" in c and "slurm" not in c]
    table = run.table()
    assert "phase_interrupted" in table.one("phase_seconds", phase="work")["reason"]
    lost = [event["service"] for event in run.events("service_lost")]
    assert lost == ([] if way == "scancel" else ["web-1"])
    for node in user.cluster.nodes:
        found = user.cluster.run("find", "/tmp", "-user", "hpc", node=node, check=False)
        assert found.stdout == ""


NEAR = f"""
name: near
resources: {{nodes: 2, time: "00:05:00"}}
monitoring: {{interval: 1s}}
services:
  web: {{recipe: keyed.yaml, node: 1, reach: node}}
phases:
  - name: work
    run: |
      there() {{ srun --overlap --mem=0 -N1 -n1 --nodelist={{{{ services.web.node }}}} curl "$@"; }}
      there -sf -X POST {{{{ services.web.url }}}}/add/6
      there -sf -H "Authorization: Bearer $CLIENT_KEY" $JOBMETER_URL_WEB/metrics >direct.prom
      curl -s $JOBMETER_NODE_WEB:$JOBMETER_PORT_WEB/ready || echo "curl says $?"
      curl -s -w '%{{http_code}}' $(cut -f 3 $JOBMETER_ATTEMPT_DIR/targets/gated.web.tsv)
  - name: more
    run: |
      srun --overlap --mem=0 -N1 -n1 -w $JOBMETER_NODE_WEB curl -sf -X POST $JOBMETER_URL_WEB/add/7
      {UNTIL_TOLD}
"""


def scraped(run, service):
    """Whether Prometheus, which takes up targets every 5 s, has a sample of this one."""
    (began,) = [e for e in run.events("component_start") if e["component"] == "prometheus"]
    options = ("--config", f"{run.inside}/secrets/curl.conf", "--get", "--data-urlencode")
    url = f"http://127.0.0.1:{began['port']}/federate"
    asked = ("curl", "--silent", *options, f'match[]=up{{service="{service}"}}', url)
    return "} 1 " in run.user.cluster.run(*asked, node="mel0001", check=False).stdout


@pytest.mark.cluster
def test_what_only_its_own_node_can_reach_is_counted_exactly(user):
    user.write("keyed.yaml", KEYED)
    run = user.submit("near.yaml", NEAR)
    run.wait_for_event("phase_start", phase="more")
    # A gateway that dies is there again, where the edges find it.
    kill(user, "mel0002", "--gateway-endpoints-dir", run.folder.name)
    until(
        lambda: len([e for e in run.events("component_start") if e["component"] == "gateway"]) == 2,
        60,
        lambda: str(run.events()),
    )
    until(lambda: scraped(run, "web"), 60, lambda: "Prometheus does not scrape it")
    run.enough()
    run.wait_for_end()
    assert "curl says 7" in run.output  # refused
    assert "the user name and password of the run are needed\n401" in run.output
    table = run.table()
    reasons = table.manifest["reasons"]
    assert not [reason for reason in reasons if not reason.startswith("gateway@mel0002")], reasons
    for phase, count in (("work", 6), ("more", 7)):
        row = table.one("work_units_total", phase=phase)
        assert (row["entity"], row["value"], row["status"]) == ("web@mel0002", count, "exact")
        cost = table.one("monitoring_cpu_seconds_total", phase=phase, entity="gateway@mel0002")
        assert cost["status"] != "unavailable"
    (target,) = [one for one in table.manifest["targets"] if one["service"] == "web"]
    assert (target["node"], target["kind"]) == ("mel0002", "payload")
    assert target["scrapes"] > 0
    said = {one["when"]: one for one in table.manifest["snapshots"]["web"]}
    assert {when: one["content"] for when, one in said.items()} == {
        "ready": {"units": 0},
        "work.end": {"units": 6},
        "more.end": {"units": 13},
    }
    edge = run.attempt / "edges" / "work.end" / "web@mel0002.prom"
    assert edge.read_bytes() == (user.cluster.home / "direct.prom").read_bytes()
    key = (run.folder / "secrets" / "service.key").read_text()
    said = [p for p in run.folder.rglob("*") if p.is_file() and "secrets" not in p.parts]
    assert not [p for p in said if key.encode() in p.read_bytes()]
    assert not [c for c in user.cluster.pids().values() if "gateway" in c]
