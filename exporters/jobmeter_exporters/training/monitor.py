"""The monitor of a training loop."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from threading import RLock
from types import TracebackType
from typing import TypeVar

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.training import ending
from jobmeter_exporters.training.endpoint import Endpoint, place
from jobmeter_exporters.training.experts import ExpertLoads
from jobmeter_exporters.training.rank import Rank, current_rank
from jobmeter_exporters.training.reading import Counts, Number, held, read
from jobmeter_exporters.training.timing import Clock, PartTimer, PauseTimer, StepTimer
from jobmeter_exporters.training.totals import Exposition, step_totals

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")

MOST_EXPERT_SERIES = 2048
"""Experts times layers that are exposed one by one unless told otherwise."""

LONGEST_WAIT_S = 5.0
"""How long the end of a process waits for a scrape that is being answered."""


class TrainingMonitor(Collector):
    """Counts what a training loop does, and serves it.

    One per rank. The loop's thread reports, any thread may read. It listens on loopback and a free
    port; in a job of jobmeter it is found there (``JOBMETER_ENDPOINTS_DIR``), and it leaves its
    last numbers behind (``JOBMETER_FINAL_METRICS``) when it is closed, when the process ends, and
    before a SIGTERM that nobody else handles. It never ends a training: what does not work is
    logged once.

    A child that is forked, and the worker of a data loader, have one that does nothing.

    Args:
        service: Name of the target; ``training``, or ``training-rank3`` with several ranks.
        port: A port that the job file names under ``metrics:``. Without it, or with 0, a free one
            is taken, and announced.
        rank: Number of this process; from ``torch.distributed`` or the launcher by default.
        world_size: How many there are; the same.
        step_edges_s: Upper edges of the histogram of step times, in seconds; by default 0.1 ms to
            20 min, each 1.4 times the one before.
        most_expert_series: Experts times layers that are exposed one by one; a histogram of their
            loads stands for more.
        sigterm: False leaves SIGTERM alone. A handler that is there is left alone in any case.

    Raises:
        ExporterError: ``service`` can be no name, or only one of ``rank`` and ``world_size`` is
            given.
    """

    def __init__(
        self,
        service: str | None = None,
        port: int | None = None,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        step_edges_s: Sequence[float] | None = None,
        most_expert_series: int = MOST_EXPERT_SERIES,
        sigterm: bool = True,
    ) -> None:
        if (rank is None) != (world_size is None):
            raise ExporterError(f"rank={rank!r}, world_size={world_size!r}: give both or none")
        self.rank = current_rank() if world_size is None else Rank(rank or 0, world_size)
        self._lock = RLock()  # reentrant: a SIGTERM may come while the loop holds it
        self._reading = RLock()
        self._totals = step_totals(step_edges_s)
        self._experts = ExpertLoads(most_expert_series)
        self._clock = Clock(self._totals, self._lock)
        self._forward, self._backward, self._optimizer, self._data = (
            PartTimer(name, self._clock) for name in ("forward", "backward", "optimizer", "data")
        )
        self._checkpoint, self._validation = (
            PauseTimer(name, self._clock) for name in ("checkpoint", "validation")
        )
        number = None if self.rank.alone else self.rank.number
        self._exposition = Exposition(number, time.time())
        where = place(service, port, self.rank, os.environ)
        self._endpoint: Endpoint | None = None
        if not ending.is_worker():
            self._endpoint = Endpoint(where, self)
            ending.watch(self, sigterm)

    @property
    def port(self) -> int | None:
        """The port it listens on, None when it does not."""
        return None if self._endpoint is None else self._endpoint.port

    def step(self, tokens: int = 0, samples: int = 0) -> StepTimer:
        """Return the ``with`` block of one step of the optimizer.

        Args:
            tokens: How many this rank trains on in it; also ``tokens`` of the block.
            samples: The same of samples.
        """
        return StepTimer(self._clock, tokens, samples)

    def begin_step(self) -> None:
        """Begin a step, in a loop that cannot use ``step``."""
        self._clock.begin_step()

    def end_step(self, tokens: int = 0, samples: int = 0) -> None:
        """End it; without ``begin_step`` nothing is counted."""
        self._clock.end_step(tokens, samples)

    def forward(self) -> PartTimer:
        """Return the ``with`` block of a forward pass."""
        return self._forward

    def backward(self) -> PartTimer:
        """Return the ``with`` block of a backward pass."""
        return self._backward

    def optimizer(self) -> PartTimer:
        """Return the ``with`` block of the optimizer's work."""
        return self._optimizer

    def data(self) -> PartTimer:
        """Return the ``with`` block of a wait for data. Before a step it belongs to its time."""
        return self._data

    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield what ``loader`` has, each wait for it timed."""
        batches = iter(loader)
        while True:
            self._data.begin()
            try:
                batch = next(batches)
            except StopIteration:
                return  # the end was no wait for data
            self._data.end()
            yield batch

    def checkpoint(self) -> PauseTimer:
        """Return the ``with`` block that writes a checkpoint. It is in no step's time."""
        return self._checkpoint

    def validation(self) -> PauseTimer:
        """Return the ``with`` block of a validation. It is in no step's time."""
        return self._validation

    def record(
        self,
        *,
        loss: Number | None = None,
        accuracy: Number | None = None,
        learning_rate: Number | None = None,
        gradient_norm: Number | None = None,
        epoch: Number | None = None,
    ) -> None:
        """Take the last values of what is given.

        A tensor is read when somebody asks for it, so that the loop does not wait for the device.
        """
        self._hold("training_loss", loss)
        self._hold("training_accuracy", accuracy)
        self._hold("training_learning_rate", learning_rate)
        self._hold("training_gradient_norm", gradient_norm)
        self._hold("training_epoch", epoch)

    def record_validation(
        self, *, loss: Number | None = None, accuracy: Number | None = None
    ) -> None:
        """Take the results of a validation."""
        self._hold("training_validation_loss", loss)
        self._hold("training_validation_accuracy", accuracy)

    def record_experts(self, tokens: Counts, layer: int | str = 0) -> None:
        """Add the tokens that the experts of a layer got, in their order, on this rank.

        Args:
            tokens: One number per expert, or a tensor of them; each layer always as many.
            layer: Which layer of the model.

        Raises:
            ValueError: The layer had another number of experts before.
        """
        with self._lock:
            self._experts.add(str(layer), tokens)

    def record_dropped_tokens(self, tokens: int, layer: int | str = 0) -> None:
        """Add tokens of a layer that no expert had room for; 0 says that none was dropped."""
        with self._lock:
            dropped = self._totals.dropped
            dropped[str(layer)] = dropped.get(str(layer), 0.0) + tokens

    def record_router_loss(self, loss: Number, layer: int | str | None = None) -> None:
        """Take the load-balance loss of a layer's router, or of all of them together."""
        self._hold("moe_router_loss", loss, None if layer is None else str(layer))

    def flush(self) -> None:
        """Leave the numbers as they are now as the last ones, in case that nothing follows."""
        if self._endpoint is not None:
            self._endpoint.flush()

    def close(self) -> None:
        """Leave the last numbers behind and stop serving; what is counted later is not seen."""
        ending.unwatch(self)
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            endpoint.flush()
            endpoint.close()

    def collect(self) -> Iterator[Metric]:
        """Yield the families, from what is counted now."""
        if not self._reading.acquire(timeout=LONGEST_WAIT_S):
            logger.warning("the numbers of the training are not read: another read does not end")
            return
        try:
            with self._lock:
                totals, taken = self._totals.copy(), self._experts.take()
            self._experts.settle(taken)
            numbers = {key: read(value) for key, value in totals.gauges.items()}
            known = {key: number for key, number in numbers.items() if number is not None}
            families = list(self._exposition.families(totals, known, self._experts))
        finally:
            self._reading.release()
        yield from families

    def at_end(self) -> None:
        """Save the last numbers: the process is about to end."""
        if self._endpoint is not None:
            self._endpoint.flush()
            self._endpoint.withdraw()

    def in_child(self) -> None:
        """Become one that does nothing, in a child of the process."""
        endpoint, self._endpoint = self._endpoint, None
        self._lock, self._reading = RLock(), RLock()
        self._clock.lock = self._lock
        if endpoint is not None:
            endpoint.forget()

    def __enter__(self) -> TrainingMonitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _hold(self, name: str, value: Number | None, layer: str | None = None) -> None:
        if value is not None:
            kept = held(value)
            with self._lock:
                self._totals.gauges[(name, layer)] = kept
