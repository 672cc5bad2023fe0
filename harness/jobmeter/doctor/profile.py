"""Judges of what a site's profile promises of a machine, and of the probe itself."""

from __future__ import annotations

from jobmeter.doctor.finding import Verdict, broken, not_applicable, ok, unknown
from jobmeter.doctor.subject import Subject


def probe(subject: Subject) -> Verdict:
    """Judge whether the machine told what it was asked."""
    if not subject.facts.told:
        return broken(
            "this node was in the job and wrote nothing",
            "what a job writes into its run directory is lost there",
            "choose a folder that all nodes see and may write, with --runs",
        )
    if not subject.facts.complete:
        return unknown(
            "the probe has not come to its end",
            "try again; the last fact in the output of --json tells what it waited for",
        )
    return ok(f"{len(subject.facts.told)} facts")


def prologue(subject: Subject) -> Verdict:
    """Judge whether the lines that a site wants first can be run."""
    told = subject.facts.all("prologue")
    if not subject.site.prologue:
        return not_applicable("the site profile has no prologue")
    if not told:
        return unknown("it was not run", "ask a compute node: --on-compute")
    failed = [fact for fact in told if fact["status"] != "0"]
    if failed:
        first = failed[0]
        return broken(
            f"{first['line']!r} ended with {first['status']}: {first['text'] or 'it said nothing'}",
            "the job goes on without what it should have loaded",
            "correct that line of 'prologue' in the site profile ('module avail' lists modules)",
        )
    return ok("; ".join(fact["line"] for fact in told))


def architecture(subject: Subject) -> Verdict:
    """Judge the processor's architecture."""
    found, wanted = subject.facts.need("host")["architecture"], subject.site.architecture
    if found == wanted:
        return ok(found)
    if subject.place == "login":
        return ok(found, f"compute nodes have {wanted}: images cannot be tried here")
    return broken(
        f"{found}, and the site profile says {wanted}",
        "images and programs for another architecture do not run",
        f"write architecture: {found} in the site profile, and build or pull images for it",
    )
