"""A program of its own: what our exporters see on this machine, one fact a line.

It is run in a process of its own because a driver's library may hang or end the process. It asks
the exporters by the way a scrape does, so that what it says is what a job will record.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack

from prometheus_client.core import Metric

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.registry import exporter
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.watched import NoData

_OF_DEVICES = ("UUID", "uuid")
_DURATIONS = {"hl_smi_interval": 5.0, "hl_smi_timeout": 10.0}


def families_of(name: str) -> tuple[list[Metric], str]:
    """Return what the exporter ``name`` has to say, and what keeps it from saying more."""
    families: list[Metric] = []
    try:
        with ExitStack() as background:
            settings = Settings(
                "doctor", required=True, job_pid=os.getppid(), options=dict(_DURATIONS)
            )
            collector = exporter(name).from_settings(settings)
            if isinstance(collector, AbstractContextManager):
                background.enter_context(collector)
            for family in collector.collect():
                families.append(family)
    except (ExporterError, NoData) as problem:
        return families, str(problem)
    return families, "" if families else "it has nothing to report here"


def fact_of(name: str, families: Iterable[Metric], problem: str) -> dict[str, str]:
    """Return the fact about one exporter, all values text."""
    samples = [(family.name, sample) for family in families for sample in family.samples]
    devices = {s.labels[key] for _, s in samples for key in _OF_DEVICES if s.labels.get(key)}
    sources = sorted({s.labels["source"] for n, s in samples if n.endswith("_source_info")})
    return {
        "fact": "exporter",
        "name": name,
        "problem": problem,
        "families": str(len({name for name, _ in samples})),
        "devices": str(len(devices)),
        "sources": " ".join(sources),
    }


def main(names: Sequence[str]) -> None:
    """Print what the exporters of these names see."""
    for name in names:
        sys.stdout.write(f"{json.dumps(fact_of(name, *families_of(name)))}\n")
        sys.stdout.flush()
