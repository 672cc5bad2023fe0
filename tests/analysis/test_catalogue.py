from pathlib import Path

import pytest

from jobmeter.errors import CatalogueError
from jobmeter_analysis.catalogue import STATISTIC_KEYS, load_catalogue
from jobmeter_analysis.catalogue_page import as_markdown
from jobmeter_analysis.statistics import STATISTICS

GROUP = """
help: A group.
services: [node]
scope: node
kpis:
  load_mean:
    unit: "1"
    help: Load.
    statistic: mean
    metric: node_load1
"""


def refused(folder, text):
    (folder / "10-extra.yaml").write_text(text)
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(folder)
    return str(caught.value)


def test_our_own_catalogue_is_fine():
    groups = list(load_catalogue())
    assert groups[:3] == ["attempt", "slurm", "llm"]
    assert {"llm-checks", "training", "http", "job", "node", "monitoring"} <= set(groups)


def test_every_statistic_is_there():
    assert set(STATISTIC_KEYS) == {*STATISTICS, "elapsed", "accounting", "formula"}


def test_names_carry_their_unit():
    ends = {"seconds": "_seconds", "bytes": "_bytes", "ratio": "_ratio", "bytes/s": "_per_second"}
    for group in load_catalogue().values():
        for name, kpi in group.kpis.items():
            assert ends.get(kpi.unit, "") in name


def test_unknown_keys_name_file_kpi_key_and_the_nearest_one(tmp_path):
    message = refused(tmp_path, GROUP.replace("metric:", "metrik:"))
    assert "10-extra.yaml: kpis.load_mean: unknown key 'metrik'" in message
    assert "did you mean 'metric'?" in message


def test_unknown_keys_of_a_group(tmp_path):
    message = refused(tmp_path, GROUP.replace("scope:", "scop:"))
    assert "10-extra.yaml: unknown key 'scop'; did you mean 'scope'?" in message


def test_unknown_statistics(tmp_path):
    message = refused(tmp_path, GROUP.replace("statistic: mean", "statistic: meen"))
    assert "no statistic 'meen'; did you mean 'mean'?" in message


def test_unknown_methods(tmp_path):
    assert "method" in refused(tmp_path, GROUP + "    method: spline\n")


def test_keys_that_a_statistic_needs_or_cannot_use(tmp_path):
    text = GROUP.replace("statistic: mean", "statistic: observed_quantile")
    assert "needs the key 'quantile'" in refused(tmp_path, text)


def test_keys_that_a_statistic_cannot_use(tmp_path):
    assert "does not use the key 'quantile'" in refused(tmp_path, GROUP + "    quantile: 0.5\n")


def test_names_given_twice_in_one_file(tmp_path):
    assert "is given twice" in refused(tmp_path, GROUP + GROUP[GROUP.index("  load_mean") :])


def test_names_given_twice_in_two_files(tmp_path):
    (tmp_path / "20-other.yaml").write_text(GROUP)
    assert "already in 10-extra.yaml" in refused(tmp_path, GROUP)


def test_broken_yaml(tmp_path):
    assert "10-extra.yaml: not readable" in refused(tmp_path, "help: [")


def test_no_catalogue(tmp_path):
    with pytest.raises(CatalogueError, match="install jobmeter again"):
        load_catalogue(tmp_path)


def test_the_page_of_the_documentation_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "kpis.md"
    assert page.read_text() == as_markdown(load_catalogue()), (
        "write it again: python -m jobmeter_analysis.catalogue_page > docs/kpis.md"
    )
