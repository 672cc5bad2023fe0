"""From the result files of a phase to its clients' numbers; nothing here raises for a bad file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobmeter.events import read_events
from jobmeter.paths import AttemptPaths
from jobmeter_analysis.clients import aiperf, guidellm, inference_perf, vllm_bench
from jobmeter_analysis.clients.numbers import ClientResults, unit_of

FORMATS: tuple[tuple[Callable[[object], bool], Callable[[Any], ClientResults]], ...] = (
    (vllm_bench.recognises, vllm_bench.parse),
    (aiperf.recognises, aiperf.parse),
    (guidellm.recognises, guidellm.parse),
    (inference_perf.recognises, inference_perf.parse),
    (inference_perf.recognises_requests, inference_perf.parse_requests),
)
"""How to know a file, and how to read it."""

TOOLS = (vllm_bench.TOOL, aiperf.TOOL, guidellm.TOOL, inference_perf.TOOL)

_NOT_JSON = "not JSON, or cut short: the client may have been stopped while it wrote"
_OF_NO_CLIENT = f"not a result of a known client ({', '.join(TOOLS)})"


@dataclass(frozen=True)
class ClientNumber:
    """One number that a client of a phase measured.

    Args:
        kpi: Name, that of the server's number of the same definition where there is one.
        unit: Base unit.
        value: In this unit, finite.
        definition: What exactly it is a number of.
        tool: Name of the client, with its version where the file says it.
        file: Path below the attempt folder.
        entity: ``client``, or ``client <file name>`` when the phase has several.
    """

    kpi: str
    unit: str
    value: float
    definition: str
    tool: str
    file: str
    entity: str


def read_client_results(path: Path) -> ClientResults:
    """Return what a result file holds; what it cannot be used for is in its problems."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        return _nothing(f"cannot be read: {cause.strerror}")
    except (ValueError, RecursionError):
        return _nothing(_NOT_JSON)
    for recognises, parse in FORMATS:
        if recognises(data):
            found = parse(data)
            if found.numbers or found.problems:
                return found
            return _nothing(f"looks like a result of {found.tool}, but no number in it is known")
    return _nothing(_OF_NO_CLIENT)


def _nothing(problem: str) -> ClientResults:
    return ClientResults("", None, {}, (problem,))


def client_rows(attempt: AttemptPaths, phase: str) -> tuple[list[ClientNumber], list[str]]:
    """Return the numbers of a phase's clients, and what could not be used, in words.

    A phase without result files has neither, and what its command writes for its own purposes, in
    whatever format, is as whole as it is.
    """
    rows: list[ClientNumber] = []
    problems = _missing(attempt, phase)
    folder = attempt.phase_results(phase)
    paths = sorted(p for p in folder.glob("*") if p.is_file() and not p.name.startswith("."))
    results = {path: read_client_results(path) for path in paths}
    results = {path: found for path, found in results.items() if not _of_another(path, found)}
    several = sum(bool(found.numbers) for found in results.values()) > 1
    for path, found in results.items():
        file = str(path.relative_to(attempt.attempt))
        problems += [f"{file}: {problem}" for problem in found.problems]
        tool = f"{found.tool} {found.version}" if found.version else found.tool
        entity = f"client {path.name}" if several else "client"
        rows += [
            ClientNumber(kpi, unit_of(kpi), number.value, number.definition, tool, file, entity)
            for kpi, number in found.numbers.items()
        ]
    return rows, problems


def _of_another(path: Path, found: ClientResults) -> bool:
    """Return whether a file is of no client that is known here, and not the rest of one's."""
    not_json = found.problems == (_NOT_JSON,) and path.suffix != ".json"
    return not_json or found.problems == (_OF_NO_CLIENT,)


def _missing(attempt: AttemptPaths, phase: str) -> list[str]:
    """What the phase named and the job could not keep."""
    return [
        f"phase {phase} names the result file {event.fields.get('file')}: {event.fields.get('why')}"
        for event in read_events(attempt.events).named("results_missing")
        if event.fields.get("phase") == phase
    ]
