"""What was found, for a person at a terminal, for a pipe, and for a machine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobmeter import __version__
from jobmeter.doctor.checks import by_check
from jobmeter.doctor.facts import Facts
from jobmeter.doctor.finding import Finding, Health, State, health_of

SCHEMA_VERSION = 1
ADVICE_LINES = 3
STYLES: dict[State, str] = {
    "ok": "green",
    "degraded": "yellow",
    "broken": "bold red",
    "unknown": "magenta",
    "not_applicable": "dim",
}
WORST_FIRST: tuple[State, ...] = ("broken", "degraded", "unknown")
NODE_NAMES = 3
"""More machines than these are counted, not named."""


@dataclass(frozen=True)
class Report:
    """All findings.

    Args:
        site: As given.
        description: Of the site.
        findings: Of every machine, in the order of the table.
        facts: What they rest on, by machine.
        login: Whether this machine only submits and compute nodes were not asked.
    """

    site: str
    description: str
    findings: tuple[Finding, ...]
    facts: tuple[Facts, ...]
    login: bool

    @property
    def health(self) -> Health:
        """Of all machines together."""
        return health_of(self.findings)


@dataclass(frozen=True)
class Row:
    """Equal findings of one or more machines; of all that were asked where none is named."""

    check: str
    hosts: tuple[str, ...]
    state: State
    value: str
    meaning: str
    advice: str


def rows_of(findings: Sequence[Finding]) -> Iterator[Row]:
    """Yield the findings in the order of the table, those of several machines put together.

    What is fine is put together even where its values differ.
    """
    for check, found in by_check(findings).items():
        groups: dict[tuple[str, ...], list[Finding]] = {}
        for f in found:
            fine = f.state in ("ok", "not_applicable")
            words = (f.meaning,) if fine else (f.value, f.meaning, f.advice)
            groups.setdefault((f.state, *words), []).append(f)
        alone = len(groups) == 1
        for group in groups.values():
            first = group[0]
            same = len({f.value for f in group}) == 1
            yield Row(
                check=check,
                hosts=() if alone else tuple(f.host for f in group),
                state=first.state,
                value=first.value if same else f"{first.value} ({first.host}; others differ)",
                meaning=first.meaning,
                advice=first.advice,
            )


def named(hosts: Sequence[str]) -> str:
    """Return what to call these machines.

    >>> named(("n1", "n2")), named(()), named(tuple("abcdef"))
    ('n1, n2', '', '6 machines')
    """
    return ", ".join(hosts) if len(hosts) <= NODE_NAMES else f"{len(hosts)} machines"


def print_report(report: Report, console: Console | None = None) -> None:
    """Print a table that folds at the terminal's width, or plain lines into a pipe."""
    console = console or Console()
    if console.is_terminal:
        console.print(_table(report))
        absent = [row.check for row in rows_of(report.findings) if row.state == "not_applicable"]
        if absent:
            console.print(Text(f"not applicable: {', '.join(dict.fromkeys(absent))}"))
        for line in summary(report):
            console.print(Text(line))
        return
    for line in (*plain_lines(report), *summary(report)):
        console.print(Text(line), soft_wrap=True)


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows_of(report.findings):
        if row.state == "not_applicable":
            continue
        where = named(row.hosts)
        lines = Text(f"{where}: {row.value}" if where else row.value)
        if row.meaning:
            lines.append(f"\n{row.meaning}", style="dim")
        if row.advice:
            lines.append(f"\n-> {row.advice}")
        table.add_row(Text(row.state, style=STYLES[row.state]), row.check, lines)
    return table


def plain_lines(report: Report) -> Iterator[str]:
    """Yield one line for each row: state, check, machines, words."""
    for row in rows_of(report.findings):
        where = named(row.hosts)
        words = "; ".join(part for part in (row.value, row.meaning) if part)
        advice = f" -> {row.advice}" if row.advice else ""
        yield f"{row.state:<14} {row.check:<23} {f'{where}: ' if where else ''}{words}{advice}"


def summary(report: Report) -> Iterator[str]:
    """Yield what it comes to, and what to do first."""
    rows = list(rows_of(report.findings))
    counts = Counter(row.state for row in rows)
    parts = [f"{counts[state]} {state}" for state in (*WORST_FIRST, "ok") if counts[state]]
    machines = ", ".join(facts.host for facts in report.facts[: NODE_NAMES + 1])
    more = len(report.facts) - NODE_NAMES - 1
    yield (
        f"{report.health}: site {report.site} ({report.description}), {machines}"
        f"{f' and {more} more' if more > 0 else ''}: {', '.join(parts)}"
    )
    if report.login:
        yield "compute nodes were not asked; --on-compute does, with a job of one minute"
    order = sorted(
        (row for row in rows if row.advice and row.state in WORST_FIRST),
        key=lambda row: WORST_FIRST.index(row.state),
    )
    for row in order[:ADVICE_LINES]:
        yield f"{'first' if row is order[0] else 'then'}: {row.advice} ({row.check})"


def as_json(report: Report) -> str:
    """Return everything for a machine, the facts included."""
    whole = {
        "schema_version": SCHEMA_VERSION,
        "jobmeter_version": __version__,
        "site": report.site,
        "health": report.health,
        "compute_nodes_asked": not report.login,
        "findings": [asdict(finding) for finding in report.findings],
        "facts": {facts.host: facts.told for facts in report.facts},
    }
    return json.dumps(whole, indent=2) + "\n"
