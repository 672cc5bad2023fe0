"""A cluster to try things in: ``.venv/bin/python tests/cluster/shell.py --help``."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "e2e"))

import installation
import second_root
from testbed import Cluster, ClusterError


def main() -> int:
    """Start a cluster, run a command or a shell in it, and end it."""
    arguments = _arguments()
    root = second_root.ROOT if arguments.second else None
    missing = installation.missing(root)
    if missing:
        print(f"no cluster on this machine: {'; '.join(missing)}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        binds = dict(arguments.bind)
        if arguments.jobmeter:
            wheel = installation.build_wheel(Path(folder))
            binds |= installation.binds(
                installation.install(wheel, Path(folder) / "environment", root), root
            )
        try:
            with Cluster.start(nodes=arguments.nodes, root=root, binds=binds) as cluster:
                return _use(cluster, arguments.user, arguments.command)
        except (ClusterError, ValueError) as error:
            print(error, file=sys.stderr)
            return 1


def _use(cluster: Cluster, user: str, command: list[str]) -> int:
    entering = cluster.entering(user)
    if command:
        return subprocess.run([*entering, *command]).returncode
    print(f"home of {user}: {cluster.state / 'home' / user}", file=sys.stderr)
    print(f"from elsewhere: {shlex.join(entering)} bash", file=sys.stderr)
    if sys.stdin.isatty():
        # A terminal of its own: the one outside belongs to a session that cannot be seen inside.
        terminal = {"TERM": os.environ.get("TERM", "dumb")}
        shell = [*cluster.entering(user, env=terminal), "script", "-qec", "bash -l", "/dev/null"]
        return subprocess.run(shell).returncode
    print("until standard input ends", file=sys.stderr, flush=True)
    sys.stdin.read()
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Start a Slurm cluster, and end it with the command; without a command it is a"
        " shell, or, without a terminal, lasts until standard input ends."
    )
    parser.add_argument("--second", action="store_true", help="Debian sid, with Apptainer")
    parser.add_argument("--jobmeter", action="store_true", help="install it below /opt/jobmeter")
    parser.add_argument("--user", default="hpc", choices=("hpc", "other", "root"))
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument(
        "--bind", action="append", default=[], type=_bind, metavar="OUTSIDE:INSIDE",
        help="a path of this machine to be seen inside, read-only",
    )  # fmt: skip
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="after --")
    return parser.parse_args()


def _bind(text: str) -> tuple[Path, Path]:
    outside, separator, inside = text.partition(":")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not OUTSIDE:INSIDE")
    return Path(outside), Path(inside)


if __name__ == "__main__":
    sys.exit(main())
