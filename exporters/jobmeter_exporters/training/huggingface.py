"""The callback for the Trainer of Hugging Face Transformers.

    Trainer(..., callbacks=[huggingface_callback()])

Samples and tokens are those that the model is given in the forward pass. Loss, learning rate and
norm of the gradient are those that the Trainer logs (``logging_steps``).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.training.batch import Tree, sample_count, token_count
from jobmeter_exporters.training.monitor import TrainingMonitor
from jobmeter_exporters.training.rank import Rank
from jobmeter_exporters.training.shared import shared_monitor

Transformers: TypeAlias = Any
"""Something of Transformers', which has no types where it is not installed."""


class Options(NamedTuple):
    """What a callback is made from.

    Args:
        monitor: Where it reports; one per process by default.
        samples: Number of samples in what the model is called with, by name.
        tokens: Number of tokens in it.
        accuracy: Name of the metric of an evaluation.
    """

    monitor: TrainingMonitor | None = None
    samples: Callable[[Tree], int] = sample_count
    tokens: Callable[[Tree], int] = token_count
    accuracy: str = "eval_accuracy"


def huggingface_callback(*options: Any, **named: Any) -> Transformers:  # noqa: ANN401 - see Options
    """Return a callback for ``Trainer(callbacks=[...])``; the arguments are those of ``Options``.

    Raises:
        ExporterError: Transformers is not installed.
    """
    try:
        base = importlib.import_module("transformers").TrainerCallback
    except ModuleNotFoundError as problem:
        if problem.name != "transformers":
            raise
        raise ExporterError("there is no transformers here; pip install transformers") from problem
    kind = type("TrainingMonitorCallback", (HuggingFaceHooks, base), {})
    return kind(Options(*options, **named))


class HuggingFaceHooks:
    """What the callback does at each event of the Trainer."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._monitor: TrainingMonitor | None = None
        self._samples = self._tokens = 0
        self._hooks: list[Transformers] = []

    def __reduce__(self) -> tuple[Callable[..., Transformers], tuple[Any, ...]]:
        return huggingface_callback, tuple(self._options)

    def on_train_begin(
        self,
        args: Transformers,
        state: Transformers,
        control: Transformers,
        **kwargs: Transformers,
    ) -> None:
        """Take the monitor of this rank, and look at what the model is called with."""
        rank = Rank(args.process_index, args.world_size)
        self._monitor = self._options.monitor or shared_monitor(rank, sigterm=True)
        self._unhook()
        model = kwargs["model"]
        self._hooks = [
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            model.register_forward_hook(self._after_forward),
        ]

    def on_epoch_begin(
        self, args: Transformers, state: Transformers, control: Transformers, **_: Transformers
    ) -> None:
        """The first batch is waited for."""
        if self._monitor is not None:
            self._monitor.record(epoch=state.epoch)
            self._monitor.data().begin()

    def on_step_begin(
        self, args: Transformers, state: Transformers, control: Transformers, **_: Transformers
    ) -> None:
        """The batches of a step are there."""
        if self._monitor is not None:
            self._samples = self._tokens = 0
            self._monitor.data().end()
            self._monitor.begin_step()

    def on_substep_end(
        self, args: Transformers, state: Transformers, control: Transformers, **_: Transformers
    ) -> None:
        """A backward pass is over, and another forward pass belongs to the same step."""
        if self._monitor is not None:
            self._monitor.backward().end()

    def on_pre_optimizer_step(
        self, args: Transformers, state: Transformers, control: Transformers, **_: Transformers
    ) -> None:
        """The backward pass is over, the clipping of the gradient included."""
        if self._monitor is not None:
            self._monitor.backward().end()
            self._monitor.optimizer().begin()

    def on_optimizer_step(
        self, args: Transformers, state: Transformers, control: Transformers, **_: Transformers
    ) -> None:
        """The optimizer has done its work."""
        if self._monitor is not None:
            self._monitor.optimizer().end()

    def on_step_end(
        self, args: Transformers, state: Transformers, control: Transformers, **_: Transformers
    ) -> None:
        """Count the step; ``control`` has what follows, as the Trainer's own callback is first."""
        if self._monitor is None:
            return
        self._monitor.end_step(self._tokens, self._samples)
        self._monitor.record(epoch=state.epoch)
        self._go_on(control.should_evaluate, control.should_save)

    def on_epoch_end(
        self, args: Transformers, state: Transformers, control: Transformers, **_: Transformers
    ) -> None:
        """The Trainer may evaluate and save now."""
        self._go_on(control.should_evaluate, control.should_save)

    def on_log(
        self,
        args: Transformers,
        state: Transformers,
        control: Transformers,
        logs: Mapping[str, float] | None = None,
        **_: Transformers,
    ) -> None:
        """Take what the Trainer says of the training."""
        if self._monitor is not None and logs and "loss" in logs:
            self._monitor.record(
                loss=_number(logs, "loss"),
                learning_rate=_number(logs, "learning_rate"),
                gradient_norm=_number(logs, "grad_norm"),
            )

    def on_evaluate(
        self,
        args: Transformers,
        state: Transformers,
        control: Transformers,
        metrics: Mapping[str, float] | None = None,
        **_: Transformers,
    ) -> None:
        """A validation is over, and has results."""
        if self._monitor is None:
            return
        self._monitor.validation().end()
        self._monitor.record_validation(
            loss=_number(metrics or {}, "eval_loss"),
            accuracy=_number(metrics or {}, self._options.accuracy),
        )
        self._go_on(False, control.should_save)

    def on_save(
        self, args: Transformers, state: Transformers, control: Transformers, **_: Transformers
    ) -> None:
        """A checkpoint is written."""
        if self._monitor is not None:
            self._monitor.checkpoint().end()
            self._go_on(False, False)

    def on_train_end(
        self, args: Transformers, state: Transformers, control: Transformers, **_: Transformers
    ) -> None:
        """Leave the last numbers behind; the endpoint stays, for a training that may follow."""
        self._unhook()
        if self._monitor is not None:
            self._monitor.flush()

    def _go_on(self, evaluates: bool, saves: bool) -> None:
        """Start the time of what comes next: a validation, a checkpoint, or the wait for data."""
        if self._monitor is None:
            return
        if evaluates:
            self._monitor.validation().begin()
        elif saves:
            self._monitor.checkpoint().begin()
        else:
            self._monitor.data().begin()

    def _before_forward(
        self, model: Transformers, args: Transformers, kwargs: Transformers
    ) -> None:
        if self._monitor is not None and model.training:
            batch = {**kwargs, "positional": args}
            self._samples += self._options.samples(batch)
            self._tokens += self._options.tokens(batch)
            self._monitor.forward().begin()

    def _after_forward(self, model: Transformers, args: Transformers, output: Transformers) -> None:
        if self._monitor is not None and model.training:
            self._monitor.forward().end()
            self._monitor.backward().begin()

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def _number(values: Mapping[str, float], name: str) -> float | None:
    value = values.get(name)
    return None if value is None else float(value)
