"""Intel Gaudi devices (HPU) of this node.

Read in the background every ``--hl-smi-interval``, through HLML where the library and
``habana-pyhlml`` are there, else by ``hl-smi``; ``--hl-smi-source`` asks for one of them. A scrape
never waits for it. When there is no answer the success is 0, and the last numbers stay until they
are four intervals old, or twice as old as the time limit of ``hl-smi`` if that is longer. What a
device, a driver or an old ``hl-smi`` does not say is left out. A device that was there and is gone
has no series any more, and the collector's success is 0 from then on.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from jobmeter_exporters import hl_smi_text, hlml
from jobmeter_exporters.errors import CommandError, ExporterError
from jobmeter_exporters.families import Family, Readings, to_metrics
from jobmeter_exporters.hl_smi_text import FIELDS, Hpu
from jobmeter_exporters.polled import LONGEST_DEATH_S, Command, Polled, at_least
from jobmeter_exporters.settings import Settings
from jobmeter_exporters.watched import NoData

INTERVAL_S = 5.0
TIMEOUT_S = 10.0
OLD_AFTER_INTERVALS = 4
LARGEST_LOGS_BYTES = 2**20
"""Of the files that ``hl-smi`` logs into, in our folder."""

_DEVICE = ("index", "uuid", "bus_id", "module_id", "name")

FAMILIES: dict[str, Family] = {
    "hpu_source_info": Family(
        "Where the hpu_ families of this node come from.", ("source",), source="which of the two"
    ),
    "hpu_data_age_seconds": Family(
        "Time since the reading began that the other hpu_ families are from.",
        source="the clock of the exporter",
    ),
    "hpu_utilization_percent": Family(
        "Share of the last second in which the device was busy.",
        _DEVICE,
        source="`utilization.aip`; HLML UtilizationRates",
    ),
    "hpu_memory_used_bytes": Family(
        "Device memory in use.", _DEVICE, source="`memory.used`; HLML MemoryInfo"
    ),
    "hpu_memory_total_bytes": Family(
        "Device memory.", _DEVICE, source="`memory.total`; HLML MemoryInfo"
    ),
    "hpu_temperature_celsius": Family(
        "Temperature of the chip.", _DEVICE, source="`temperature.aip`; HLML Temperature"
    ),
    "hpu_board_temperature_celsius": Family(
        "Temperature of the board.", _DEVICE, source="HLML Temperature"
    ),
    "hpu_power_watts": Family(
        "Power draw of the device.", _DEVICE, source="`power.draw`; HLML PowerUsage"
    ),
    "hpu_energy_joules_total": Family(
        "Energy since the driver was loaded.", _DEVICE, source="HLML TotalEnergyConsumption"
    ),
    "hpu_clock_hertz": Family(
        "Clock of the chip.", _DEVICE, source="`clocks.current.soc`; HLML ClockInfo"
    ),
    "hpu_clock_max_hertz": Family(
        "Highest clock that the chip may have.",
        _DEVICE,
        source="`clocks.max.soc`; HLML MaxClockInfo",
    ),
    "hpu_ecc_errors_total": Family(
        "Errors of memory since the driver was loaded, corrected or uncorrected.",
        (*_DEVICE, "severity"),
        source="`ecc.errors.*.volatile.total`; HLML TotalECCErrors",
    ),
    "hpu_pcie_replays_total": Family(
        "Transfers over PCIe that had to be repeated.", _DEVICE, source="HLML PCIEReplayCounter"
    ),
}


class Source(Protocol):
    """A way to read the devices."""

    source: str

    def read(self) -> list[Hpu]:
        """Return the devices that answer.

        Raises:
            ExporterError: None can be read this way.
        """

    def close(self) -> None:
        """Release what it holds."""


def add_options(parser: argparse._ArgumentGroup) -> None:
    """Add how and how often to read."""
    add = parser.add_argument
    add(
        "--hl-smi-interval",
        type=at_least(1.0),
        default=INTERVAL_S,
        metavar="DURATION",
        help="from one reading to the next (default: 5s)",
    )
    add(
        "--hl-smi-timeout",
        type=at_least(1.0),
        default=TIMEOUT_S,
        metavar="DURATION",
        help="after which a hanging hl-smi is killed (default: 10s)",
    )
    add(
        "--hl-smi-source",
        choices=("auto", "hl-smi", "hlml"),
        default="auto",
        help="default: auto, which takes HLML where it is installed",
    )


def from_settings(settings: Settings) -> Collector:
    """Return the collector for this node."""
    timeout_s: float = settings.options.get("hl_smi_timeout", TIMEOUT_S)
    return Hpus(
        _sources(settings.options.get("hl_smi_source", "auto"), timeout_s),
        interval_s=settings.options.get("hl_smi_interval", INTERVAL_S),
        timeout_s=timeout_s,
        wait_for_first=settings.required,
    )


def _sources(wanted: str, timeout_s: float) -> list[Source]:
    sources: list[Source] = []
    if wanted != "hl-smi":
        try:
            sources.append(hlml.Hlml(hlml.load()))
        except ExporterError as problem:
            if wanted == "hlml":
                sources.append(NotInstalled(str(problem)))
    if wanted != "hlml":
        sources.append(HlSmi(timeout_s))
    return sources


class NotInstalled:
    """A way to read the devices that was asked for and is not there.

    Args:
        problem: What is not.
    """

    source = "none"

    def __init__(self, problem: str) -> None:
        self._problem = problem

    def read(self) -> list[Hpu]:
        """Say so.

        Raises:
            ExporterError: Always.
        """
        raise ExporterError(self._problem)

    def close(self) -> None:
        """Do nothing."""


class HlSmi:
    """Reads the devices by ``hl-smi``.

    Args:
        timeout_s: After which it is killed.
    """

    source = "hl-smi"

    def __init__(self, timeout_s: float) -> None:
        self.command = Command(timeout_s)
        self._fields: Sequence[str] = ()
        self._logs: tempfile.TemporaryDirectory[str] | None = None

    def read(self) -> list[Hpu]:
        """Return the devices, with as many fields as this ``hl-smi`` knows.

        Raises:
            ExporterError: It cannot be started, fails, hangs, or prints what nobody can read.
        """
        if self._fields:
            return self._ask(self._fields)
        fields: Sequence[str] = tuple(FIELDS)
        first: CommandError | None = None
        while True:
            try:
                devices = self._ask(fields)
            except Refused as refused:
                first = first or refused
                fields = hl_smi_text.fewer(fields, str(refused))
                if not fields:
                    raise first from None
            else:
                # Once some have been answered, a failure is not about the fields any more.
                self._fields = fields if devices else ()
                return devices

    def close(self) -> None:
        """Remove its logs."""
        if self._logs is not None:
            self._logs.cleanup()

    def _ask(self, fields: Sequence[str]) -> list[Hpu]:
        try:
            done = self.command.run(hl_smi_text.command(fields), self._environment())
        finally:
            self._bound_logs()
        if done.status != 0:
            raise Refused(
                f"hl-smi ended with {done.status} and says {done.complaint!r}; run hl-smi by hand"
            )
        try:
            return hl_smi_text.parse(done.stdout, fields)
        except CommandError as problem:
            raise Refused(str(problem)) from problem

    def _environment(self) -> Mapping[str, str]:
        """Return where it may write its logs: by default where only root may."""
        if "HABANA_LOGS" in os.environ:
            return {}
        if self._logs is None:
            self._logs = tempfile.TemporaryDirectory(prefix="hl-smi-", ignore_cleanup_errors=True)
        return {"HABANA_LOGS": self._logs.name}

    def _bound_logs(self) -> None:
        """Remove its logs when they are large: the folder may be memory of the node."""
        if self._logs is None:
            return
        sizes: dict[Path, int] = {}
        for path in Path(self._logs.name).rglob("*"):
            with suppress(OSError):  # it may turn its logs over
                sizes[path] = path.lstat().st_size if not path.is_dir() else 0
        if sum(sizes.values()) > LARGEST_LOGS_BYTES:
            for path in sizes:
                with suppress(OSError):  # folders stay
                    path.unlink()


class Refused(CommandError):  # noqa: N818 - reads as what happened
    """It ended with an error or an answer to something else; with fewer fields it may not."""


class Hpus(Collector):
    """The devices of this node, read in the background from enter to exit.

    Args:
        sources: Ways to read, the best first; the first that answers is kept.
        interval_s: Seconds from one reading to the next.
        timeout_s: The longest that one may take.
        wait_for_first: Whether to enter only when the first reading has ended.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        interval_s: float,
        timeout_s: float,
        wait_for_first: bool = False,
    ) -> None:
        self._all = tuple(sources)
        self._sources = list(sources)
        self._known: dict[str, Hpu] = {}
        self._most = 0
        self._first_within_s = timeout_s + 2 * LONGEST_DEATH_S if wait_for_first else 0.0
        self._polled = Polled(
            "hl-smi" if len(sources) == 1 and sources[0].source == "hl-smi" else "the Gaudi driver",
            self._read,
            interval_s,
            longest_age_s=max(OLD_AFTER_INTERVALS * interval_s, 2 * timeout_s),
            cancel=self._cancel,
        )

    def __enter__(self) -> Hpus:
        self._polled.start(self._first_within_s)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._polled.stop():
            for source in self._all:
                source.close()

    def collect(self) -> Iterator[Metric]:
        """Yield what was read last, unless it is too old.

        Raises:
            NoData: There is no device, or no answer yet.
            ExporterError: They cannot be read, or one is gone.
        """
        reading, problem = self._polled.latest()
        if reading is not None:
            source, devices = reading.value
            readings = _readings(devices)
            readings["hpu_source_info"] = {source: 1.0}
            readings["hpu_data_age_seconds"] = reading.age_s
            yield from to_metrics(readings, FAMILIES)
            problem = problem or self._missing(devices)
        if problem is not None:
            raise problem

    def _read(self) -> tuple[str, list[Hpu]]:
        problems: list[str] = []
        for source in self._sources:
            try:
                devices = source.read()
            except ExporterError as problem:
                problems.append(str(problem))
                continue
            if not devices and not self._most:
                raise NoData(f"{source.source} lists no device")
            self._sources = [source]
            self._most = max(self._most, len(devices))
            self._known.update((device.uuid, device) for device in devices if device.uuid)
            return source.source, devices
        raise ExporterError("; ".join(problems))

    def _missing(self, devices: Sequence[Hpu]) -> ExporterError | None:
        if len(devices) >= self._most:
            return None
        gone = self._known.keys() - {device.uuid for device in devices}
        names = "".join(f", not {self._known[uuid].index} ({uuid})" for uuid in sorted(gone))
        return ExporterError(
            f"{len(devices)} of {self._most} devices answer{names}; see dmesg on this node"
        )

    def _cancel(self) -> None:
        for source in self._all:
            if isinstance(source, HlSmi):
                source.command.cancel()


def _readings(devices: Sequence[Hpu]) -> Readings:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for device in devices:
        for (family, labels), value in device.values.items():
            found.setdefault(family, {})[device.labels + labels] = value
    return {**found}
