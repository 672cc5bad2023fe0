"""The stack beside the payload: what can run on a node, who serves it, and where it is found.

Data that ``plan`` chooses from; adding an exporter is one line here.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobmeter.manifest import Placement

NODE_EXPORTER_OPTIONS = (
    # The cost of a scrape is mostly sysfs reads and series: only what a KPI is computed from.
    "--collector.disable-defaults",
    "--collector.cpu",
    "--no-collector.cpu.guest",
    "--collector.meminfo",
    "--collector.netdev",
    "--collector.netdev.device-exclude=^(lo|veth.*|docker.*|br-.*|virbr.*)$",
    "--collector.infiniband",
    "--collector.diskstats",
    "--collector.pressure",
    "--collector.stat",
    "--collector.time",
    "--collector.loadavg",
    "--log.level=warn",
)


@dataclass(frozen=True)
class NodeTarget:
    """One endpoint of the stack on nodes: its ``service`` label and who serves it.

    Args:
        service: Its label.
        component: The process.
        path: Under which it is served.
        placement: On which nodes.
        third_party: Whether it does not say of which run it is.
    """

    service: str
    component: str
    path: str
    placement: Placement = "every_node"
    third_party: bool = False


@dataclass(frozen=True)
class FoundExporter:
    """One of our exporters that runs where a node has what it reads.

    Args:
        service: Its name and label.
        devices: Patterns of paths, any of which shows that the node has it.
    """

    service: str
    devices: tuple[str, ...]


NODE_TARGETS = {
    target.service: target
    for target in (
        NodeTarget("node", "node_exporter", "/metrics"),
        NodeTarget("cgroup", "exporters", "/metrics/cgroup"),
        NodeTarget("helpers", "exporters", "/metrics/helpers"),
        NodeTarget("nvidia", "exporters", "/metrics/nvidia"),
        NodeTarget("hl-smi", "exporters", "/metrics/hl-smi"),
        # One question to the controller is enough for a job.
        NodeTarget("queue", "exporters", "/metrics/queue", placement="first_node"),
        NodeTarget("dcgm", "dcgm", "/metrics", third_party=True),
        # A process of its own: wrong rules cost nobody else his numbers.
        NodeTarget("logs", "logs", "/metrics", placement="first_node"),
    )
}
AUTO = ("node", "cgroup")
FOUND_EXPORTERS = (
    FoundExporter("nvidia", ("/dev/nvidia[0-9]*",)),
    FoundExporter("hl-smi", ("/sys/module/habanalabs",)),
)
DEVICE_EXPORTERS = frozenset({"nvidia", "dcgm", "hl-smi"})
"""Those that must see the devices of the job."""
DCGM_PORT = 9400
"""Where dcgm-exporter listens unless it is told otherwise."""
DCGM_WATCH_S = 10
"""How often it is looked whether it still tells of GPUs."""
