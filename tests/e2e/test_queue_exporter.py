"""The exporter of the queue against the real squeue, sinfo and slurmctld."""

import time

import pytest
from installation import INSIDE
from testbed import Cluster

pytestmark = pytest.mark.cluster

DEADLINE_S = 60.0


class Exporter:
    """The exporter as the user starts it on the login host, and its scrapes there."""

    def __init__(self, cluster, port_file, *options):
        self.cluster = cluster
        outside = cluster.home / port_file
        outside.unlink(missing_ok=True)
        self.process = cluster.popen(
            INSIDE / "bin" / "jobmeter",
            *("exporter", "queue", "--run-id", "r1", "--port-file", f"/home/hpc/{port_file}"),
            *options,
        )
        until(outside.exists, "no port file")
        self.port = outside.read_text().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def samples(self):
        """Scrape, and return the values by series."""
        text = self.cluster.run("curl", "-sf", f"http://127.0.0.1:{self.port}/metrics").stdout
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {series: float(value) for series, _, value in lines}

    def when(self, condition):
        """Scrape until the samples fulfil ``condition``, and return them."""
        found = {}

        def holds():
            found.clear()
            found.update(self.samples())
            return condition(found)

        until(holds, found)
        return found


def until(condition, complaint):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.05)


def submit(cluster, *options, user="hpc"):
    cluster.run("sbatch", *options, "--wrap=sleep 300", user=user)


def count(cluster, state):
    found = cluster.run("squeue", "-h", "-r", "-o", "%T", user="root").stdout.split()
    return found.count(state)


@pytest.mark.parametrize("source", ["json", "text"])
def test_the_queue_as_the_user_sees_it(user, source):
    cluster = user.cluster
    submit(cluster, "-N1", "--array=1-20%2", "--job-name=odd|name\x1f x")
    submit(cluster, "-N1", "--begin=now+1hour")
    submit(cluster, "-N1", "--partition=gpu", "--nodelist=mel0003", user="other")
    until(lambda: count(cluster, "RUNNING") == 3, "three jobs do not run")
    cluster.run("scontrol", "update", "node=mel0003", "state=drain", "reason=test", user="root")
    try:
        with Exporter(cluster, f"port-{source}", "--queue-source", source) as exporter:
            found = exporter.when(lambda samples: 'queue_jobs{state="RUNNING"}' in samples)
    finally:
        cluster.run("scontrol", "update", "node=mel0003", "state=resume", user="root")
        cluster.run("scancel", "--user=other", user="root")
    cpus = int(cluster.run("sinfo", "-h", "-p", "gpu", "-n", "mel0001", "-o", "%c").stdout)
    expected = {
        f'queue_source_info{{jobs="{source}",nodes="{source}"}}': 1,
        'queue_jobs{state="RUNNING"}': 3,
        'queue_jobs{state="PENDING"}': 19,
        'queue_own_jobs{state="RUNNING"}': 2,
        'queue_own_jobs{state="PENDING"}': 19,
        'queue_own_pending_jobs{reason="JobArrayTaskLimit"}': 18,
        'queue_own_pending_jobs{reason="BeginTime"}': 1,
        'queue_nodes{state="draining"}': 1,
        'queue_partition_nodes{partition="gpu",use="allocated"}': 2,
        'queue_partition_nodes{partition="gpu",use="idle"}': 1,
        'queue_partition_cpus{partition="gpu",use="allocated"}': 3,
        'queue_partition_cpus{partition="gpu",use="idle"}': 2 * cpus - 2,
        'queue_partition_cpus{partition="gpu",use="other"}': cpus - 1,
        'jobmeter_collector_success{collector="queue"}': 1,
    }
    assert expected.items() <= found.items(), {
        series: found.get(series) for series in expected if found.get(series) != expected[series]
    }
    assert 0 <= found["queue_own_oldest_pending_seconds"] < DEADLINE_S
    assert 0 <= found["queue_own_oldest_running_seconds"] < DEADLINE_S


def test_a_controller_that_is_down(cluster_settings):
    """Of a cluster of its own: a controller that was shut down does not come back."""
    with Cluster.start(nodes=1, **cluster_settings, cgroups=False) as cluster:
        cluster.run("scontrol", "shutdown", "slurmctld", user="root")
        until(lambda: cluster.run("scontrol", "ping", check=False).returncode, "it is up")
        failed = 'jobmeter_collector_success{collector="queue"}'
        with Exporter(cluster, "port") as exporter:
            found = exporter.when(lambda samples: samples[failed] == 0)
            assert not [series for series in found if series.startswith("queue_")]
            exporter.samples()
            exporter.process.terminate()
            _, complaints = exporter.process.communicate(timeout=DEADLINE_S)
    said = [line for line in complaints.splitlines() if "is the controller up?" in line]
    assert len(said) == 1
