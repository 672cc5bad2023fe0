"""Writes ``docs/exporters.md``: ``python -m jobmeter_exporters.page > docs/exporters.md``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

from jobmeter_exporters.families import Family, kind_of, unit_of
from jobmeter_exporters.registry import EXPORTERS, exporter

HEAD = """\
<!-- Written by python -m jobmeter_exporters.page; change the exporters instead. -->

# Exporters

    jobmeter exporter NAME... --run-id ID [--listen HOST:PORT] [--password-file F]

Our exporters of a node share one process and one port: `/metrics` has everything, `/metrics/NAME`
one of them. They listen on loopback with a free port unless told otherwise, and elsewhere only with
a password (`--password-file`, HTTP basic auth). `--help` has every option; `--required` ends with 3
when one of them has nothing to report. The process ends in order on SIGTERM.

Beside the families below, each path has `jobmeter_run_info{run_id}`, by which a stranger on the
same port is noticed, `jobmeter_collector_success{collector}` and
`jobmeter_collector_duration_seconds{collector}`; `/metrics` also has the `process_*` families of
the exporter process itself. What cannot be read is absent, never 0.
"""


def page() -> str:
    """Return the page."""
    return "\n".join([HEAD, *(line for name in EXPORTERS for line in _section(name))])


def _section(name: str) -> Iterator[str]:
    module = exporter(name)
    yield f"## {name}"
    yield ""
    yield inspect.cleandoc(getattr(module, "__doc__", "")).replace("``", "`")
    yield ""
    yield "| metric | type | unit | labels | what | from |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for metric, family in module.FAMILIES.items():
        yield _row(metric, family)
    yield ""


def _row(name: str, family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    cells = (f"`{name}`", kind_of(name, family), unit_of(name, family), labels)
    return f"| {' | '.join((*cells, family.documentation, family.source))} |"


if __name__ == "__main__":
    sys.stdout.write(page())
