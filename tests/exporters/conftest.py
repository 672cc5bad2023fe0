"""Small copies of /proc and /sys/fs/cgroup, as a node of each kind shows them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves helpers beside tests alone
sys.path.insert(0, str(Path(__file__).parent / "nvml"))

import nvml_node
from told_script import Script, holding

from jobmeter_exporters.settings import Settings

V2_JOB = "system.slice/n1_slurmstepd.scope/job_123"
V2_FILES = {
    "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\nnice_usec 0\n"
    "nr_periods 10\nnr_throttled 2\nthrottled_usec 1500\n",
    "cpuset.cpus.effective": "0-3,8\n",
    "memory.current": "1048576\n",
    "memory.stat": "anon 524288\nfile 262144\npgfault 9\npgmajfault 4\n",
    "memory.peak": "2097152\n",
    "memory.max": "1073741824\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n",
    "pids.current": "12\n",
    "io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n259:1 \n",
    "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1250000\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
    "io.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=2000000\n",
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "cgroup.procs": "",
}
STEP_FILES = {
    "cpu.stat": "usage_usec 1500000\nuser_usec 1500000\nsystem_usec 0\n",
    "memory.current": "131072\n",
    "memory.peak": "262144\n",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n",
}
V1_JOB = "slurm_n1/uid_1000/job_123"
V1_FILES = {
    "cpu,cpuacct": {
        "cpuacct.usage": "2500000000\n",
        "cpuacct.stat": "user 200\nsystem 50\n",
        "cpu.stat": "nr_periods 10\nnr_throttled 2\nthrottled_time 1500000\n",
        "cgroup.procs": "",
    },
    "cpuset": {"cpuset.effective_cpus": "0-3,8\n"},
    "memory": {
        "memory.usage_in_bytes": "1048576\n",
        "memory.stat": "rss 0\ntotal_cache 262144\ntotal_rss 524288\ntotal_pgmajfault 4\n",
        "memory.max_usage_in_bytes": "2097152\n",
        "memory.limit_in_bytes": "1073741824\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
    },
    "pids": {"pids.current": "12\n"},
    "blkio": {
        "blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 8192\n"
        "8:0 Sync 0\n8:0 Async 0\n8:0 Discard 0\n8:0 Total 12288\nTotal 12288\n",
        "blkio.throttle.io_serviced_recursive": "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n",
    },
}


class Node:
    """Writes the files of a node below a folder, and has the settings that point there."""

    def __init__(self, root: Path):
        self.root = root
        self.settings = Settings(
            run_id="r1",
            proc=root / "proc",
            cgroup_root=root / "cgroup",
            block_devices=root / "block",
        )

    def write(self, path, text):
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def write_process(self, pid, parent, started, counts):
        """The counts are in the order of the kernel, the last two those of storage."""
        names = ("rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes")
        lines = [f"{name}: {count}\n" for name, count in zip(names, counts, strict=True)]
        self.write(f"proc/{pid}/io", "".join(lines) + "cancelled_write_bytes: 0\n")
        fields = ["S", str(parent), *"0" * 17, str(started), *"0" * 30]
        self.write(f"proc/{pid}/stat", f"{pid} (a b) {' '.join(fields)}\n")

    def write_group(self, group, files):
        for name, text in files.items():
            self.write(f"cgroup/{group}/{name}", text)

    def remove(self, path):
        (self.root / path).unlink()

    def belongs_to(self, *lines):
        self.write("proc/self/cgroup", "".join(f"{line}\n" for line in lines))

    def mounts(self, *mounts):
        """Each is (root, mount point, file system, super options)."""
        lines = [
            f"{30 + n} 20 0:{n} {root} {point} rw,nosuid - {kind} {kind} {options}\n"
            for n, (root, point, kind, options) in enumerate(mounts)
        ]
        self.write("proc/self/mountinfo", "19 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + "".join(lines))


@pytest.fixture
def bare_node(tmp_path):
    """A node with control groups and no job."""
    node = Node(tmp_path / "node")
    node.belongs_to("0::/user.slice")
    node.mounts(("/", "/sys/fs/cgroup", "cgroup2", "rw"))
    return node


@pytest.fixture
def v2_node(bare_node):
    """Slurm up to 25.11 with v2 and all controllers; we run in step 0."""
    node = bare_node
    node.belongs_to(f"0::/{V2_JOB}/step_0/user/task_0")
    node.write_group(V2_JOB, V2_FILES)
    node.write_group(f"{V2_JOB}/step_0", {"cpu.stat": "usage_usec 250000\n"})
    node.write_group(f"{V2_JOB}/step_0", {"memory.current": "65536\n"})
    node.write_group(f"{V2_JOB}/step_batch", STEP_FILES)
    node.write_group(f"{V2_JOB}/step_1", STEP_FILES)
    node.write_group(f"{V2_JOB}/step_1/user/task_0", STEP_FILES)
    node.write_group(f"{V2_JOB}/step_1/user/task_1", {"cgroup.procs": "13\n"})
    node.write_process(10, 1, 100, (1000, 200, 30, 4, 4096, 8192))
    node.write_process(13, 1, 200, (500, 100, 10, 1, 0, 512))
    node.write_process(11, 1, 150, (7, 7, 7, 7, 7, 7))
    node.write_group(f"{V2_JOB}/step_0/user/task_0", {"cgroup.procs": "11\n12\n"})
    node.write_group(f"{V2_JOB}/step_batch/user/task_special", {"cgroup.procs": "10\n"})
    (node.root / "block").mkdir()
    (node.root / "block" / "8:0").symlink_to("../../devices/pci0000:00/block/sda")
    return node


@pytest.fixture
def v1_node(bare_node):
    """Slurm with v1: two controllers share a mount, and freezer has no group of the job."""
    node = bare_node
    step = f"/{V1_JOB}/step_0/task_0"
    node.belongs_to(
        f"9:cpu,cpuacct:{step}",
        f"8:memory:{step}",
        f"7:cpuset:/{V1_JOB}/step_0",
        "6:freezer:/",
        f"5:pids:{step}",
        f"4:blkio:/{V1_JOB}",
        "1:name=systemd:/system.slice/slurmd.service",
        "0::/system.slice/slurmd.service",
    )
    node.mounts(
        *(
            ("/", f"/sys/fs/cgroup/{name}", "cgroup", f"rw,{name}")
            for name in ("cpu,cpuacct", "memory", "cpuset", "freezer", "pids", "blkio")
        ),
        ("/", "/sys/fs/cgroup/unified", "cgroup2", "rw"),
    )
    for controllers, files in V1_FILES.items():
        node.write_group(f"{controllers}/{V1_JOB}", files)
    own = f"cpu,cpuacct/{V1_JOB}/step_0"
    node.write_group(own, {"cpuacct.usage": "250000000\n"})
    node.write_group(f"{own}/task_0", {"cgroup.procs": "11\n12\n"})
    batch = f"{V1_JOB}/step_batch"
    node.write_group(f"cpu,cpuacct/{batch}", {"cpuacct.usage": "1500000000\n"})
    node.write_group(
        f"memory/{batch}",
        {"memory.usage_in_bytes": "131072\n", "memory.max_usage_in_bytes": "262144\n"},
    )
    node.write_group(f"memory/{batch}/task_0", {"cgroup.procs": "10\n"})
    node.write_process(10, 1, 100, (1000, 200, 30, 4, 4096, 8192))
    own = f"memory/{V1_JOB}/step_0"
    node.write_group(own, {"memory.usage_in_bytes": "65536\n"})
    node.write_group(
        f"{own}/task_0", {"memory.oom_control": "oom_kill 1\n", "cgroup.procs": "11\n12\n"}
    )
    return node


@pytest.fixture
def script(tmp_path):
    """A process that does as it is told; its children live until the end if they so wish."""
    with holding(tmp_path / "hold"):
        script = Script(tmp_path / "hold")
        script.do("pass")  # it has started
        yield script
        script.end()


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The stand-in for the driver of NVIDIA, compiled once."""
    return nvml_node.build_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def node(library, tmp_path):
    """A node with four GPUs."""
    return nvml_node.Node(tmp_path / "node", library)
