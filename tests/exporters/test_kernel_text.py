import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmeter_exporters import cgroup_path, cgroup_v1, cgroup_v2, kernel_text, process_text
from jobmeter_exporters.errors import UnexpectedText

PARSERS = [
    kernel_text.number,
    kernel_text.keyed_numbers,
    kernel_text.cpu_count,
    cgroup_path.parse_membership,
    cgroup_path.parse_mounts,
    cgroup_v1.parse_oom_kills,
    process_text.parse_stat,
    process_text.parse_io,
    process_text.parse_statm,
    process_text.parse_shares,
    process_text.parse_allowed_cpus,
    *(file.parse for file in (*cgroup_v1.JOB, *cgroup_v1.STEP, *cgroup_v1.MONITORING)),
    *(file.parse for file in (*cgroup_v2.JOB, *cgroup_v2.STEP, *cgroup_v2.MONITORING)),
]

# Arbitrary text, and text made of the words that the parsers look for.
WORDS = st.sampled_from(
    [
        *("0", "1", "-1", "²", "1٣", "9" * 44, "max", "some", "total=", "total=1", "Read", "Write"),
        *("8:0", "rbytes=1", "wbytes=1", "rbytes=", ":", "-", ",", "0-3", "3-0", ")", "(", "/"),
        *("Pss:", "Pss_Anon:", "0::/", "\\777", "cgroup", "cgroup2", "usage_usec", "user", "anon"),
        *(
            "oom_kill",
            "oom",
            "total_rss",
            "Cpus_allowed_list:",
            "full",
            "rios=2",
            "rchar:",
            "rchar: 1",
        ),
    ]
)
LINES = st.lists(st.lists(WORDS, max_size=26).map(" ".join), max_size=6).map("\n".join)


@given(st.sampled_from(PARSERS), st.text() | LINES)
def test_any_text_is_parsed_or_refused(parse, text):
    with contextlib.suppress(UnexpectedText):
        parse(text)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 9)), min_size=1))
def test_cpu_count_adds_up_the_ranges(ranges):
    text = ",".join(f"{low}-{low + more}" if more else str(low) for low, more in ranges)
    assert kernel_text.cpu_count(text + "\n") == sum(more + 1 for _, more in ranges)


@pytest.mark.parametrize("text", ["", "3-1", "1-", "a", "0,,1", "1-2-3"])
def test_no_list_of_cpus(text):
    with pytest.raises(UnexpectedText):
        kernel_text.cpu_count(text)


def test_a_file_that_cannot_be_read_is_none(tmp_path):
    assert kernel_text.read(tmp_path / "absent") is None
    assert kernel_text.read(tmp_path) is None


def test_pressure_without_a_some_line_is_refused():
    with pytest.raises(UnexpectedText, match="some"):
        cgroup_v2.pressure("cpu")("full avg10=0.00 total=1\n")


@given(st.text(st.characters(blacklist_categories=("Cs",)), max_size=15))
def test_stat_survives_any_name_of_a_command(command):
    numbers = " ".join(str(n) for n in range(100, 150))
    stat = process_text.parse_stat(f"7 ({command}) S 3 {numbers}\n")
    # Field n of proc_pid_stat(5), counted from 1, is 100 + n - 5.
    assert stat == process_text.Stat(
        pid=7,
        parent=3,
        started=117,
        user=109 + 111,
        system=110 + 112,
        threads=115,
        faults=105 + 107,
        resident_pages=119,
    )
