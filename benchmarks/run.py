"""Run the measurements that README.md describes and print them as Markdown."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from tables import progress

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- begin of the last output -->\n", "<!-- end of the last output -->\n"
HEADING = "### "
SHORTEST_S = 30
PARTS = ("startup", "cost", "exporters", "analysis")
PACKAGES = ("httpx", "numpy", "pandas", "pypdu")
PROGRAMS = ("prometheus", "promtool", "prometheus-node-exporter", "slurmctld")


def main() -> None:
    """Measure what was asked for."""
    parser = _parser()
    given = parser.parse_args()
    if given.seconds < SHORTEST_S:
        parser.error(f"--seconds: at least {SHORTEST_S}, of which the first 20 are the start")
    # The ends of all "with" blocks remove what was started, also when this is terminated.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parts = given.parts
    circumstances = _circumstances()
    measured: dict[str, str] = {}
    if {"startup", "cost"} & set(parts):
        measured |= _on_the_cluster(given, parts)
    if "exporters" in parts:
        import exporters_cost

        measured["Cost of each exporter"] = exporters_cost.measure(given.scrapes, given.idle)
    if "analysis" in parts:
        import analysis_throughput

        measured["Throughput of the analysis"] = analysis_throughput.measure(
            given.nodes, given.cpus, given.hours, given.repeats, alone=given.alone
        )
    sections = {title: f"{circumstances}\n{text}" for title, text in measured.items()}
    print(_joined(sections))
    if given.write:
        _write(sections)


def _on_the_cluster(given: argparse.Namespace, parts: tuple[str, ...]) -> dict[str, str]:
    import monitoring_cost
    import startup
    from installed_cluster import user_of_three_nodes

    measured = {}
    with user_of_three_nodes() as user:
        if "startup" in parts:
            measured["Start and end of a job"] = startup.measure(user, given.jobs)
        if "cost" in parts:
            measured["Cost of the monitoring"] = monitoring_cost.measure(
                user, tuple(given.intervals), given.seconds
            )
    return measured


def _circumstances() -> str:
    now = datetime.datetime.now(datetime.timezone.utc)
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    load = os.getloadavg()[0]
    return (
        f"{now:%Y-%m-%d}, {os.cpu_count()} cores of {_processor()}, Linux {platform.release()}, "
        f"load {load:.1f} before the first measurement. jobmeter {_commit()}, "
        f"Python {platform.python_version()}, {packages}; "
        f"{', '.join(filter(None, map(_program_version, PROGRAMS)))}.\n"
    )


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty=, with changes"]
    done = subprocess.run(command, cwd=README.parent, capture_output=True, text=True)
    return done.stdout.strip() or str(version("jobmeter"))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _program_version(name: str) -> str:
    """Return name and version; the program may be named otherwise or be absent."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if path is None:
        return ""
    option = "-V" if name == "slurmctld" else "--version"
    done = subprocess.run([path, option], capture_output=True, text=True)
    words = (done.stdout or done.stderr).split("\n")[0].split()
    number = next((word for word in words if word[0].isdigit()), "of unknown version")
    return f"{'Slurm' if name == 'slurmctld' else name} {number}"


def _write(sections: Mapping[str, str]) -> None:
    """Put what was measured now in the place of what was before; other sections stay."""
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    last, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{_joined(_sections(last) | sections)}\n{END}{after}")
    progress(f"written into {README}")


def _sections(text: str) -> dict[str, str]:
    parts = (part.partition("\n") for part in text.split(HEADING)[1:])
    return {title: body.strip("\n") + "\n" for title, _, body in parts}


def _joined(sections: Mapping[str, str]) -> str:
    return "\n".join(f"{HEADING}{title}\n\n{text}" for title, text in sections.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--only", dest="parts", nargs="+", choices=PARTS, default=PARTS, help="which parts")
    add(
        "--write",
        action="store_true",
        help="put the result into README.md, in the place of that of the same parts",
    )
    add("--jobs", type=int, default=10, help="short jobs (startup)")
    add("--intervals", type=int, nargs="+", default=[5, 1], help="seconds (cost)")
    add("--seconds", type=int, default=120, help="length of the payload (cost)")
    add("--scrapes", type=int, default=400, help="of each exporter (exporters)")
    add("--idle", type=int, default=60, help="seconds without scrapes (exporters)")
    add("--nodes", type=int, default=24, help="nodes of the recording (analysis)")
    add("--cpus", type=int, default=32, help="CPUs of each of these nodes (analysis)")
    add("--hours", type=float, default=1.0, help="length of the recording (analysis)")
    add("--repeats", type=int, default=3, help="runs of each route (analysis)")
    add("--alone", action="store_true", help="without the other routes, which are slow (analysis)")
    return parser


if __name__ == "__main__":
    main()
