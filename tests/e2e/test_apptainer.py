"""The stack inside Apptainer, as an unprivileged user of the second cluster runs it."""

import json
from pathlib import Path

import pytest
from slurm_user import UNTIL_TOLD, Run, User, kill, until

pytestmark = pytest.mark.cluster

IMAGES = ("prometheus", "node-exporter", "exporters")
SITE = """
description: the second cluster, its stack in Apptainer
inherits: generic-slurm
runtime: {{kind: apptainer{more}}}
images: {{folder: /home/hpc/images}}
"""
SLICE = f"""
name: slice
resources: {{nodes: 3, time: "00:10:00"}}
monitoring: {{interval: 1s, checkpoint_interval: 2s}}
phases:
  - {{name: work, run: '{UNTIL_TOLD}'}}
"""
ALONE = """
name: alone
resources: {{nodes: 1, time: "00:05:00"{resources}}}
monitoring: {{interval: 1s, required: {required}}}
run: echo the payload ran
"""
HELPERS = ("Apptainer", "squashfuse", "node_exporter", "jobmeter_exporters", "prometheus")


@pytest.fixture(scope="module")
def cluster(apptainer_cluster, built_images):
    return apptainer_cluster


@pytest.fixture
def user(cluster):
    cluster.wait_idle()
    yield User(cluster)
    cluster.run("scancel", "--signal=KILL", "--full", "--user=hpc", check=False)


@pytest.fixture
def site(user):
    """Write the site profile, with what a test adds to its runtime, and return its path."""

    def write(more=""):
        return user.write("contained.yaml", SITE.format(more=f", {more}" if more else ""))

    return write


def stack_of(cluster, node=None):
    """The command lines of the stack's processes, on one node or on all."""
    return [
        command
        for command in cluster.pids(node).values()
        if any(word in command for word in HELPERS) and "submit" not in command
    ]


def niceness(cluster, *parts):
    """The niceness of each thread of the processes whose command line has one of these parts."""
    for pid, command in cluster.pids().items():
        if any(part in command for part in parts) and "runtime parent" not in command:
            for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
                yield int(stat.read_text().rpartition(")")[2].split()[16])


def wait_until_nothing_is_left(cluster):
    until(lambda: not stack_of(cluster), 60, lambda: str(stack_of(cluster)))


def recorded(run):
    """Until Prometheus's own samples have been copied twice."""
    until(
        lambda: len([e for e in run.events("checkpoint") if e["copied_bytes"] > 0]) >= 2,
        60,
        lambda: str(run.events()),
    )


def test_a_job_of_three_nodes_in_containers(user, site):
    run = user.submit("slice.yaml", SLICE, site=site())
    up = run.wait_for_event("targets_up", timeout_s=120)
    assert (up["missing"], up["up"]) == ("", up["expected"])
    run.wait_for_event("phase_start")
    for node in user.cluster.nodes:
        commands = stack_of(user.cluster, node)
        # One of each container, of which the first node has three.
        containers = 3 if node == "mel0001" else 2
        assert len([c for c in commands if "runtime parent" in c]) == containers, commands
    assert set(niceness(user.cluster, "prometheus --config", "node_exporter --coll")) == {19}
    recorded(run)
    run.enough()
    run.wait_for_end()
    wait_until_nothing_is_left(user.cluster)
    report = run.table()
    assert report.manifest["state"] == "complete", report.manifest["reasons"]
    for node in user.cluster.nodes:
        row = report.one("cpu_utilization_ratio_mean", phase="work", entity=node)
        assert row["status"] in ("exact", "bounded")
        assert report.one("memory_used_bytes_max", phase="work", entity=node)["value"] > 0
    # Seen from inside its container, the job is the same.
    assert report.one("job_memory_bytes_max", phase="work", entity="mel0002")["value"] > 0
    # The kernel does not show it what the payload's processes read: absent, and said of how many.
    read = report.one("job_syscall_read_bytes_total", phase="work", entity="mel0002")
    assert (read["value"], read["status"]) == (None, "unavailable")
    unseen = report.one("job_processes_without_io_max", phase="work", entity="mel0002")
    assert unseen["value"] > 0
    (closed,) = run.events("recording_closed")
    assert closed["clean"]
    used = {image["name"]: image for image in report.manifest["images"]}
    locked = json.loads((user.cluster.home / "images" / "images.lock.json").read_text())
    assert set(used) == set(IMAGES)
    for name, image in used.items():
        assert image["sha256"] == locked["images"][name]["sha256"]
        assert image["version"] == locked["images"][name]["version"]


def test_the_helpers_of_the_runtime_are_part_of_the_cost(user, site):
    run = user.submit("slice.yaml", SLICE, site=site())
    run.wait_for_event("phase_start", timeout_s=120)
    recorded(run)
    run.enough()
    run.wait_for_end()
    report = run.table()
    rows = report.find("monitoring_memory_bytes_max", phase="work", scope="service")
    of = {row["entity"]: row["value"] for row in rows}
    assert of["helpers@mel0002"] > 10e6
    node = report.one("monitoring_memory_bytes_max", phase="work", scope="node", entity="mel0002")
    assert node["value"] >= sum(v for name, v in of.items() if name.endswith("@mel0002")) * 0.999


def test_a_cancelled_job_leaves_nothing_and_its_recording_is_read(user, site):
    run = user.submit("slice.yaml", SLICE, site=site())
    run.wait_for_event("phase_start", timeout_s=120)
    recorded(run)
    user.cluster.run("scancel", run.job_id)
    run.wait_for_end()
    wait_until_nothing_is_left(user.cluster)
    report = run.table()
    assert report.one("slurm_elapsed_seconds")["source"].endswith("CANCELLED")
    assert report.one("memory_used_bytes_max", phase="work", entity="mel0002")["value"] > 0


def test_a_killed_script_of_a_node_takes_its_containers_along(user, site):
    run = user.submit("slice.yaml", SLICE, site=site())
    run.wait_for_event("phase_start", timeout_s=120)
    recorded(run)
    kill(user, "mel0002", "scripts/node.sh", run.folder.name)
    until(
        lambda: not stack_of(user.cluster, "mel0002"),
        60,
        lambda: str(stack_of(user.cluster, "mel0002")),
    )
    run.enough()
    run.wait_for_end()
    wait_until_nothing_is_left(user.cluster)
    row = run.table().one("cpu_utilization_ratio_mean", phase="work", entity="mel0002")
    assert row["status"] != "exact"


SERVED = """
name: served
resources: {nodes: 2, time: "00:05:00"}
monitoring: {interval: 1s}
services:
  web:
    recipe: http
    image: exporters
    node: 1
    command: [/opt/programs/service.py, "{{ host }}", "{{ port }}", --child]
    ready_path: /ready
  near: {recipe: keyed.yaml, node: 1, reach: node}
phases:
  - name: six
    run: |
      curl -sf -X POST {{ services.web.url }}/add/6
      there="srun --overlap --mem=0 -N1 -n1 --nodelist=$JOBMETER_NODE_NEAR"
      $there curl -sf -X POST $JOBMETER_URL_NEAR/add/4
  - {name: two, run: "curl -sf -X POST {{ services.web.url }}/add/2"}
"""
KEYED = """
description: a server of the tests that knows keys
image: exporters
command: [/opt/programs/service.py, "{{ host }}", "{{ port }}"]
key: {server: SERVICE_KEY, client: CLIENT_KEY}
ready: {path: /ready, limit: 60s}
metrics: {path: /metrics, key: true}
"""
DYING = f"""
name: dying
resources: {{nodes: 2, time: "00:05:00"}}
monitoring: {{interval: 1s}}
services: {{web: {{recipe: keyed.yaml, node: 1}}}}
phases:
  - name: fatal
    run: |
      {UNTIL_TOLD}
      curl -s -X POST {{{{ services.web.url }}}}/end/9
      sleep 302
  - {{name: after, run: echo the next phase runs}}
"""


def nothing_of_services_is_left(cluster):
    wait_until_nothing_is_left(cluster)
    left = [c for c in cluster.pids().values() if "service.py" in c or "sleep 30" in c]
    assert not left, left
    for node in cluster.nodes:
        mounts = cluster.run("cat", "/proc/mounts", node=node).stdout
        assert "squashfuse" not in mounts
        files = cluster.run("find", "/tmp", "-user", "hpc", node=node, check=False).stdout
        assert files == "", node


def test_a_service_in_a_container_on_another_node_is_counted_and_ended(user, site):
    """Its program leaves a child behind, whose container would keep the image mounted."""
    user.write("keyed.yaml", KEYED)
    run = user.submit("served.yaml", SERVED, "--wait", site=site("binds: [/opt/programs]"))
    nothing_of_services_is_left(user.cluster)
    ready = {(event["service"], event["node"]) for event in run.events("service_ready")}
    assert ready == {("web", "mel0002"), ("near", "mel0002")}
    table = run.table()
    assert table.manifest["state"] == "complete", table.manifest["reasons"]
    for phase, count in {"six": 6, "two": 2}.items():
        row = table.one("work_units_total", phase=phase, entity="web@mel0002")
        assert (row["value"], row["status"]) == (count, "exact")
    # Through the gateway in its container, which is counted as part of the cost.
    row = table.one("work_units_total", phase="six", entity="near@mel0002")
    assert (row["value"], row["status"]) == (4, "exact")
    assert table.find("monitoring_cpu_seconds_total", phase="six", entity="gateway@mel0002")
    assert "exporters" in {image["name"] for image in table.manifest["images"]}


def test_a_service_that_dies_in_its_container_ends_the_phase(user, site):
    user.write("keyed.yaml", KEYED)
    run = user.submit("dying.yaml", DYING, site=site("binds: [/opt/programs]"))
    run.wait_for_event("phase_start", timeout_s=120)
    commands = user.cluster.pids()
    assert any("service.py" in command for command in user.cluster.pids("mel0002").values())
    key = (run.folder / "secrets" / "service.key").read_text()
    assert not [command for command in commands.values() if key in command]
    run.enough()
    run.wait_for_end()
    nothing_of_services_is_left(user.cluster)
    assert "service web on mel0002 ended with status 9" in run.output
    assert "GET /metrics" in run.output, "the last lines of its log"
    assert "the next phase runs" not in run.output
    table = run.table()
    assert "phase_interrupted" in table.one("phase_seconds", phase="fatal")["reason"]
    said = [p for p in run.folder.rglob("*") if p.is_file() and "secrets" not in p.parts]
    assert not [p for p in said if key.encode() in p.read_bytes()]


def test_attached_to_an_allocation_the_stack_is_in_containers_too(user, site):
    job = user.cluster.run(
        *("sbatch", "--parsable", "--nodes=2", "--output=/dev/null"),
        stdin="#!/bin/bash\nsleep 600 & wait\n",
    ).stdout.strip()
    until(
        lambda: "RUNNING" in user.cluster.run("squeue", "--noheader", "--format=%T").stdout,
        60,
        lambda: "the job does not start",
    )
    done = user.jobmeter("attach", job, "--site", site(), "--interval", "1s")
    folder = done.stdout.partition("run ")[2].partition("\n")[0]
    run = Run(user, user.outside(folder), job, done)
    assert "7 of 7 targets up, phase run" in done.stdout
    for node, containers in {"mel0001": 3, "mel0002": 2}.items():
        commands = stack_of(user.cluster, node)
        assert len([c for c in commands if "runtime parent" in c]) == containers, commands
    assert "7 of 7 targets answered" in user.jobmeter("mark", "second").stdout
    user.jobmeter("detach", "--no-analysis")
    wait_until_nothing_is_left(user.cluster)
    table = run.table()
    assert table.manifest["state"] == "complete", table.manifest["reasons"]
    assert {image["name"] for image in table.manifest["images"]} == set(IMAGES)
    for node in ("mel0001", "mel0002"):
        row = table.one("memory_used_bytes_max", phase="second", entity=node)
        assert row["value"] > 0
    assert user.cluster.run("squeue", "--noheader", "--format=%i").stdout.strip() == job


def told_by_doctor(user, *options):
    """The findings of ``jobmeter doctor``, by host and check."""
    done = user.jobmeter("doctor", "--on-compute", "--json", *options, check=False, timeout_s=300)
    return {(f["host"], f"{f['area']}.{f['name']}"): f for f in json.loads(done.stdout)["findings"]}


def test_doctor_starts_the_images_as_a_job_does(user, site):
    told = told_by_doctor(user, "--site", site())
    assert told["login", "images.files"]["state"] == "ok"
    for host in ("login", "mel0001"):
        start = told[host, "images.start"]
        assert start["state"] == "ok", start
        assert set(start["value"].split(", ")) == set(IMAGES)
    wait_until_nothing_is_left(user.cluster)
    for node in (None, *user.cluster.nodes):
        files = user.cluster.run("find", "/tmp", "-user", "hpc", node=node, check=False)
        assert files.stdout == ""


def test_doctor_says_what_a_job_would_say(user, site):
    told = told_by_doctor(user, "--site", site("options: [--no-such-option]"))
    start = told["mel0001", "images.start"]
    assert start["state"] == "broken"
    assert "no-such-option" in start["value"]


def test_a_profile_beside_the_job_file_is_found_by_all_commands(user, site):
    """They are called from the folder of the job file."""
    site()
    text = (user.cluster.home / "contained.yaml").read_text()
    folder = user.cluster.home / "sites"
    folder.mkdir(exist_ok=True)
    (folder / "beside.yaml").write_text(text)
    try:
        listed = user.jobmeter("images", "verify", "--site", "beside")
        assert "exporters: whole" in listed.stdout
        doctor = user.jobmeter("doctor", "--site", "beside", "--json", check=False)
        assert json.loads(doctor.stdout)["site"] == "beside"
    finally:
        (folder / "beside.yaml").unlink()
        folder.rmdir()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("program: no-such-runtime", "no-such-runtime is not on PATH of this node; load its"),
        ("binds: [/nowhere]", "'/nowhere' is to be bound into its container and is not on this"),
        ("binds: ['$NOT_SET/data']", "'/data' is to be bound into its container and is not on"),
        ("options: [--no-such-option]", "cannot be started: "),
    ],
)
def test_a_stack_that_cannot_start_says_why_and_the_payload_runs(user, site, more, why):
    text = ALONE.format(required="false", resources="")
    run = user.submit("alone.yaml", text, site=site(more))
    run.wait_for_end()
    gave_up = {event["component"]: event["why"] for event in run.events("component_gave_up")}
    assert set(gave_up) == {"prometheus", "node_exporter", "exporters"}
    assert all(reason.startswith(why) for reason in gave_up.values()), gave_up
    assert "the payload ran" in run.output
    report = run.table(check=False)
    assert any(why in str(reason) for reason in report.manifest["reasons"])


def test_a_stack_that_is_required_and_cannot_start_keeps_the_payload_from_running(user, site):
    text = ALONE.format(required="true", resources="")
    run = user.submit("alone.yaml", text, site=site("binds: [/nowhere]"))
    run.wait_for_end()
    assert "the payload ran" not in run.output
    assert "monitoring is required and not ready" in run.output


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda image: image.unlink(), "its image /home/hpc/images/{name} is not on this node"),
        (
            lambda image: image.write_bytes(image.read_bytes()[:-1]),
            "its image /home/hpc/images/{name} has ",
        ),
    ],
)
def test_an_image_that_changed_after_the_submission_is_noticed(user, site, change, why):
    text = ALONE.format(required="false", resources=", extra: [--hold]")
    run = user.submit("alone.yaml", text, site=site())
    (image,) = (user.cluster.home / "images").glob("node-exporter-*.sif")
    whole = image.with_suffix(".whole")
    whole.write_bytes(image.read_bytes())
    try:
        change(image)
        user.cluster.run("scontrol", "release", run.job_id)
        run.wait_for_end()
    finally:
        whole.rename(image)
    (gave_up,) = run.events("component_gave_up")
    assert gave_up["component"] == "node_exporter"
    assert gave_up["why"].startswith(why.format(name=image.name))
    assert "the payload ran" in run.output


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda lock: lock["images"].pop("exporters"), "image 'exporters' of the stack is not"),
        (lambda lock: lock["images"]["prometheus"].update(sha256="0" * 64), "has sha256 "),
        (lambda lock: lock["images"]["prometheus"].update(architecture="aarch64"), "is built for"),
        (lambda lock: lock["images"]["exporters"].update(version="0.0.1"), "of jobmeter 0.0.1"),
    ],
)
def test_a_job_with_the_wrong_images_is_refused_before_anything_is_written(
    user, site, change, expected
):
    path = user.cluster.home / "images" / "images.lock.json"
    whole = path.read_text()
    lock = json.loads(whole)
    change(lock)
    before = sorted(user.cluster.home.glob("runs/*"))
    job = user.write("alone.yaml", ALONE.format(required="false", resources=""))
    try:
        path.write_text(json.dumps(lock))
        refused = user.jobmeter("submit", job, "--site", site(), check=False)
    finally:
        path.write_text(whole)
    assert refused.returncode == 1
    assert expected in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert sorted(user.cluster.home.glob("runs/*")) == before
