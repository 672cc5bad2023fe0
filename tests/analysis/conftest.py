"""Fixtures of the analysis: attempt folders with a known truth."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves helpers beside tests alone

import attempts


@pytest.fixture
def build(tmp_path):
    """Return a builder of one attempt folder; arguments are those of ``AttemptBuilder``."""

    def builder(**changes):
        return attempts.AttemptBuilder(tmp_path / "runs", **changes)

    return builder


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A training job of two nodes and one phase of a minute, with nothing missing."""
    return attempts.trained(tmp_path_factory.mktemp("trained"))
