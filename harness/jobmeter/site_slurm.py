"""What Slurm says of its partitions and QOS, in the terms of a site profile.

Commands and the reading of what they print come in pairs; nothing here starts a process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from jobmeter.quantities import slurm_memory, slurm_time, slurm_time_s
from jobmeter.site_limits import Partition, Qos

PARTITIONS_COMMAND = ("scontrol", "show", "partition", "--oneliner")
NODES_COMMAND = ("sinfo", "--noheader", "--all", "--format=%R|%D|%c|%m|%G")
_QOS_FIELDS = ("Name", "MaxWall", "MaxTRES", "MaxJobsPU", "MinTRES")
QOS_COMMAND = (
    "sacctmgr",
    "--noheader",
    "--parsable2",
    "show",
    "qos",
    f"format={','.join(_QOS_FIELDS)}",
)


def partitions_from(stdout: str, nodes: str) -> Mapping[str, Partition]:
    r"""Return every partition from what ``PARTITIONS_COMMAND`` and ``NODES_COMMAND`` printed.

    Of nodes that differ the largest counts: what none of them has cannot be asked for. Of nodes
    that are hidden, such as those of a cloud that are switched off, nothing is known.

    >>> told = "PartitionName=gpu MaxNodes=UNLIMITED MaxTime=2-00:00:00 MinNodes=0 TotalNodes=3\n"
    >>> gpu = partitions_from(told, "gpu|3|128|480000|gpu:a100:4(S:0-1)\n")["gpu"]
    >>> gpu.nodes, gpu.max_nodes, gpu.max_time, gpu.cpus_per_node, gpu.memory, gpu.gpus_per_node
    (3, None, '2-00:00:00', 128, '480000M', 4)
    """
    return {
        words["PartitionName"]: _partition(words, nodes)
        for words in (_words(line) for line in stdout.splitlines())
        if words.get("PartitionName")
    }


def qos_from(stdout: str) -> Mapping[str, Qos]:
    r"""Return every QOS from what ``QOS_COMMAND`` printed.

    >>> test = qos_from("normal||||\ntest|00:30:00|cpu=64,node=2|1|\n")["test"]
    >>> test.max_time, test.max_nodes, test.jobs_per_user, test.min_nodes
    ('00:30:00', 2, 1, None)
    """
    found = {}
    for line in stdout.splitlines():
        fields = dict(zip(_QOS_FIELDS, line.split("|"), strict=False))
        if fields.get("Name"):
            found[fields["Name"]] = Qos(
                max_time=_time(fields.get("MaxWall", "")),
                max_nodes=_nodes_of_tres(fields.get("MaxTRES", "")),
                min_nodes=_nodes_of_tres(fields.get("MinTRES", "")),
                jobs_per_user=_count(fields.get("MaxJobsPU", "")),
            )
    return found


def _words(line: str) -> dict[str, str]:
    """Return the words ``Name=value`` of a line; a value of Slurm's has no spaces."""
    return {name: value for name, _, value in (word.partition("=") for word in line.split())}


def _partition(words: Mapping[str, str], nodes: str) -> Partition:
    kinds = [line.split("|") for line in nodes.splitlines() if line.count("|") == 4]
    own = [kind[2:] for kind in kinds if kind[0] == words["PartitionName"] and kind[1] != "0"]
    memory_mb = max((_number(memory) for _, memory, _ in own), default=0)
    return Partition(
        nodes=_count(words.get("TotalNodes", "")),
        max_nodes=_count(words.get("MaxNodes", "")),
        min_nodes=_count(words.get("MinNodes", "")),
        max_time=_time(words.get("MaxTime", "")),
        cpus_per_node=max((_number(cpus) for cpus, _, _ in own), default=0) or None,
        memory=slurm_memory(memory_mb) if memory_mb else None,
        gpus_per_node=max((_gpus(gres) for _, _, gres in own), default=None),
    )


def _number(text: str) -> int:
    """Return the number at the beginning of ``128+`` (sinfo: and more on other nodes)."""
    match = re.match(r"\d+", text)
    return int(match[0]) if match is not None else 0


def _count(text: str) -> int | None:
    """Return a limit; None for ``UNLIMITED``, ``N/A``, 0 and nothing, none of which is one."""
    return int(text) if text.isdigit() and int(text) > 0 else None


def _time(text: str) -> str | None:
    try:
        return slurm_time(slurm_time_s(text))
    except ValueError:
        return None


def _nodes_of_tres(text: str) -> int | None:
    match = re.search(r"(?:^|,)node=(\d+)(?:,|$)", text)
    return _count(match[1]) if match is not None else None


def _gpus(gres: str) -> int:
    """Return how many GPUs are in ``gpu:a100:4(S:0-1),tmp:1``; ``(null)`` has none."""
    return sum(int(count) for count in re.findall(r"(?:^|,)gpu(?::[^:,()]+)?:(\d+)", gres))
