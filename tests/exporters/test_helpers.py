"""On real processes that do as they are told."""

import os
from pathlib import Path

import pytest
from waiting import until

from jobmeter_exporters.helpers import Helpers
from jobmeter_exporters.watched import NoData

PROC = Path("/proc")
AS_PROMETHEUS = "open('/proc/self/comm', 'w').write('prometheus'); burn(0.3); wait_for_end()"


def readings(helpers):
    return {sample.name: sample.value for family in helpers.collect() for sample in family.samples}


def cpu(helpers):
    return readings(helpers)["monitoring_helpers_cpu_seconds_total"]


def cpu_of(pid):
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_what_is_below_a_root_counts_with_it(script):
    helpers = Helpers([script.pid], [], PROC)
    alone = readings(helpers)
    script.do("fork('burn(0.3); fork(\"wait_for_end()\"); wait_for_end()')")
    until(lambda: cpu(helpers) >= alone["monitoring_helpers_cpu_seconds_total"] + 0.28)
    until(lambda: readings(helpers)["monitoring_helpers_processes"] == 3)
    memory = "monitoring_helpers_memory_bytes"
    assert readings(helpers)[memory] > alone[memory]


def test_a_program_that_tells_of_itself_does_not_count_nor_does_its_time_when_it_ended(script):
    helpers = Helpers([script.pid], ["prometheus"], PROC)
    before = cpu(helpers)
    pid = script.do(f'out = fork("{AS_PROMETHEUS}")')
    until(lambda: cpu_of(pid) >= 0.28)
    assert readings(helpers)["monitoring_helpers_processes"] == 1
    script.do(f"os.kill({pid}, 9); os.waitpid({pid}, 0)")
    assert cpu(helpers) - before < 0.2


def test_the_exporter_itself_does_not_count(script):
    helpers = Helpers([script.pid], [], PROC, own=script.do("out = fork('wait_for_end()')"))
    assert readings(helpers)["monitoring_helpers_processes"] == 1


def test_without_a_root_there_is_nothing_to_report(script):
    script.end()
    with pytest.raises(NoData, match="no --exclude-pid lives"):
        readings(Helpers([script.pid], [], PROC))
