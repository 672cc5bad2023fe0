"""Policy for all tests: a skip names what is missing, and where nothing may be missing it fails.

How many worlds the arithmetic is tried in: ``JOBMETER_TRUTH_EXAMPLES`` (tests/analysis/truth.py).
"""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "truth",
    max_examples=int(os.environ.get("JOBMETER_TRUTH_EXAMPLES", "300")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)

# A shell lets its background ignore Ctrl-C, and so would everything that tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

IMAGES_ARE_BUILT_FOR = ("tests/e2e/test_apptainer.py", "tests/e2e/test_images.py")
NO_SKIPS = os.environ.get("JOBMETER_NO_SKIPS") == "1"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Where tests share the processors, a file stays together, and those of one set of images."""
    from xdist.scheduler import LoadFileScheduling

    class ByFixtures(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return IMAGES_ARE_BUILT_FOR[0] if file in IMAGES_ARE_BUILT_FOR else file

    return ByFixtures(config, log)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped where nothing may: {report.longrepr}"


@pytest.fixture
def check_golden(request):
    """Return a function that holds a text against a file in ``golden`` beside the test.

    UPDATE_GOLDEN=1 rewrites the file, and the test fails nevertheless.
    """

    def check(name, text):
        golden = request.path.parent / "golden" / name
        if os.environ.get("UPDATE_GOLDEN"):
            golden.write_text(text)
            pytest.fail(f"wrote {name}; read the diff, then run again without UPDATE_GOLDEN")
        assert text == golden.read_text()

    return check
