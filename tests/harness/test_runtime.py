"""What stands before a program so that it runs in its container."""

import pytest

from jobmeter import strict
from jobmeter.errors import SiteError
from jobmeter.runtime import RuntimeProfile


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind: docker", "'docker' is not known here; write 'native', 'apptainer'"),
        ("bind: [/a]", "unknown key 'bind'; did you mean 'binds'"),
        ("binds: [data]", "binds[0]: 'data' is not a bind; write 'source'"),
        ("binds: ['/a:b']", "binds[0]: '/a:b' is not a bind"),
        ("binds: ['/a:/b:rx']", "binds[0]: '/a:/b:rx' is not a bind"),
        # Apptainer would read two binds.
        ("binds: ['/a,/b']", "binds[0]: '/a,/b' is not a bind"),
        ("environment: ['HF_TOKEN=x']", "environment[0]: 'HF_TOKEN=x' is not the name"),
    ],
)
def test_a_wrong_runtime_gets_an_answer(text, expected):
    with pytest.raises(SiteError) as error:
        strict.parse(RuntimeProfile, text, "site.yaml", SiteError)
    assert expected in str(error.value)


def test_what_a_bind_may_be():
    binds = ["/project", "/a b:/c d", "$SCRATCH/x:/x:ro", "/:/host:ro"]
    assert RuntimeProfile(kind="apptainer", binds=binds).binds == binds
