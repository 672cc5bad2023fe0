"""A real Slurm of several nodes on one machine, made of namespaces and gone at the end.

README.md beside this file tells how it works. Needs root and the packages that
:func:`requirements.missing` asks for.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import processes
import requirements
import slurm_conf

SCRIPTS = ("keeper.sh", "init.sh", "node.sh", "enter.sh", "cgroups.sh")
DAEMON_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USER_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
# Every node has its own, so nothing can be shared with all of them there.
PRIVATE_TARGETS = ("/tmp", "/var/tmp", "/dev", "/proc", "/sys", "/run")

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
POLL_S = 0.02


class ClusterError(RuntimeError):
    """The cluster did not do what it must: start, get ready, or end."""


class CommandFailed(subprocess.CalledProcessError):
    """A command in the cluster ended with an error; the message holds what it printed."""

    def __str__(self) -> str:
        printed = "\n".join(part.strip() for part in (self.stdout, self.stderr) if part)
        return f"{super().__str__()}\n{printed}"


class Cluster:
    """One running cluster: a login "host" and its nodes.

    Attributes:
        nodes: Names of the nodes, ``mel0001`` first.
        state: Folder with everything the cluster writes; removed by :meth:`stop`.
        home: Home of the user ``hpc``, seen from outside; inside it is ``/home/hpc`` everywhere.
        uids: User id of each unprivileged user, ``hpc`` and ``other``.
        cgroups: Whether jobs run in control groups of their own, with enforced memory limits.
    """

    def __init__(
        self, state: Path, nodes: tuple[str, ...], uids: Mapping[str, int], *, cgroups: bool
    ) -> None:
        self.state = state
        self.nodes = nodes
        self.uids = uids
        self.cgroups = cgroups
        self.home = state / "home" / "hpc"
        self._keeper: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        *,
        nodes: int = 3,
        binds: Mapping[Path, Path] | None = None,
        kill_wait_s: int = 10,
        cgroups: bool = True,
        root: Path | None = None,
        **settings: object,
    ) -> Cluster:
        """Start a cluster and return it when every node is idle.

        Args:
            nodes: How many.
            binds: Paths of the machine to be seen inside, read-only: ``{outside: inside}``. The
                inner path need not exist. The permissions of the outer path itself still count,
                those of the folders above it do not.
            kill_wait_s: Seconds between SIGTERM and SIGKILL when a job is cancelled.
            cgroups: Use cgroup v1 where the machine has it.
            root: Another root file system to run in, as ``tools/get-second-root.sh`` makes it; it
                is not written to.
            settings: Lines of ``slurm.conf``, as in ``SlurmdTimeout=20``.

        Raises:
            ClusterError: It did not start; the message ends with the log of the part that failed.
        """
        names = tuple(f"mel{number:04}" for number in range(1, nodes + 1))
        binds = binds or {}
        _check(binds, root or Path("/"))
        mounts = requirements.cgroup_mounts() if cgroups else ()
        # Not in /tmp, which is hidden in the nodes.
        state = Path(tempfile.mkdtemp(prefix="jobmeter-cluster-", dir="/var/tmp"))
        cluster = cls(state, names, _free_uids(), cgroups=bool(mounts))
        try:
            cluster._write_files(binds, mounts, root, kill_wait_s, settings)
            cluster._start_keeper()
            cluster._wait_until_up(names, START_TIMEOUT_S)
            cluster.wait_idle(START_TIMEOUT_S)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def run(
        self,
        *argv: str | Path,
        user: str = "hpc",
        node: str | None = None,
        check: bool = True,
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the user's home on the login host, or on a node, and wait for it.

        Args:
            argv: The command.
            user: ``hpc``, ``other`` or ``root``.
            node: Where; the login host if absent. It is like an ssh to the node: the command is
                no part of any job.
            check: Raise an error unless the exit status is 0.
            timeout_s: The command is killed after this time.
            env: Added to the user's small, fixed environment.
            stdin: Text for standard input; empty if absent.

        Raises:
            CommandFailed: The exit status is not 0.
            subprocess.TimeoutExpired: It took too long.
        """
        done = subprocess.run(
            [*self.entering(user, node, env), *map(str, argv)],
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout_s,
            start_new_session=True,
        )
        if check and done.returncode:
            shown = [str(word) for word in argv]
            raise CommandFailed(done.returncode, shown, done.stdout, done.stderr)
        return done

    def popen(
        self,
        *argv: str | Path,
        user: str = "hpc",
        node: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start a command as :meth:`run` does, and return at once.

        The process returned stands outside and waits for the command: ``wait`` gives the command's
        status, ``kill`` and ``terminate`` both end the command with SIGKILL. For any other signal
        find the command itself with :meth:`pids`.
        """
        return subprocess.Popen(
            [*self.entering(user, node, env), *map(str, argv)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    def entering(
        self, user: str = "hpc", node: str | None = None, env: Mapping[str, str] | None = None
    ) -> list[str]:
        """Return what to put before a command so that it runs inside, as :meth:`run` does it."""
        uid = 0 if user == "root" else self.uids[user]
        home = "/root" if user == "root" else f"/home/{user}"
        variables = {
            "HOME": home,
            "USER": user,
            "SHELL": "/bin/bash",
            "PATH": USER_PATH,
            "LANG": "C.UTF-8",
            **(env or {}),
        }
        # fmt: off
        return [
            "nsenter", "-t", str(self._first_pid(node)),
            "-m", "-n", "-p", "-u", "-i", *(["-C"] if node and self.cgroups else []), "--",
            str(self.state / "scripts" / "enter.sh"),
            "node" if node and self.cgroups else "login", str(uid), str(uid), home,
            "env", "-i", *(f"{name}={value}" for name, value in variables.items()),
        ]
        # fmt: on

    def wait_idle(self, timeout_s: float = 30) -> None:
        """Wait until every node is idle and answers.

        Raises:
            ClusterError: It took too long; the message says what the nodes are instead.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            listing = self.run("sinfo", "-h", "-N", "-o", "%N %T", user="root", check=False)
            states = {tuple(line.split()) for line in listing.stdout.splitlines()}
            if states == {(node, "idle") for node in self.nodes}:
                return
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"nodes not idle after {timeout_s:g} s: {sorted(states)} {listing.stderr}"
                )
            time.sleep(POLL_S)

    def power_off(self, node: str) -> None:
        """Cut the node's power: its slurmd, jobs and network link are gone at once."""
        first = self._first_pid(node)
        namespace = self._namespaces(node)
        os.kill(first, 9)
        _wait_for(lambda: not processes.in_namespaces(namespace), 10, f"{node} still has processes")
        (self.state / "nodes" / node / "pidns").unlink()

    def power_on(self, node: str) -> None:
        """Start a node that was powered off; returns when its slurmd answers."""
        if (self.state / "nodes" / node / "pidns").exists():
            raise ClusterError(f"{node} is on")
        (self.state / "nodes" / node / "up").unlink(missing_ok=True)
        with (self.state / "requests").open("w") as requests:
            requests.write(f"{node}\n")
        self._wait_until_up((node,), START_TIMEOUT_S)

    def pids(self, node: str | None = None) -> dict[int, str]:
        """Return the command line of every process of the cluster, or of one node, by its pid.

        The pids are those seen outside, as ``os.kill`` needs them.
        """
        return processes.in_namespaces(self._namespaces(node))

    def log(self, name: str, lines: int = 30) -> str:
        """Return the end of a daemon's log, such as ``slurmctld`` or ``slurmd-mel0001``."""
        try:
            text = (self.state / "log" / f"{name}.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def stop(self) -> None:
        """End all processes and remove everything; does nothing the second time.

        Raises:
            ClusterError: Something is left.
        """
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            shutil.rmtree(self.state, ignore_errors=True)
            return
        assert keeper.stdin is not None
        keeper.stdin.close()
        try:
            keeper.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()
            raise ClusterError(f"not stopped after {STOP_TIMEOUT_S} s: {self.state}") from None
        if self.state.exists():
            raise ClusterError(f"stopped, but {self.state} is left")

    # --- the parts of start ---

    def _write_files(
        self,
        binds: Mapping[Path, Path],
        mounts: tuple[Path, ...],
        root: Path | None,
        kill_wait_s: int,
        settings: Mapping[str, object],
    ) -> None:
        state = self.state
        # Jobs pass through here to their script below SlurmdSpoolDir.
        state.chmod(0o711)
        for name in (
            "scripts",
            "log",
            "etc/slurm",
            "slurmctld",
            "db",
            "held",
            "var_tmp",
            "munge",
            "layer",
        ):
            (state / name).mkdir(parents=True)
        (state / "sys_cgroup").mkdir()
        os.mkfifo(state / "requests")
        for script in SCRIPTS:
            shutil.copy(Path(__file__).parent / script, state / "scripts")

        (state / "root").write_text(str(root.resolve()) if root else "")
        (state / "cgroups").write_text("".join(f"{mount}\n" for mount in mounts))
        (state / "binds").write_bytes(
            b"".join(
                os.fsencode(source.resolve()) + b"\0" + os.fsencode(target) + b"\0"
                for source, target in binds.items()
            )
        )

        addresses = {"login": "10.77.0.1"}
        for number, node in enumerate(self.nodes, 101):
            addresses[node] = f"10.77.0.{number}"
            (state / "nodes" / node / "spool").mkdir(parents=True)
            (state / "nodes" / node / "address").write_text(addresses[node])

        etc = state / "etc"
        release = requirements.slurm_release(root)
        (etc / "hosts").write_text(slurm_conf.hosts(addresses))
        (etc / "accounts").write_text(slurm_conf.accounts())
        for name, add in (("passwd", slurm_conf.with_users), ("group", slurm_conf.with_groups)):
            theirs = (root or Path("/")) / "etc" / name
            (etc / name).write_text(add(theirs.read_text(), self.uids))
        (etc / "slurm" / "slurm.conf").write_text(
            slurm_conf.slurm_conf(
                state,
                self.nodes,
                release=release,
                cgroups=self.cgroups,
                kill_wait_s=kill_wait_s,
                settings=settings,
            )
        )
        (etc / "slurm" / "cgroup.conf").write_text(
            slurm_conf.cgroup_conf(release=release, cgroups=self.cgroups)
        )
        dbd = etc / "slurm" / "slurmdbd.conf"
        dbd.touch(0o600)
        dbd.write_text(slurm_conf.slurmdbd_conf(state))

        munge = slurm_conf.ids_of("munge", (etc / "passwd").read_text())
        key = state / "munge" / "key"
        key.touch(0o400)
        key.write_bytes(secrets.token_bytes(1024))
        for path, mode in ((key, 0o400), (key.parent, 0o700)):
            os.chown(path, *munge)
            path.chmod(mode)

        for name, uid in self.uids.items():
            home = state / "home" / name
            home.mkdir(parents=True)
            os.chown(home, uid, uid)
            home.chmod(0o700)

    def _start_keeper(self) -> None:
        with (self.state / "log" / "init.log").open("wb") as log:
            self._keeper = subprocess.Popen(
                [self.state / "scripts" / "keeper.sh", self.state, *self.nodes],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": DAEMON_PATH, "LANG": "C.UTF-8"},
                start_new_session=True,
            )

    def _wait_until_up(self, nodes: tuple[str, ...], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not all((self.state / "nodes" / node / "up").exists() for node in nodes):
            if (self.state / "ended").exists():
                raise ClusterError(f"the cluster has ended\n{self._why()}")
            if time.monotonic() > deadline:
                raise ClusterError(f"not ready after {timeout_s:g} s\n{self._why()}")
            time.sleep(POLL_S)

    def _why(self) -> str:
        """Return the ends of the logs that explain a failed start."""
        try:
            stage = (self.state / "stage").read_text().strip()
        except FileNotFoundError:
            stage = "setup"
        logs = ["init", *([f"slurmd-{node}" for node in self.nodes] if stage == "slurmd" else ())]
        logs += [] if stage in ("setup", "nodes", "slurmd") else [stage]
        ends = [f"--- {name}.log\n{self.log(name)}" for name in logs]
        return "\n".join([f"during: {stage}", *ends])

    # --- namespaces ---

    def _namespaces(self, node: str | None) -> set[str]:
        if node is not None and node not in self.nodes:
            raise ValueError(f"no node {node!r}; one of {', '.join(self.nodes)}")
        places = [self.state / "nodes" / name for name in ((node,) if node else self.nodes)]
        names = set()
        for place in places if node else [self.state, *places]:
            try:
                names.add((place / "pidns").read_text().strip())
            except FileNotFoundError:
                continue  # switched off
        return names - {""}

    def _first_pid(self, node: str | None) -> int:
        place = self.state / "nodes" / node if node else self.state
        if self._namespaces(node):
            first = processes.first_of_namespace((place / "pidns").read_text().strip())
            if first is not None:
                return first
        raise ClusterError(f"{node or 'the cluster'} is off")


def _check(binds: Mapping[Path, Path], root: Path) -> None:
    """Refuse binds that cannot work, before anything is started."""
    for source, target in binds.items():
        if not source.exists():
            raise ValueError(f"binds: {source} does not exist")
        if not target.is_absolute() or ".." in target.parts or len(target.parts) < 2:
            raise ValueError(f"binds: {target} must be an absolute path below /")
        if any(target.is_relative_to(private) for private in PRIVATE_TARGETS):
            raise ValueError(f"binds: {target} is in a place that is private to each node")
        if not (root / target.parts[1]).exists():
            raise ValueError(f"binds: {target} needs a new folder in /; try below /mnt or /opt")


def _free_uids() -> dict[str, int]:
    """Return the ids of our users, from 1000 on, none of them in use on this machine.

    Files of the state folder belong to these ids outside too: they must not be a real user's.
    """
    taken = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_name not in slurm_conf.USERS}
    free = (uid for uid in range(1000, 60000) if uid not in taken)
    return dict(zip(slurm_conf.USERS, free, strict=False))


def _wait_for(condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"{otherwise} after {timeout_s:g} s")
        time.sleep(POLL_S)
