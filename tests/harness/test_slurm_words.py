"""The words in which Slurm prints states, sizes, times and exit codes, and their exceptions."""

import pytest

from jobmeter.slurm_words import (
    bytes_from,
    epoch_from,
    exit_from,
    seconds_from,
    state_from,
    tres_from,
)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("CANCELLED by 1000", "CANCELLED"),
        ("CANCELLED+", "CANCELLED"),
        ("OUT_OF_MEMORY", "OUT_OF_MEMORY"),
        ("FROZEN_IN_2031", "FROZEN_IN_2031"),
        ("", "UNKNOWN"),
    ],
)
def test_a_word_we_do_not_know_is_a_value(word, state):
    assert state_from(word) == state


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("12504K", 12504 * 1024),
        ("771.29M", int(771.29 * 1024**2)),
        ("1.50G", 3 * 2**29),
        ("2T", 2 * 2**40),
        ("4000Mc", 4000 * 2**20),
        ("64Gn", 64 * 2**30),
        ("389120", 389120),
        ("0", 0),
        ("", None),
        ("16?", None),
        ("18446744073709551614", None),
    ],
)
def test_sizes(text, size):
    assert bytes_from(text) == size


@pytest.mark.parametrize("text", ["Unknown", "None", "", "N/A", "0", "noon"])
def test_a_time_that_is_none(text):
    assert epoch_from(text) is None


@pytest.mark.parametrize("text", ["UNLIMITED", "Partition_Limit", "INVALID", "", "5"])
def test_a_duration_that_is_none(text):
    assert seconds_from(text) is None


@pytest.mark.parametrize(
    ("text", "state", "expected"),
    [
        ("0:0", "COMPLETED", (0, None)),
        ("7:0", "FAILED", (7, None)),
        ("0:9", "FAILED", (137, 9)),
        ("0:125", "OUT_OF_MEMORY", (253, 125)),
        ("0:0", "TIMEOUT", (None, None)),
        ("0:0", "CANCELLED", (None, None)),
        ("", "COMPLETED", (None, None)),
        ("None:0", "COMPLETED", (None, None)),
    ],
)
def test_exit_codes(text, state, expected):
    assert exit_from(text, state) == expected


def test_resources_keep_what_is_readable():
    text = "billing=32,cpu=32,gres/gpu:a100=1,mem=128G,energy=18446744073709551614,license/x=?,,"
    assert tres_from(text) == {"billing": 32, "cpu": 32, "gres/gpu:a100": 1, "mem": 128 * 2**30}
    assert tres_from("(null)") == {}
