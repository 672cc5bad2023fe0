"""Which run an endpoint belongs to."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector


class RunInfo(Collector):
    """``jobmeter_run_info{run_id="..."} 1``: by it a scrape that reached a stranger is noticed.

    Args:
        run_id: As in ``run.json``.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def collect(self) -> Iterator[Metric]:
        """Yield the one family."""
        yield InfoMetricFamily(
            "jobmeter_run", "The run that this endpoint belongs to.", {"run_id": self._run_id}
        )
