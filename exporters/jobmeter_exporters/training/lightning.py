"""The callback for PyTorch Lightning.

    Trainer(callbacks=[lightning_callback()])

A step is one of the optimizer, however many batches it accumulates. The waits for data and the
checkpoints are those that Lightning marks for its profiler.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.training.batch import Tree, sample_count, token_count
from jobmeter_exporters.training.monitor import TrainingMonitor
from jobmeter_exporters.training.rank import Rank
from jobmeter_exporters.training.shared import shared_monitor
from jobmeter_exporters.training.timing import PartTimer, PauseTimer

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""The same code under two names; a trainer wants the callbacks of its own."""

DATA = "[_TrainingEpochLoop].train_dataloader_next"
CHECKPOINT = "save_checkpoint"

Lightning: TypeAlias = Any
"""Something of Lightning's, which has no types where it is not installed."""


class Options(NamedTuple):
    """What a callback is made from.

    Args:
        monitor: Where it reports; one per process by default.
        samples: Number of samples in a batch.
        tokens: Number of tokens in a batch.
        accuracy: Name under which the module logs it; read at the end of an epoch.
        validation_loss: The same of the validation.
        validation_accuracy: The same of the validation.
    """

    monitor: TrainingMonitor | None = None
    samples: Callable[[Tree], int] = sample_count
    tokens: Callable[[Tree], int] = token_count
    accuracy: str = "train_acc"
    validation_loss: str = "val_loss"
    validation_accuracy: str = "val_acc"


def lightning_callback(*options: Any, **named: Any) -> Lightning:  # noqa: ANN401 - see Options
    """Return a callback for ``Trainer(callbacks=[...])``; the arguments are those of ``Options``.

    Raises:
        ExporterError: Lightning is not installed.
    """
    base = _package().Callback
    kind = type("TrainingMonitorCallback", (LightningHooks, base), {})
    return kind(Options(*options, **named))


def _package() -> Lightning:
    for name in sorted(PACKAGES, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as problem:
            if problem.name not in (name, name.partition(".")[0]):
                raise
    raise ExporterError(f"there is no {' and no '.join(PACKAGES)} here; pip install lightning")


class LightningHooks:
    """What the callback does at each of Lightning's hooks."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._monitor: TrainingMonitor | None = None
        self._samples = self._tokens = 0
        self._steps_before: int | None = None
        self._marks: _Marks | None = None

    def __reduce__(self) -> tuple[Callable[..., Lightning], tuple[Any, ...]]:
        # Into the processes that a strategy starts: each makes a monitor of its own.
        return lightning_callback, tuple(self._options)

    def setup(self, trainer: Lightning, pl_module: Lightning, stage: str) -> None:
        """Take the monitor of this rank; the strategy has started its processes by now."""
        if stage == "fit":
            # Lightning handles SIGTERM, and calls what it finds there: ours would end the process.
            rank = Rank(trainer.global_rank, trainer.world_size)
            self._monitor = self._options.monitor or shared_monitor(rank, sigterm=False)

    def on_train_start(self, trainer: Lightning, pl_module: Lightning) -> None:
        """Listen to the marks of the trainer's profiler."""
        if self._monitor is not None:
            timers: dict[str, PartTimer | PauseTimer] = {
                DATA: self._monitor.data(),
                CHECKPOINT: self._monitor.checkpoint(),
            }
            self._marks = _Marks(trainer.profiler, timers)

    def on_train_epoch_start(self, trainer: Lightning, pl_module: Lightning) -> None:
        """Say which epoch it is; a step that an epoch was left in never ends."""
        self._steps_before = None
        if self._monitor is not None:
            self._monitor.record(epoch=trainer.current_epoch)

    def on_train_batch_start(
        self, trainer: Lightning, pl_module: Lightning, batch: Tree, batch_idx: int
    ) -> None:
        """Begin a step, unless this batch goes on with one."""
        if self._monitor is None:
            return
        if self._steps_before is None:
            self._steps_before = trainer.global_step
            self._samples = self._tokens = 0
            self._monitor.begin_step()
        self._samples += self._options.samples(batch)
        self._tokens += self._options.tokens(batch)
        self._monitor.forward().begin()

    def on_before_backward(self, trainer: Lightning, pl_module: Lightning, loss: Lightning) -> None:
        """The forward pass is over."""
        if self._monitor is not None:
            self._monitor.forward().end()
            self._monitor.backward().begin()

    def on_after_backward(self, trainer: Lightning, pl_module: Lightning) -> None:
        """The backward pass is over."""
        if self._monitor is not None:
            self._monitor.backward().end()

    def on_before_optimizer_step(
        self, trainer: Lightning, pl_module: Lightning, optimizer: Lightning
    ) -> None:
        """The optimizer begins."""
        if self._monitor is not None:
            self._monitor.optimizer().begin()

    def on_train_batch_end(
        self,
        trainer: Lightning,
        pl_module: Lightning,
        outputs: Lightning,
        batch: Tree,
        batch_idx: int,
    ) -> None:
        """Count the step when the optimizer has taken one."""
        if self._monitor is None:
            return
        self._monitor.optimizer().end()
        self._monitor.record(
            loss=_loss(outputs, trainer.accumulate_grad_batches),
            learning_rate=_learning_rate(trainer),
        )
        if trainer.global_step != self._steps_before:
            self._steps_before = None
            self._monitor.end_step(self._tokens, self._samples)

    def on_train_epoch_end(self, trainer: Lightning, pl_module: Lightning) -> None:
        """Take the accuracy: to ask for what was logged costs too much for every step."""
        if self._monitor is not None:
            self._monitor.record(accuracy=trainer.callback_metrics.get(self._options.accuracy))

    def on_validation_start(self, trainer: Lightning, pl_module: Lightning) -> None:
        """A validation begins; the sanity check before the training is none."""
        if self._monitor is not None and not trainer.sanity_checking:
            self._monitor.validation().begin()

    def on_validation_end(self, trainer: Lightning, pl_module: Lightning) -> None:
        """It is over, and has results."""
        if self._monitor is not None and not trainer.sanity_checking:
            self._monitor.validation().end()
            metrics = trainer.callback_metrics
            self._monitor.record_validation(
                loss=metrics.get(self._options.validation_loss),
                accuracy=metrics.get(self._options.validation_accuracy),
            )

    def on_exception(
        self, trainer: Lightning, pl_module: Lightning, exception: BaseException
    ) -> None:
        """Leave the numbers so far behind."""
        self._finish()

    def teardown(self, trainer: Lightning, pl_module: Lightning, stage: str) -> None:
        """Leave the last numbers behind; the endpoint stays, for a training that may follow."""
        self._finish()

    def _finish(self) -> None:
        if self._marks is not None:
            self._marks.remove()
            self._marks = None
        self._steps_before = None
        if self._monitor is not None:
            self._monitor.flush()


class _Marks:
    """Times some of the actions that a profiler is told of.

    In place of two of its methods, not before all of it: it is told of two dozen actions a step.

    Args:
        profiler: The trainer's.
        timers: By the names of the actions.
    """

    def __init__(self, profiler: Lightning, timers: dict[str, PartTimer | PauseTimer]) -> None:
        self._profiler = profiler
        start, stop = profiler.start, profiler.stop

        def start_timed(action_name: str) -> None:
            if action_name in timers:
                timers[action_name].begin()
            start(action_name)

        def stop_timed(action_name: str) -> None:
            stop(action_name)
            if action_name in timers:
                timers[action_name].end()

        profiler.start, profiler.stop = start_timed, stop_timed

    def remove(self) -> None:
        """Give the profiler its own methods back, unless somebody else has."""
        self._profiler.__dict__.pop("start", None)
        self._profiler.__dict__.pop("stop", None)


def _loss(outputs: Lightning, accumulated: int) -> Lightning:
    """Return the loss of the batch; Lightning has divided it by the number that it accumulates."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return loss if loss is None or accumulated == 1 else loss * accumulated


def _learning_rate(trainer: Lightning) -> float | None:
    return trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else None
