"""Who keeps the ranks of a training waiting, said in words."""

import pandas as pd
import pytest

from jobmeter.errors import CatalogueError
from jobmeter_analysis.catalogue import load_catalogue
from jobmeter_analysis.estimate import exact
from jobmeter_analysis.spread import spread
from jobmeter_analysis.stragglers import in_words

RANKS = load_catalogue()["training-ranks"].kpis
FORWARD, BACKWARD, DATA = (
    f"rank_{part}_time_ratio" for part in ("forward", "backward", "data_wait")
)


def table(**phases):
    """Return the rows of ranks 0, 1, ... from their shares, by phase and KPI."""
    rows = []
    for phase, kpis in phases.items():
        for name, shares in kpis.items():
            ranks = [(f"rank{rank}@n1", exact(share)) for rank, share in enumerate(shares)]
            rows += [(name, phase, "rank", entity, one.value, "") for entity, one in ranks]
            for line in spread(name, RANKS[name], "rank", ranks):
                reason = ";".join(sorted(line.number.reasons))
                rows.append((line.kpi, phase, line.scope, line.entity, line.number.value, reason))
    return pd.DataFrame(rows, columns=["kpi", "phase", "scope", "entity", "value", "reason"])


def test_the_rank_that_all_wait_for_is_named_once_with_all_that_tells():
    frame = table(
        train={FORWARD: [0.08, 0.07, 0.62, 0.09], BACKWARD: [0.8, 0.82, 0.25, 0.81]},
        later={FORWARD: [0.3, 0.3, 0.3, 0.3], DATA: [0.01, 0.5, 0.01, 0.012]},
    )
    assert list(in_words(frame)) == [
        "straggler in phase train: rank2@n1: "
        "25% of the time in the backward pass, where the others wait, the median of 4 ranks 80%; "
        "62% of the time in the forward pass, the median of 4 ranks 8%",
        "straggler in phase later: rank1@n1: "
        "50% of the time waiting for data, the median of 4 ranks 1%",
    ]


@pytest.mark.parametrize(
    "shares",
    [
        {FORWARD: [0.3, 0.3, 0.3, 0.1]},  # faster than the others
        {BACKWARD: [0.3, 0.3, 0.3, 0.5]},  # waits longer than the others
        {FORWARD: [0.01, 0.01, 0.01, 0.014]},  # not worth a word
        {FORWARD: [0.1, 0.6]},  # of two nobody can say
        {"rank_step_seconds_mean": [1.0, 1.0, 1.0, 3.0]},  # steps of all take as long
    ],
)
def test_nobody_is_named(shares):
    assert list(in_words(table(train=shares))) == []


def test_many_at_once_are_counted():
    shares = [0.1] * 30 + [0.5 + rank / 100 for rank in range(8)]
    lines = list(in_words(table(train={FORWARD: shares})))
    named = [line.split(": ")[1] for line in lines[:-1]]
    assert named == [f"rank{rank}@n1" for rank in (37, 36, 35, 34, 33)]
    assert lines[-1] == "and 3 more ranks in phase train"


def test_only_what_is_compared_can_have_stragglers(tmp_path):
    (tmp_path / "10-x.yaml").write_text(
        "help: x\nservices: [attempt]\nscope: job\nkpis:\n  x:\n    unit: ratio\n    help: x\n"
        "    statistic: elapsed\n    straggler: in x\n"
    )
    with pytest.raises(CatalogueError, match="'straggler' is for a share that is compared"):
        load_catalogue(tmp_path)
