"""On files of the real kernel, and on small ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobmeter_exporters import kernel_text, open_files
from jobmeter_exporters.open_files import OpenFiles


@pytest.fixture
def files():
    files = OpenFiles(most=3)
    yield files
    files.close()


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_every_read_has_the_text_of_now(files, tmp_path):
    path = tmp_path / "usage"
    path.write_text("1\n")
    assert files.read(str(path)) == "1\n"
    path.write_text("22\n")
    assert files.read(str(path)) == "22\n"


def test_a_file_of_the_kernel_that_went_and_came_back(files):
    """As the groups of a step: the descriptor of the first is of no use for the second."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    path = f"/proc/{process.pid}/stat"
    assert files.read(path).startswith(f"{process.pid} (")
    process.communicate(b"\n")
    assert files.read(path) is None
    assert files.read(path) is None


def test_what_is_absent_or_refuses_is_none(files, tmp_path):
    assert files.read(str(tmp_path / "absent")) is None
    assert files.read(str(tmp_path)) is None


def test_no_more_stay_open_than_asked_for_and_what_is_not_read_any_more_is_closed(files, tmp_path):
    paths = [tmp_path / str(number) for number in range(5)]
    for path in paths:
        path.write_text(f"{path.name}\n")
    before = descriptors()
    for _ in range(2):
        assert [files.read(str(path)) for path in paths] == ["0\n", "1\n", "2\n", "3\n", "4\n"]
        files.close_unread()
        assert descriptors() == before + 3
    files.read(str(paths[4]))
    files.read(str(paths[1]))
    files.close_unread()
    assert descriptors() == before + 1
    files.close()
    assert descriptors() == before


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 4096, 65535, 65536, 65537, 200_000])
def test_a_text_of_any_length_is_whole(files, tmp_path, size):
    path = tmp_path / "long"
    path.write_text("x" * size)
    assert len(files.read(str(path))) == size


def test_a_list_that_the_kernel_gives_page_by_page(files, script):
    """Such as the processes of a group with a thousand of them: read in one call, it is cut."""
    path = f"/proc/{script.pid}/maps"
    whole = kernel_text.read(path)
    handle = os.open(path, os.O_RDONLY)
    try:
        assert len(os.pread(handle, open_files.PART_BYTES, 0)) < len(whole)
    finally:
        os.close(handle)
    assert files.read(path) == whole
