"""What is judged of recorded facts: each state of each check, without the hardware."""

import re
from pathlib import Path

import pytest

from jobmeter.doctor.checks import CHECKS, findings_of
from jobmeter.doctor.facts import Facts, facts_from
from jobmeter.doctor.finding import Finding, health_of
from jobmeter.doctor.subject import Subject
from jobmeter.site import SiteProfile

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests" / "fixtures" / "doctor"
PAGE = (ROOT / "docs" / "doctor.md").read_text()


def recorded(name):
    return facts_from((RECORDED / f"{name}.jsonl").read_text(), name)


LOGIN, NODE = recorded("login"), recorded("mel0001")


def fact(name, /, **fields):
    return {"fact": name, **fields}


def changed(facts, name, *instead):
    """Facts in which all that are called ``name`` are replaced."""
    return Facts(facts.host, (*(f for f in facts.told if f["fact"] != name), *instead))


def edited(facts, name, /, where=(), **fields):
    """Facts in which fields of those called ``name`` (and with fields ``where``) are others."""
    wanted = {"fact": name, **dict(where)}.items()
    told = [{**f, **fields} if wanted <= f.items() else f for f in facts.told]
    assert told != list(facts.told), (name, fields)
    return Facts(facts.host, tuple(told))


def site(**keys):
    return SiteProfile.model_validate({"description": "x", "launcher": "slurm", **keys})


GENERIC = site()
LOCAL = site(launcher="bash")
CONTAINED = site(runtime={"kind": "apptainer"}, images={"folder": "/p/images", "cache": "/p/c"})
PYXIS = site(runtime={"kind": "pyxis"})
BOUND = site(runtime={"kind": "apptainer", "binds": ["/mnt/tier2"]})
MODULES = site(prologue=["module load Apptainer"])


def on_node(facts=NODE, profile=GENERIC, nodes=2, gpus=0):
    return Subject(facts, profile, "node", nodes, gpus)


def on_login(facts=LOGIN, profile=GENERIC, nodes_told=False):
    return Subject(facts, profile, "login", nodes_told=nodes_told)


def added(facts, *more):
    return facts.with_facts(more)


APPTAINER = added(
    NODE,
    fact("runtime", path="/usr/bin/apptainer", text="apptainer version 1.4.5", suid=""),
    fact("user_namespaces", status="0", text="", most="96365"),
    fact("fuse", there="yes", usable="yes"),
)
NO_APPTAINER = edited(APPTAINER, "runtime", path="", text="")
APPTAINER_LOGIN = added(LOGIN, *(f for f in NO_APPTAINER.told if f not in NODE.told))
SHARED = edited(LOGIN, "folder", {"role": "runs"}, kind="lustre")
GPU = fact(
    "gpu", index="0", name="NVIDIA A100-SXM4-40GB", driver="570.86.15", persistence="Enabled"
)
GPUS = added(
    edited(NODE, "nvidia", devices="1", smi="/usr/bin/nvidia-smi"),
    GPU,
    fact("gpu_capability", text="8.0"),
    fact("nvidia_profiling", admin_only="0"),
    fact("exporter", name="nvidia", problem="", families="40", devices="1", sources=""),
)
GAUDIS = added(
    edited(NODE, "gaudi", devices="8", module="yes"),
    fact("exporter", name="hl-smi", problem="", families="9", devices="8", sources="hl-smi"),
)
HERE = {"path": "/usr/bin/prometheus"}
CHRONY = "Reference ID : 0A000001 Stratum : 3 Leap status : {}"
MIB = 2**20
NO_CLUSTER = (
    "sacct: error: fetch_config: DNS SRV lookup failed "
    "sacct: fatal: Could not establish a configuration source"
)

CASES = [
    # check, state, what is to be in the words, subject
    ("site.probe", "ok", "", on_node()),
    ("site.probe", "broken", "--runs", on_node(Facts("mel0009", ()))),
    ("site.probe", "unknown", "not come to its end", on_node(changed(NODE, "end"))),
    ("site.architecture", "ok", "x86_64", on_node()),
    ("site.architecture", "broken", "aarch64", on_node(profile=site(architecture="aarch64"))),
    ("site.prologue", "not_applicable", "", on_node()),
    ("site.prologue", "unknown", "--on-compute", on_node(profile=MODULES)),
    (
        "site.prologue",
        "ok",
        "module load",
        on_node(
            added(NODE, fact("prologue", line="module load Apptainer", status="0", text="")),
            MODULES,
        ),
    ),
    (
        "site.prologue",
        "broken",
        "cannot be loaded as requested",
        on_node(
            added(
                NODE,
                fact(
                    "prologue",
                    line="module load Apptainer",
                    status="1",
                    text="These module(s) exist but cannot be loaded as requested",
                ),
            ),
            MODULES,
        ),
    ),
    ("slurm.commands", "ok", "sbatch", on_login()),
    ("slurm.commands", "not_applicable", "", Subject(NODE, LOCAL)),
    (
        "slurm.commands",
        "broken",
        "srun",
        on_login(edited(LOGIN, "slurm_command", {"name": "srun"}, path="")),
    ),
    (
        "slurm.commands",
        "degraded",
        "sacctmgr",
        on_login(edited(LOGIN, "slurm_command", {"name": "sacctmgr"}, path="")),
    ),
    ("slurm.version", "ok", "22.05.8", on_login()),
    ("slurm.version", "degraded", "21.08", on_login(edited(LOGIN, "slurm_version", text="21.08"))),
    ("slurm.version", "unknown", "?", on_login(edited(LOGIN, "slurm_version", text="?"))),
    ("slurm.version", "unknown", "said nothing", on_login(changed(LOGIN, "slurm_version"))),
    ("slurm.version", "not_applicable", "", Subject(NODE, LOCAL)),
    ("slurm.controller", "ok", "UP", on_login()),
    (
        "slurm.controller",
        "broken",
        "DOWN",
        on_login(edited(LOGIN, "slurm_ping", text="Slurmctld(primary) at login is DOWN")),
    ),
    (
        "slurm.controller",
        "broken",
        "log in to a machine of the cluster",
        on_login(edited(LOGIN, "slurm_ping", text=NO_CLUSTER)),
    ),
    ("slurm.controller", "not_applicable", "", Subject(NODE, LOCAL)),
    ("slurm.accounting", "ok", "", on_login()),
    (
        "slurm.accounting",
        "degraded",
        "no accounting database",
        on_login(
            edited(LOGIN, "slurm_sacct", status="1", text="Slurm accounting storage is disabled")
        ),
    ),
    (
        "slurm.accounting",
        "degraded",
        "no answer in time",
        on_login(edited(LOGIN, "slurm_sacct", status="124")),
    ),
    ("slurm.accounting", "unknown", "", on_login(changed(LOGIN, "slurm_sacct"))),
    (
        "slurm.accounting",
        "unknown",
        "failed: Could not establish",
        on_login(edited(LOGIN, "slurm_sacct", status="1", text=NO_CLUSTER)),
    ),
    ("slurm.accounting", "not_applicable", "", Subject(NODE, LOCAL)),
    ("slurm.pyslurm", "not_applicable", "sacct", on_login()),
    ("slurm.pyslurm", "ok", "22.5.3", on_login(edited(LOGIN, "pyslurm", text="version 22.5.3"))),
    (
        "slurm.pyslurm",
        "degraded",
        "23.2.2 for Slurm 22.5.8",
        on_login(edited(LOGIN, "pyslurm", text="version 23.2.2")),
    ),
    (
        "slurm.pyslurm",
        "degraded",
        "cannot be imported",
        on_login(edited(LOGIN, "pyslurm", status="1", text="unable to stat slurm.conf")),
    ),
    ("slurm.pyslurm", "unknown", "", on_login(changed(LOGIN, "pyslurm"))),
    ("clock.controller", "ok", "same time", on_login()),
    (
        "clock.controller",
        "degraded",
        "ahead",
        on_login(edited(LOGIN, "slurm_clock", text="data as of 1795401910")),
    ),
    (
        "clock.controller",
        "broken",
        "behind",
        on_login(edited(LOGIN, "slurm_clock", text="data as of 1795401000")),
    ),
    ("clock.controller", "unknown", "", on_login(edited(LOGIN, "slurm_clock", text="as of now"))),
    ("clock.controller", "not_applicable", "", Subject(NODE, LOCAL)),
    ("clock.files", "not_applicable", "ext2", on_login()),
    ("clock.files", "ok", "same time", on_login(SHARED)),
    (
        "clock.files",
        "ok",
        "230 ms",
        on_login(edited(SHARED, "file_clock", file_ms="1795401900961")),
    ),
    (
        "clock.files",
        "degraded",
        "2.0 s behind",
        on_login(edited(SHARED, "file_clock", file_ms="1795401898710")),
    ),
    ("clock.files", "unknown", "", on_login(edited(SHARED, "file_clock", file_ms="-"))),
    ("clock.files", "broken", "", on_login(edited(SHARED, "file_clock", file_ms="1795400000000"))),
    ("clock.kept", "not_applicable", "", on_login()),
    (
        "clock.kept",
        "ok",
        "chrony",
        on_login(
            added(LOGIN, fact("clock_discipline", program="chronyc", text=CHRONY.format("Normal")))
        ),
    ),
    (
        "clock.kept",
        "degraded",
        "not synchronised",
        on_login(
            added(
                LOGIN,
                fact(
                    "clock_discipline",
                    program="chronyc",
                    text=CHRONY.format("Not synchronised"),
                ),
            )
        ),
    ),
    (
        "clock.kept",
        "ok",
        "timedatectl",
        on_login(
            added(
                LOGIN,
                fact("clock_discipline", program="timedatectl", text="NTPSynchronized=yes"),
            )
        ),
    ),
    ("runtime.program", "not_applicable", "", on_node()),
    ("runtime.program", "ok", "1.4.5", on_node(APPTAINER, CONTAINED)),
    (
        "runtime.program",
        "ok",
        "process group",
        on_node(edited(APPTAINER, "runtime", text="apptainer version 1.3.6-1"), CONTAINED),
    ),
    (
        "runtime.program",
        "ok",
        "setuid by default",
        on_node(edited(APPTAINER, "runtime", text="apptainer version 1.0.3"), CONTAINED),
    ),
    (
        "runtime.program",
        "unknown",
        "does not tell its version",
        on_node(edited(APPTAINER, "runtime", text="x"), CONTAINED),
    ),
    ("runtime.program", "broken", "prologue", on_node(NO_APPTAINER, CONTAINED)),
    ("runtime.program", "unknown", "--on-compute", on_login(APPTAINER_LOGIN, CONTAINED)),
    (
        "runtime.program",
        "not_applicable",
        "need not have it",
        on_login(APPTAINER_LOGIN, CONTAINED, nodes_told=True),
    ),
    ("runtime.program", "broken", "--container-image", on_node(NO_APPTAINER, PYXIS)),
    ("runtime.program", "ok", "--container-image", on_node(APPTAINER, PYXIS)),
    ("runtime.isolation", "not_applicable", "", on_node()),
    ("runtime.isolation", "ok", "FUSE", on_node(APPTAINER, CONTAINED)),
    (
        "runtime.isolation",
        "ok",
        "setuid",
        on_node(edited(APPTAINER, "runtime", suid="/usr/libexec/starter-suid"), CONTAINED),
    ),
    (
        "runtime.isolation",
        "degraded",
        "/dev/fuse",
        on_node(edited(APPTAINER, "fuse", usable=""), CONTAINED),
    ),
    (
        "runtime.isolation",
        "broken",
        "Operation not permitted",
        on_node(
            edited(APPTAINER, "user_namespaces", status="1", text="Operation not permitted"),
            CONTAINED,
        ),
    ),
    (
        "runtime.isolation",
        "unknown",
        "unshare",
        on_node(edited(APPTAINER, "user_namespaces", status="127"), CONTAINED),
    ),
    ("runtime.binds", "not_applicable", "", on_node()),
    (
        "runtime.binds",
        "ok",
        "/mnt/tier2",
        on_node(added(APPTAINER, fact("bind", source="/mnt/tier2", there="yes")), BOUND),
    ),
    (
        "runtime.binds",
        "broken",
        "missing: /mnt/tier2",
        on_node(added(APPTAINER, fact("bind", source="/mnt/tier2", there="")), BOUND),
    ),
    (
        "runtime.binds",
        "unknown",
        "/mnt/tier2",
        on_login(added(APPTAINER_LOGIN, fact("bind", source="/mnt/tier2", there="")), BOUND),
    ),
    ("images.files", "not_applicable", "", on_node()),
    (
        "images.files",
        "ok",
        "prometheus 3.5.3",
        on_login(
            added(
                LOGIN,
                fact("images", problem=""),
                fact("image", name="prometheus", version="3.5.3", file="/p/x.sif", problem=""),
            ),
            CONTAINED,
        ),
    ),
    (
        "images.files",
        "broken",
        "no lock file",
        on_login(added(LOGIN, fact("images", problem="no lock file")), CONTAINED),
    ),
    (
        "images.files",
        "broken",
        "inherits",
        on_login(added(LOGIN, fact("images", problem="no images.folder")), BOUND),
    ),
    (
        "images.files",
        "broken",
        "wrong digest",
        on_login(
            added(
                LOGIN,
                fact("images", problem=""),
                fact("image", name="p", version="1", file="/p/x.sif", problem="wrong digest"),
            ),
            CONTAINED,
        ),
    ),
    (
        "images.files",
        "ok",
        "1 files",
        on_node(added(APPTAINER, fact("image_file", name="p", file="/p", readable="yes")), BOUND),
    ),
    (
        "images.files",
        "broken",
        "compute nodes see",
        on_node(added(APPTAINER, fact("image_file", name="p", file="/p", readable="")), BOUND),
    ),
    ("images.start", "not_applicable", "", on_node()),
    (
        "images.start",
        "ok",
        "prometheus",
        on_node(added(APPTAINER, fact("image_start", name="prometheus", status="0", text="usage"))),
    ),
    (
        "images.start",
        "broken",
        "prometheus: FATAL: no such bind",
        on_node(
            added(
                APPTAINER,
                fact("image_start", name="exporters", status="0", text="usage"),
                fact(
                    "image_start",
                    name="prometheus",
                    status="255",
                    text="INFO: x FATAL: no such bind",
                ),
            )
        ),
    ),
    (
        "images.start",
        "broken",
        "no answer in time",
        on_node(added(APPTAINER, fact("image_start", name="exporters", status="124", text=""))),
    ),
    (
        "images.start",
        "unknown",
        "--on-compute",
        on_login(added(LOGIN, fact("image_start", name="p", status="missing", text="no bind"))),
    ),
    (
        "images.start",
        "broken",
        "p: '/mnt' is to be bound",
        on_node(
            added(
                APPTAINER,
                fact("image_start", name="p", status="missing", text="'/mnt' is to be bound"),
            )
        ),
    ),
    ("images.folders", "not_applicable", "", on_login()),
    (
        "images.folders",
        "ok",
        "/p/c",
        on_login(
            added(
                LOGIN,
                fact("folder", role="images", path="/p/images"),
                fact("folder", role="cache", path="/p/c"),
            ),
            CONTAINED,
        ),
    ),
    (
        "images.folders",
        "degraded",
        "cache (not set, so below /home/hpc)",
        on_login(added(LOGIN, fact("folder", role="images", path="/home/hpc/i")), CONTAINED),
    ),
    ("programs.bash", "ok", "5.2.15", on_node()),
    ("programs.bash", "broken", "4.4", on_node(edited(NODE, "bash", version="4.2.46(2)"))),
    ("programs.bash", "unknown", "'?'", on_node(edited(NODE, "bash", version="?"))),
    ("programs.curl", "ok", "7.88.1", on_node()),
    ("programs.curl", "broken", "prologue", on_node(edited(NODE, "curl", path=""))),
    (
        "programs.curl",
        "broken",
        "option --x",
        on_node(edited(NODE, "curl_options", status="2", text="curl: option --x: is unknown")),
    ),
    ("programs.commands", "ok", "GNU coreutils 9.1", on_node()),
    (
        "programs.commands",
        "broken",
        "flock",
        on_node(edited(NODE, "command", {"name": "flock"}, path="")),
    ),
    (
        "programs.commands",
        "broken",
        "BusyBox",
        on_node(edited(NODE, "coreutils", text="BusyBox v1.36")),
    ),
    ("programs.python", "ok", "3.11.2", on_node()),
    (
        "programs.python",
        "degraded",
        "is not here",
        on_node(edited(NODE, "python", status="missing")),
    ),
    (
        "programs.python",
        "degraded",
        "No module named",
        on_node(edited(NODE, "python", status="1", text="No module named jobmeter_exporters")),
    ),
    ("programs.prometheus", "ok", "2.42.0", on_node()),
    ("programs.prometheus", "not_applicable", "image", on_node(profile=CONTAINED)),
    (
        "programs.prometheus",
        "broken",
        "programs.prometheus",
        on_node(edited(NODE, "stack_program", {"name": "prometheus"}, path="")),
    ),
    (
        "programs.prometheus",
        "broken",
        "2.42 or newer",
        on_node(edited(NODE, "stack_program", HERE, text="prometheus, version 2.15.2+ds")),
    ),
    (
        "programs.prometheus",
        "unknown",
        "does not tell its version",
        on_node(edited(NODE, "stack_program", HERE, text="?")),
    ),
    ("programs.node_exporter", "ok", "1.5.0", on_node()),
    ("programs.node_exporter", "not_applicable", "image", on_node(profile=CONTAINED)),
    (
        "programs.node_exporter",
        "broken",
        "nothing of the node",
        on_node(edited(NODE, "stack_program", {"name": "node_exporter"}, path="")),
    ),
    ("programs.dcgm_exporter", "not_applicable", "NVML", on_node()),
    (
        "programs.dcgm_exporter",
        "ok",
        "/opt/dcgm-exporter",
        on_node(
            edited(NODE, "stack_program", {"name": "dcgm_exporter"}, path="/opt/dcgm-exporter")
        ),
    ),
    ("files.runs", "ok", "57.5 GiB free", on_node()),
    (
        "files.runs",
        "broken",
        "may not be written",
        on_node(edited(NODE, "folder", {"role": "runs"}, writable="")),
    ),
    (
        "files.runs",
        "broken",
        "/home/hpc/runs is a file",
        on_node(edited(NODE, "folder", {"role": "runs"}, blocked="/home/hpc/runs")),
    ),
    (
        "files.runs",
        "broken",
        "little space",
        on_node(edited(NODE, "folder", {"role": "runs"}, free_bytes=str(100 * MIB))),
    ),
    (
        "files.runs",
        "broken",
        "no more files",
        on_node(edited(NODE, "folder", {"role": "runs"}, free_files="0")),
    ),
    (
        "files.runs",
        "degraded",
        "chmod go-w",
        on_node(edited(NODE, "folder", {"role": "runs"}, mode="2775")),
    ),
    ("files.runs", "ok", "", on_node(edited(NODE, "folder", {"role": "runs"}, mode="1777"))),
    (
        "files.runs",
        "unknown",
        "does not tell",
        on_node(edited(NODE, "folder", {"role": "runs"}, free_bytes="")),
    ),
    ("files.home", "ok", "/home/hpc", on_node()),
    (
        "files.home",
        "degraded",
        "over a limit",
        on_node(added(NODE, fact("quota", status="1", text="Disk quotas: /home 10G*"))),
    ),
    (
        "files.home",
        "degraded",
        "1 MiB free",
        on_node(edited(NODE, "folder", {"role": "home"}, free_bytes=str(MIB))),
    ),
    (
        "files.home",
        "unknown",
        "",
        on_node(edited(NODE, "folder", {"role": "home"}, free_bytes="")),
    ),
    ("files.umask", "ok", "0022", on_login()),
    ("files.umask", "degraded", "everybody", on_login(edited(LOGIN, "host", umask="0000"))),
    ("scratch.folder", "ok", "$TMPDIR = /tmp: tmpfs", on_node()),
    (
        "scratch.folder",
        "broken",
        "lustre is no file system of the node alone",
        on_node(edited(NODE, "scratch", {"there": "yes"}, kind="lustre")),
    ),
    (
        "scratch.folder",
        "broken",
        "1 MiB free of 256 MiB needed",
        on_node(edited(NODE, "scratch", {"there": "yes"}, free_bytes=str(MIB))),
    ),
    ("scratch.folder", "unknown", "", on_node(changed(NODE, "scratch"))),
    ("scratch.private_tmp", "not_applicable", "shared by all", on_node()),
    (
        "scratch.private_tmp",
        "ok",
        "/var/jobs/12",
        on_node(changed(NODE, "tmp_mount", fact("tmp_mount", root="/var/jobs/12"))),
    ),
    ("network.ports", "ok", "12000 of 12000 free", on_node()),
    ("network.ports", "degraded", "widen", on_node(edited(NODE, "ports", taken="7000"))),
    ("network.ports", "broken", "choose other", on_node(edited(NODE, "ports", taken="12000"))),
    (
        "network.ports",
        "degraded",
        "choose 'ports' outside of 1024-65535",
        on_node(edited(NODE, "ports", ephemeral_first="1024", ephemeral_last="65535")),
    ),
    ("network.ports", "unknown", "", on_node(edited(NODE, "ports", taken=""))),
    ("network.listeners", "not_applicable", "nobody", on_node()),
    (
        "network.listeners",
        "ok",
        "9100 node_exporter, 9400 dcgm-exporter",
        on_node(
            added(
                NODE,
                fact("listener", port="9100", kind="node_exporter"),
                fact("listener", port="9400", kind="dcgm-exporter"),
            )
        ),
    ),
    (
        "network.listeners",
        "ok",
        "9090 something that asks for a password",
        on_node(added(NODE, fact("listener", port="9090", kind="password"))),
    ),
    ("network.names", "ok", "mel0002 10.77.0.102", on_node()),
    ("network.names", "not_applicable", "--nodes 2", on_node(nodes=1)),
    (
        "network.names",
        "broken",
        "address_suffix",
        on_node(edited(NODE, "resolves", {"name": "mel0002"}, addresses="127.0.1.1")),
    ),
    ("network.names", "unknown", "", on_node(changed(NODE, "resolves"))),
    ("network.fabric", "not_applicable", "", on_node()),
    (
        "network.fabric",
        "ok",
        "ib0 10.1.0.1",
        on_node(
            added(
                NODE,
                fact("interface", name="ib0", state="up", addresses="10.1.0.1"),
                fact(
                    "infiniband",
                    port="mlx5_0/ports/1",
                    state="4: ACTIVE",
                    rate="200 Gb/sec (4X HDR)",
                ),
            )
        ),
    ),
    (
        "network.fabric",
        "degraded",
        "no link is active",
        on_node(
            added(
                NODE, fact("infiniband", port="mlx5_0/ports/1", state="1: DOWN", rate="10 Gb/sec")
            )
        ),
    ),
    ("network.proxies", "not_applicable", "", on_node()),
    (
        "network.proxies",
        "degraded",
        "no_proxy lacks 127.0.0.1, mel0001",
        on_node(
            edited(
                added(NODE, fact("proxy", name="http_proxy", value="http://proxy:3128")),
                "no_proxy",
                value="localhost",
            )
        ),
    ),
    (
        "network.proxies",
        "ok",
        "proxy:3128",
        on_node(
            edited(
                added(NODE, fact("proxy", name="http_proxy", value="http://proxy:3128")),
                "no_proxy",
                value="localhost,127.0.0.1,mel0001",
            )
        ),
    ),
    ("machine.cgroup", "ok", "cgroup v1: cgroup_v1", on_node()),
    ("machine.cgroup", "not_applicable", "", on_node(edited(NODE, "host", job=""))),
    (
        "machine.cgroup",
        "degraded",
        "proctrack/cgroup",
        on_node(edited(NODE, "exporter", sources="process_tree")),
    ),
    (
        "machine.cgroup",
        "ok",
        "cgroup v2",
        on_node(
            edited(
                changed(NODE, "exporter"),
                "cgroup",
                kind="cgroup2fs",
                path="0::/system.slice/slurmstepd.scope/job_12/step_0/user/task_0",
            )
        ),
    ),
    ("machine.cgroup", "unknown", "", on_node(changed(NODE, "cgroup"))),
    ("machine.rapl", "not_applicable", "", on_node()),
    (
        "machine.rapl",
        "ok",
        "1 counters",
        on_node(added(NODE, fact("rapl", path="/a", readable="yes"))),
    ),
    (
        "machine.rapl",
        "degraded",
        "1 of 1 counters",
        on_node(added(NODE, fact("rapl", path="/a", readable=""))),
    ),
    ("devices.nvidia", "not_applicable", "", on_node()),
    ("devices.nvidia", "ok", "1 x NVIDIA A100-SXM4-40GB, driver 570", on_node(GPUS, gpus=1)),
    ("devices.nvidia", "broken", "4 per node were asked for", on_node(gpus=4)),
    ("devices.nvidia", "broken", "and 4 were asked for", on_node(GPUS, gpus=4)),
    (
        "devices.nvidia",
        "broken",
        "Driver/library version mismatch",
        on_node(
            added(GPUS, fact("nvidia_smi", status="18", text="Driver/library version mismatch"))
        ),
    ),
    ("devices.nvidia", "degraded", "no nvidia-smi", on_node(changed(GPUS, "gpu"))),
    ("devices.nvml", "not_applicable", "", on_node()),
    ("devices.nvml", "ok", "1 GPUs, 40 families", on_node(GPUS)),
    (
        "devices.nvml",
        "degraded",
        "NVML:",
        on_node(edited(GPUS, "exporter", {"name": "nvidia"}, problem="NVML: not found")),
    ),
    ("devices.nvml", "unknown", "Python", on_node(changed(GPUS, "exporter"))),
    ("devices.profiling", "not_applicable", "", on_node()),
    ("devices.profiling", "ok", "RmProfilingAdminOnly: 0", on_node(GPUS)),
    (
        "devices.profiling",
        "degraded",
        "NVreg_RestrictProfilingToAdminUsers=0",
        on_node(edited(GPUS, "nvidia_profiling", admin_only="1")),
    ),
    (
        "devices.profiling",
        "ok",
        "GPM",
        on_node(
            edited(edited(GPUS, "nvidia_profiling", admin_only="1"), "gpu_capability", text="9.0")
        ),
    ),
    ("devices.profiling", "unknown", "", on_node(changed(GPUS, "nvidia_profiling"))),
    ("devices.persistence", "not_applicable", "", on_node()),
    ("devices.persistence", "ok", "on", on_node(GPUS)),
    (
        "devices.persistence",
        "degraded",
        "off on GPU 0",
        on_node(edited(GPUS, "gpu", persistence="Disabled")),
    ),
    ("devices.persistence", "unknown", "", on_node(changed(GPUS, "gpu"))),
    ("devices.gaudi", "not_applicable", "", on_node()),
    ("devices.gaudi", "ok", "8 Gaudis", on_node(GAUDIS)),
    (
        "devices.gaudi",
        "degraded",
        "hl-smi",
        on_node(edited(GAUDIS, "exporter", {"name": "hl-smi"}, problem="hl-smi hangs")),
    ),
    ("devices.gaudi", "unknown", "Python", on_node(changed(GAUDIS, "exporter"))),
    ("devices.gaudi", "broken", "8 per node", on_node(profile=site(vendor="gaudi"), gpus=8)),
    ("devices.amd", "not_applicable", "", on_node()),
    ("devices.amd", "degraded", "no exporter", on_node(edited(NODE, "amd", there="yes"))),
]


def finding_of(check, subject):
    (found,) = (f for f in findings_of(subject) if f.check == check)
    return found


@pytest.mark.parametrize(
    ("check", "state", "words", "subject"),
    CASES,
    ids=[f"{case[0]}-{case[1]}-{number}" for number, case in enumerate(CASES)],
)
def test_each_state_of_each_check(check, state, words, subject):
    found = finding_of(check, subject)
    assert found.state == state, found
    assert words in f"{found.value}; {found.meaning}; {found.advice}"
    if state in ("broken", "degraded"):
        assert found.meaning, found
        assert found.advice, found
    assert found.value, found


def test_every_check_has_cases():
    assert {case[0] for case in CASES} == {f"{check.area}.{check.name}" for check in CHECKS}


def documented_states():
    """What the page says: the states that each check can have."""
    rows = re.findall(r"^\| `(\w+\.\w+)` \|(.*)\|$", PAGE, re.M)
    names = ("ok", "degraded", "broken", "unknown", "not_applicable")
    said = {}
    for check, cells in rows:
        assert check not in said, f"{check} is documented twice"
        columns = [cell.strip() for cell in cells.split("|")]
        assert len(columns) == len(names), check
        said[check] = {state for state, cell in zip(names, columns, strict=True) if cell}
    return said


def test_every_check_and_its_states_are_documented():
    judged = {}
    for check, state, _, _ in CASES:
        judged.setdefault(check, set()).add(state)
    assert documented_states() == judged


def test_every_check_without_facts_is_unknown_or_silent():
    """A probe that told nothing must not look like a machine that has nothing."""
    for subject in (on_node(Facts("n", (fact("end"),))), on_login(Facts("n", (fact("end"),)))):
        for found in findings_of(subject):
            assert found.check == "site.probe" or found.state in ("unknown", "not_applicable")
    silent = [
        found.check
        for found in findings_of(on_node(Facts("n", (fact("end"),))))
        if found.state == "not_applicable"
    ]
    # What the profile alone decides, and the clock, which nothing need keep.
    assert silent == [
        "site.prologue",
        "clock.kept",
        "runtime.program",
        "runtime.isolation",
        "runtime.binds",
        "images.files",
        "images.start",
    ]


def test_a_machine_that_told_nothing_gets_one_finding():
    (found,) = findings_of(on_node(Facts("mel0009", ())))
    assert (found.check, found.state) == ("site.probe", "broken")


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["ok", "not_applicable"], "healthy"),
        (["ok", "unknown"], "degraded"),
        (["ok", "degraded"], "degraded"),
        (["degraded", "broken"], "unhealthy"),
        ([], "unhealthy"),
    ],
)
def test_health(states, expected):
    findings = [Finding("h", "a", "n", state, "", "", "") for state in states]
    assert health_of(findings) == expected
