"""The page of all metrics is what the exporters say of themselves."""

from pathlib import Path

from jobmeter_exporters.page import page
from jobmeter_exporters.registry import EXPORTERS, exporter

PAGE = Path(__file__).parents[2] / "docs" / "exporters.md"


def test_the_page_is_in_step():
    assert PAGE.read_text() == page(), "python -m jobmeter_exporters.page > docs/exporters.md"


def test_every_family_is_explained():
    for name in EXPORTERS:
        for metric, family in exporter(name).FAMILIES.items():
            assert family.documentation.endswith("."), metric
            assert family.source, metric
