"""What a job file says of its payload, made ready: commands, result files, endpoints, ports."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobmeter.errors import SpecError
from jobmeter.groups import Group
from jobmeter.spec import JobSpec, Phase
from jobmeter.templating import Names, ShellText, expand, path_word


@dataclass(frozen=True)
class PayloadTarget:
    """One endpoint of the payload, as text for the shell: host and port may hold ``${...}``."""

    service: str
    scheme: str
    host: str
    port: str
    path: str


@dataclass(frozen=True)
class PlannedLog:
    """A log of the payload.

    Args:
        service: Whose it is.
        file: Its path, as one word of the shell in which variables are expanded.
        rules: The name of rules that come with jobmeter, or such a path.
        shipped: Whether it is a name.
    """

    service: str
    file: ShellText
    rules: ShellText
    shipped: bool


@dataclass(frozen=True)
class PlannedPhase:
    """One phase: its name, its shell command and its result files, placeholders filled.

    Args:
        name: From the job file.
        command: For ``bash -c``.
        results: Paths, each as one word of the shell in which variables are expanded.
    """

    name: str
    command: str
    results: tuple[ShellText, ...] = ()


@dataclass(frozen=True)
class Placeholders:
    """What placeholders of one job file may name.

    Args:
        job_file: As given, for messages.
        ports: Names of its ports.
        python: The interpreter that runs jobmeter.
        job_dir: Folder of the job file, absolute.
        groups: Of its nodes, in order.
        services: Names of its services.
    """

    job_file: str
    ports: tuple[str, ...]
    python: str
    job_dir: Path
    groups: tuple[Group, ...]
    services: tuple[str, ...] = ()

    def where(self, key: str) -> str:
        """Return how messages call the place of a key."""
        return f"{self.job_file}: {key}"

    def filled(
        self, text: str, key: str, *, for_shell: bool, more: Mapping[str, object] | None = None
    ) -> str:
        """Return the text of a key with its placeholders filled.

        Args:
            text: With placeholders.
            key: Where it stands, for messages.
            for_shell: Whether each value is quoted as a word of a shell command.
            more: What placeholders may name there beside what they may everywhere.

        Raises:
            SpecError: one is malformed or names something unknown.
        """
        where = self.where(key)
        ports = {name: ShellText(f"${{{port_variable(name)}}}") for name in self.ports}
        values = {
            "ports": Names("port", ports, where),
            "services": Names("service", {n: _service(n, where) for n in self.services}, where),
            "python": self.python,
            "job_dir": str(self.job_dir),
            **self._of_nodes(where, for_shell=for_shell),
            **(more or {}),
        }
        absent = _ABSENT if len(self.groups) == 1 else _BY_GROUP
        return expand(text, values, where, for_shell=for_shell, absent=absent)

    def _of_nodes(self, where: str, *, for_shell: bool) -> Mapping[str, object]:
        """Return what placeholders may name of the nodes: of each group if they are several."""
        if len(self.groups) == 1:
            return _numbers(self.groups[0])
        named = {
            str(group.name): Names(
                f"something of group {group.name!r}:",
                {
                    "number": group.number,
                    "nodelist": _node_list(group, for_shell=for_shell),
                    **_numbers(group),
                },
                where,
            )
            for group in self.groups
        }
        return {"groups": Names("group", named, where)}

    def of_phase(self, text: str, key: str, *, for_shell: bool = True) -> str:
        """Return the text of a key of a phase, which may also name its rendezvous.

        Raises:
            SpecError: a placeholder is malformed or names something unknown.
        """
        rendezvous = Names("something of the rendezvous:", _RENDEZVOUS, self.where(key))
        return self.filled(text, key, for_shell=for_shell, more={"rendezvous": rendezvous})


_ABSENT = {
    "gpus_per_node": "add 'gpus_per_node' to 'resources'",
    "groups": "add 'groups' to 'resources'",
}
_BY_GROUP = {
    name: f"the groups of the job differ: write 'groups.NAME.{name}'"
    for name in ("nodes", "tasks_per_node", "gpus_per_node")
}


def _numbers(group: Group) -> Mapping[str, int]:
    """Return what placeholders may name of a group alone."""
    asked = group.asked
    devices = {"gpus_per_node": asked.gpus_per_node} if asked.gpus_per_node else {}
    return {"nodes": asked.nodes, "tasks_per_node": asked.tasks_per_node or 1, **devices}


def _node_list(group: Group, *, for_shell: bool) -> ShellText:
    """Return the names of a group's nodes in Slurm's notation, which has characters of patterns."""
    variable = f"${{{node_list_variable(group)}}}"
    return ShellText(f'"{variable}"' if for_shell else variable)


def node_list_variable(group: Group) -> str:
    """Return the variable in which Slurm names the nodes of one of several groups."""
    return f"SLURM_JOB_NODELIST_HET_GROUP_{group.number}"


_RENDEZVOUS = {
    "host": ShellText("${JOBMETER_RENDEZVOUS_HOST}"),
    "port": ShellText("${JOBMETER_RENDEZVOUS_PORT}"),
}
"""Where the processes of a phase find each other; the job sets the variables for each phase."""


def port_variable(name: str) -> str:
    """Return the variable that holds a port of the job file.

    >>> port_variable("train")
    'JOBMETER_PORT_TRAIN'
    """
    return f"JOBMETER_PORT_{name.upper()}"


def _service(name: str, where: str) -> Names:
    """Return what a placeholder may name of a service; the job sets the variables."""
    fields = {
        field: ShellText(f"${{{service_variable(field, name)}}}")
        for field in ("url", "urls", "host", "port", "node", "key")
    }
    return Names(f"something of service {name!r}:", fields, where)


def service_variable(field: str, name: str) -> str:
    """Return the variable that tells phases something of a service.

    >>> service_variable("url", "llm")
    'JOBMETER_URL_LLM'
    """
    return f"JOBMETER_{field.upper()}_{name.upper()}"


def phases_of(spec: JobSpec, placeholders: Placeholders) -> tuple[PlannedPhase, ...]:
    """Return every phase, of which a command alone is one.

    Raises:
        SpecError: a placeholder is wrong, or two result files would be one.
    """
    if spec.run is not None:
        return (PlannedPhase("run", placeholders.of_phase(spec.run, "run")),)
    return tuple(
        PlannedPhase(
            phase.name,
            placeholders.of_phase(phase.run, f"phases[{i}].run"),
            _result_files(phase, placeholders, f"phases[{i}].results"),
        )
        for i, phase in enumerate(spec.phases)
    )


def _result_files(phase: Phase, placeholders: Placeholders, key: str) -> tuple[ShellText, ...]:
    paths = [placeholders.of_phase(path, key, for_shell=False) for path in phase.results]
    names = [path.rpartition("/")[2] for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(
                f"{placeholders.where(key)}: two files are called {name!r} and would be kept in "
                "one folder; rename one"
            )
    return tuple(path_word(path) for path in paths)


def logs_of(spec: JobSpec, placeholders: Placeholders) -> tuple[PlannedLog, ...]:
    """Return every log of the payload that is to be followed.

    Raises:
        SpecError: a placeholder is wrong.
    """
    return tuple(
        PlannedLog(
            service,
            path_word(placeholders.filled(log.file, f"logs.{service}.file", for_shell=False)),
            path_word(placeholders.filled(log.rules, f"logs.{service}.rules", for_shell=False)),
            shipped=re.fullmatch(r"[a-z]+", log.rules) is not None,
        )
        for service, log in spec.logs.items()
    )


_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9.-]+):(?P<port>\d+|\$\{JOBMETER_PORT_[A-Z0-9_]+\})"
    r"(?P<path>/[\w./%=&?-]*)?"
)


def targets_of(spec: JobSpec, placeholders: Placeholders) -> tuple[PayloadTarget, ...]:
    """Return every endpoint of the payload.

    Raises:
        SpecError: a placeholder or an address is wrong.
    """
    return tuple(
        _target(service, url, placeholders, f"metrics.{service}")
        for service, url in spec.metrics.items()
    )


def _target(service: str, url: str, placeholders: Placeholders, key: str) -> PayloadTarget:
    text = placeholders.filled(url, key, for_shell=False)
    match = _URL.fullmatch(text)
    if match is None:
        raise SpecError(
            f"{placeholders.where(key)}: {text!r} is not a metrics address; write "
            "'http://localhost:PORT/metrics', with a number or '{{ ports.NAME }}' as PORT"
        )
    return PayloadTarget(
        service, match["scheme"], match["host"], match["port"], match["path"] or "/metrics"
    )
