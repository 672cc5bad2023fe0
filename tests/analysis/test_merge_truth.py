"""Several worlds that are known, put together: the truth of all lies in the merged bounds."""

import math

import truth
from hypothesis import event, given, settings
from hypothesis import strategies as st

from jobmeter_analysis.catalogue import Group
from jobmeter_analysis.engine import PhaseNumbers
from jobmeter_analysis.merge import Tried, merged_rows
from jobmeter_analysis.statistics import STATISTICS
from jobmeter_analysis.subjects import Scene, Subject

THOROUGH = settings.get_profile("truth")
seeds = st.randoms(use_true_random=True)

COUNTED = {"metric": "work_total", "only": {"kind": ["a"]}, "help": ""}
OBSERVED = {"metric": "work", "help": ""}
COUNTERS = Group(
    help="",
    scope="service",
    totals=("job",),
    kpis={
        "units_total": {**COUNTED, "unit": "1", "statistic": "increase"},
        "units_per_second": {**COUNTED, "unit": "1/s", "statistic": "rate"},
    },
)
HISTOGRAMS = Group(
    help="",
    scope="service",
    totals=("job",),
    kpis={
        "works_total": {**OBSERVED, "unit": "1", "statistic": "observations"},
        "work_mean": {**OBSERVED, "unit": "seconds", "statistic": "observed_mean"},
        "work_max": {**OBSERVED, "unit": "seconds", "statistic": "observed_max"},
        **{
            f"work_p{round(100 * q)}": {
                **OBSERVED,
                "unit": "seconds",
                "statistic": "observed_quantile",
                "quantile": q,
            }
            for q in (0.01, 0.5, 0.9, 0.99)
        },
    },
)


def tried(world, group, index):
    """What one attempt has to say of its world: as the engine does, with one target."""
    scene, subject = Scene(world.phase), Subject(world.target)
    measures = {
        name: [STATISTICS[kpi.statistic].measure(subject, kpi, scene)]
        for name, kpi in group.kpis.items()
    }
    numbers = {
        (name, "job"): {"job": STATISTICS[kpi.statistic].finish(measures[name], kpi)}
        for name, kpi in group.kpis.items()
    }
    behind = PhaseNumbers(world.phase, numbers, measures, {}, ())
    return Tried(f"7_{index}", {"main": behind}, frozenset({"main"}))


def merged(random, group, histogram):
    """Return the worlds, of which the last attempt may have left nothing, and the rows by KPI."""
    worlds = [truth.world(random, histogram=histogram) for _ in range(random.randrange(2, 5))]
    attempts = [tried(world, group, index) for index, world in enumerate(worlds)]
    if random.random() < 0.2:
        attempts[-1] = Tried(attempts[-1].task, {}, None)
        event("silent")
    if random.random() < 0.2:
        attempts.append(Tried("7_99", {}, frozenset()))
    rows = merged_rows(attempts, {"work": group}, {})
    return worlds, {row["kpi"]: row for row in rows}


def certain(worlds, row):
    """Whether both ends are certain: nothing was lost that nobody could see."""
    lost = any(world.hidden("a") for world in worlds) or "counter_reset" in row["reason"]
    return row["status"] in ("exact", "bounded") and not lost


def at_most(one, other):
    return one <= other or math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-6)


def check(row, happened):
    event(f"{row['status']}, open" if math.isinf(row["high"]) else row["status"])
    assert at_most(row["low"], happened), (row, happened)
    assert at_most(happened, row["high"]), (row, happened)
    assert at_most(row["low"], row["value"])
    assert at_most(row["value"], row["high"])


@THOROUGH
@given(seeds)
def test_amounts_and_rates(random):
    worlds, rows = merged(random, COUNTERS, histogram=False)
    happened = sum(math.fsum(world.truth("a")) for world in worlds if "a" in world.kinds)
    row = rows["units_total"]
    if row["status"] == "unavailable":
        assert row["reason"]
        return
    assert at_most(row["low"], happened)
    if certain(worlds, row):
        check(row, happened)
    rate = rows["units_per_second"]
    if certain(worlds, rate):
        check(rate, happened / sum(world.phase.window.seconds for world in worlds))


@THOROUGH
@given(seeds)
def test_one_histogram_of_all(random):
    worlds, rows = merged(random, HISTOGRAMS, histogram=True)
    observed = sorted(size for world in worlds for size in world.truth("a"))
    count = rows["works_total"]
    if count["status"] != "unavailable":
        assert at_most(count["low"], len(observed))
    if not (observed and certain(worlds, count)):
        return
    check(count, len(observed))
    for name, kpi in HISTOGRAMS.kpis.items():
        row = rows[name]
        if not certain(worlds, row) or kpi.statistic == "observations":
            continue
        if kpi.statistic == "observed_mean":
            check(row, math.fsum(observed) / len(observed))
        elif kpi.statistic == "observed_max":
            check(row, observed[-1])
        else:
            rank = max(1, math.ceil(kpi.quantile * len(observed) * (1 - 1e-12)))
            check(row, observed[rank - 1])
