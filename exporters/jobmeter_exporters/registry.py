"""The exporters by name. Adding one is one file and one line here."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from typing import Protocol

from prometheus_client.registry import Collector

from jobmeter_exporters.families import Family
from jobmeter_exporters.settings import Settings

EXPORTERS = {
    "cgroup": "jobmeter_exporters.cgroup",
    "gateway": "jobmeter_exporters.gateway",
    "helpers": "jobmeter_exporters.helpers",
    "hl-smi": "jobmeter_exporters.hl_smi",
    "logs": "jobmeter_exporters.logs",
    "nvidia": "jobmeter_exporters.nvidia",
    "queue": "jobmeter_exporters.slurm_queue",
}
"""Their modules, which are imported when their names are asked for, and import what only they need
(a driver's library) when they are built."""


class Exporter(Protocol):
    """What the module of an exporter has. Its docstring begins with a line for ``--help``.

    A collector that is a context manager too is entered before the first scrape and left behind
    the last one: there it starts and ends what runs in the background. One that is
    ``routes.Routes`` too has pages of its own on the same port.
    """

    FAMILIES: Mapping[str, Family]

    @staticmethod
    def add_options(parser: argparse._ArgumentGroup) -> None:
        """Add the options that only this exporter has; each begins with the exporter's name."""

    @staticmethod
    def from_settings(settings: Settings) -> Collector:
        """Return the collector for this node.

        Raises:
            ExporterError: It can never work as asked for.
        """


def exporter(name: str) -> Exporter:
    """Return the module of an exporter; ``name`` is one of ``EXPORTERS``."""
    return importlib.import_module(EXPORTERS[name])  # type: ignore[return-value]
