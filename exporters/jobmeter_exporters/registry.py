"""The exporters by name. Adding one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.registry import Collector

from jobmeter_exporters import cgroup
from jobmeter_exporters.settings import Settings

EXPORTERS: dict[str, Callable[[Settings], Collector]] = {
    "cgroup": cgroup.from_settings,
}
