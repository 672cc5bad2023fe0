"""Judges of ports, names, the fabric, and proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from jobmeter.doctor.facts import number
from jobmeter.doctor.finding import Verdict, broken, degraded, not_applicable, ok, unknown
from jobmeter.doctor.subject import Subject

CROWDED_RATIO = 0.5
"""With half of the range taken, fifty tries at random may find no free port."""


def ports(subject: Subject) -> Verdict:
    """Judge how much of the site's port range is free, and out of the way of others."""
    fact = subject.facts.need("ports")
    first, last = subject.site.ports.first, subject.site.ports.last
    taken, total = number(fact["taken"]), last - first + 1
    if taken is None:
        return unknown("the kernel does not tell who listens")
    value = f"{first}-{last}: {total - taken} of {total} free"
    if taken == total:
        return broken(value, "no component can listen", "choose other 'ports' in the site profile")
    if taken > CROWDED_RATIO * total:
        return degraded(value, "a free port may not be found", "widen 'ports' in the site profile")
    low, high = number(fact["ephemeral_first"]), number(fact["ephemeral_last"])
    if low is not None and high is not None and low <= last and first <= high:
        return degraded(
            f"{value}; the kernel gives {low}-{high} to outgoing connections",
            "a port may be taken by one between two looks at it",
            f"choose 'ports' outside of {low}-{high} in the site profile",
        )
    return ok(value)


def listeners(subject: Subject) -> Verdict:
    """Tell who listens on the usual ports already; jobs take others."""
    subject.facts.need("ports")
    told = {fact["port"]: fact["kind"] for fact in subject.facts.all("listener")}
    if not told:
        return not_applicable("nobody listens on 9090, 9100, 9400")
    words = {"password": "something that asks for a password", "other": "something else"}
    value = ", ".join(f"{port} {words.get(kind, kind)}" for port, kind in told.items())
    if told.get("9400") == "dcgm-exporter":
        return ok(value, "a job file that asks for dcgm is served by the one on 9400")
    return ok(value, "the job's own take ports of the site's range")


def names(subject: Subject) -> Verdict:
    """Judge whether the nodes of a job find each other by name."""
    if not subject.slurm or subject.place == "login":
        return not_applicable("asked of compute nodes")
    if subject.nodes == 1:
        return not_applicable("one node keeps to loopback; --nodes 2 asks about more")
    own = subject.facts.host + subject.site.address_suffix
    told = [fact for fact in subject.facts.all("resolves") if fact["name"] != own]
    if not told:
        return unknown("the probe did not learn the other nodes")
    lost = [fact["name"] for fact in told if not _reachable(fact["addresses"].split())]
    if lost:
        return broken(
            f"no address for {', '.join(lost)}",
            "exporters of other nodes cannot be reached",
            "set 'address_suffix' of the site profile to what makes a node's name on the fabric",
        )
    return ok(", ".join(f"{fact['name']} {fact['addresses'].split()[0]}" for fact in told))


def _reachable(addresses: Sequence[str]) -> bool:
    """Whether one of these addresses leads to another machine.

    >>> _reachable(["127.0.1.1"]), _reachable(["10.0.0.1"]), _reachable([])
    (False, True, False)
    """
    try:
        return any(not ipaddress.ip_address(address).is_loopback for address in addresses)
    except ValueError:
        return False


def fabric(subject: Subject) -> Verdict:
    """Tell of InfiniBand."""
    subject.facts.need("host")
    interfaces, links = subject.facts.all("interface"), subject.facts.all("infiniband")
    if not interfaces and not links:
        return not_applicable("no InfiniBand on this machine")
    down = [fact["port"] for fact in links if "ACTIVE" not in fact["state"]]
    value = "; ".join(
        [
            *(f"{f['name']} {f['addresses'] or 'without an address'}" for f in interfaces),
            *(f"{f['port']} {f['rate'] or f['state']}" for f in links),
        ]
    )
    if links and len(down) == len(links):
        return degraded(
            f"{value}; no link is active",
            "traffic between nodes takes the slow network",
            "tell the administrators, or exclude this node",
        )
    return ok(value)


def proxies(subject: Subject) -> Verdict:
    """Judge whether a payload that asks itself or its neighbours would ask a proxy."""
    direct = subject.facts.need("no_proxy")["value"]
    told = subject.facts.all("proxy")
    if not told:
        return not_applicable("no proxy in the environment")
    value = ", ".join(f"{fact['name']}={fact['value']}" for fact in told)
    needed = ["localhost", "127.0.0.1"]
    if subject.nodes > 1 and subject.place != "login":
        needed.append(subject.facts.host)
    lacking = [name for name in needed if not _bypassed(name, direct)]
    if lacking:
        return degraded(
            f"{value}; no_proxy lacks {', '.join(lacking)}",
            "clients of the payload ask the proxy for them and fail; the stack itself does not",
            f"export no_proxy={','.join([direct] if direct else [])}{',' if direct else ''}"
            f"{','.join(lacking)}",
        )
    return ok(f"{value}; no_proxy={direct}")


def _bypassed(name: str, no_proxy: str) -> bool:
    """Whether ``no_proxy`` names a host, or a domain that it is in.

    >>> _bypassed("n1.cluster", "localhost, .cluster"), _bypassed("n1", "localhost")
    (True, False)
    """
    entries = [entry.strip().lstrip("*").lstrip(".") for entry in no_proxy.split(",")]
    star = any(entry.strip() == "*" for entry in no_proxy.split(","))
    return star or any(entry and (name == entry or name.endswith(f".{entry}")) for entry in entries)
