"""Counters and histograms of a world that is known, through the real path from series to bounds.

``JOBMETER_TRUTH_EXAMPLES=10000`` tries as many worlds for each property.
"""

import math

import numpy as np
import truth
from hypothesis import event, given, settings
from hypothesis import strategies as st

from jobmeter_analysis.counters import increases
from jobmeter_analysis.histogram_statistics import histogram_block
from jobmeter_analysis.histograms import (
    Amount,
    Masses,
    mean,
    quantile,
    share_at_most,
)
from jobmeter_analysis.readings import blocks, creations, seen_in

THOROUGH = settings.get_profile("truth")
seeds = st.randoms(use_true_random=True)


def close(one, other):
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-6)


def at_most(one, other):
    return one <= other or close(one, other)


def touches(seen, up, window):
    """As the statistics do: something is known of the window."""
    if up.opened and up.closed:
        return True
    first, last = seen.readings.earliest_ms, seen.readings.latest_ms
    return bool(((last > window.start_ms) & (first < window.end_ms)).any())


def check(world, kind, low, value, high, resets):
    happened = math.fsum(world.truth(kind))
    assert at_most(low, value)
    assert at_most(value, high)
    assert at_most(low, happened)
    if resets or world.hidden(kind):
        event("only the lower bound is certain")
        return
    event("exact" if low == high else "open" if math.isinf(high) else "bounded")
    assert at_most(happened, high)


def moved(world, tracks, since):
    """Return what the counters of ``tracks`` did, as far as anything is known of the window."""
    found = []
    for block in blocks(tracks, creations(world.target, "work_total")):
        seen = seen_in(world.phase, block, world.target, since)
        up = seen and increases(seen.readings, world.phase.window)
        if up and touches(seen, up, world.phase.window):
            found.append(up)
    return found


@THOROUGH
@given(seeds, st.sampled_from(["process", "process", "process", "job", "boot"]))
def test_counters(random, since):
    world = truth.world(random, since=since)
    tracks = world.target.tracks.get("work_total", ())
    found = 0
    for track in tracks:
        for up in moved(world, [track], since):
            check(world, track.label("kind"), up.low[0], up.value[0], up.high[0], up.resets[0])
            found += 1
    # Counters that are computed at once tell each other of restarts.
    together = moved(world, tracks, since)
    happened = sum(math.fsum(world.truth(kind)) for kind in world.kinds)
    assert at_most(sum(up.low.sum() for up in together), happened)
    unseen = found < len(world.kinds) or any(world.hidden(kind) for kind in world.kinds)
    if not unseen and not any(up.resets.any() for up in together):
        assert at_most(happened, sum(up.high.sum() for up in together))


@THOROUGH
@given(seeds, st.sampled_from([0.01, 0.5, 0.9, 0.99]), st.floats(0, 2))
def test_histograms(random, q, limit):
    world = truth.world(random, histogram=True)
    tracks = world.target.tracks
    if "work_bucket" not in tracks or "work_sum" not in tracks:
        return
    buckets = {float(one.label("le")): one for one in tracks["work_bucket"]}
    (of_sum,) = tracks["work_sum"]
    born = creations(world.target, "work").get(of_sum.labels)
    edges, block = histogram_block(buckets, of_sum, born)
    seen = seen_in(world.phase, block, world.target, "process")
    up = seen and increases(seen.readings, world.phase.window, together=edges.size)
    if not up or not touches(seen, up, world.phase.window):
        return
    n = edges.size
    masses = Masses(edges, up.value[:n], up.low[:n], up.high[:n])
    observed = sorted(world.truth("a"))
    counts = np.bincount(np.searchsorted(edges, observed), minlength=n)
    assert (up.low[:n] <= counts).all()
    if up.resets.any() or world.hidden("a"):
        event("only the lower bound is certain")
        return
    assert (counts <= up.high[:n]).all()
    total = Amount(up.value[n], up.low[n], up.high[n])
    if not math.isnan(total.value):
        assert at_most(total.low, math.fsum(observed))
        assert at_most(math.fsum(observed), total.high)
    if not observed or not masses.value.sum():
        return
    event("observations")
    found = quantile(masses, q)
    rank = max(1, math.ceil(q * len(observed) * (1 - 1e-12)))
    assert found.low <= observed[rank - 1] <= found.high
    assert found.low <= found.value <= found.high
    assert found.overflow or observed[rank - 1] <= edges[-2]
    share = share_at_most(masses, limit)
    assert at_most(share.low, sum(one <= limit for one in observed) / len(observed))
    assert at_most(sum(one <= limit for one in observed) / len(observed), share.high)
    assert share.low <= share.value <= share.high
    if not math.isnan(total.value):
        average = mean(total, masses)
        assert at_most(average.low, math.fsum(observed) / len(observed))
        assert at_most(math.fsum(observed) / len(observed), average.high)
        assert average.low <= average.value <= average.high
