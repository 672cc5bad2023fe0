"""What a job file says of its model, and the numbers that follow for KPIs such as MFU.

Floating-point operations of a token, forward and backward, are ``6 N + 6 L H d S``: N parameters
that take part in the multiplications of a token (of a mixture of experts the active ones), L
layers, H heads of size d, S tokens of the sequence. Neither what a causal mask spares nor what is
computed again counts (the convention of torchtitan, components/metrics.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from jobmeter import strict
from jobmeter.quantities import large_number


def _checked_number(text: str | float) -> str | float:
    large_number(text)
    return text


LargeNumber = Annotated[str | int | float, AfterValidator(_checked_number)]

_ATTENTION = ("layers", "heads", "head_size", "sequence_length")


class Workload(strict.StrictModel):
    """Numbers of a model and of the devices that it runs on."""

    parameters: LargeNumber | None = None
    layers: int | None = Field(default=None, ge=1)
    heads: int | None = Field(default=None, ge=1)
    head_size: int | None = Field(default=None, ge=1)
    sequence_length: int | None = Field(default=None, ge=1)
    flops_per_token: LargeNumber | None = None
    peak_flops_per_second: LargeNumber | None = None
    devices: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _is_whole(self) -> Workload:
        if self.parameters is not None and self.flops_per_token is not None:
            raise ValueError("both 'parameters' and 'flops_per_token'; keep one of them")
        given = [key for key in _ATTENTION if getattr(self, key) is not None]
        if given and (len(given) < len(_ATTENTION) or self.parameters is None):
            needed = ("parameters", *_ATTENTION)
            missing = [key for key in needed if getattr(self, key) is None]
            raise ValueError(f"{', '.join(given)} without {', '.join(missing)}; add the missing")
        return self


def numbers_of(workload: Workload, gpus: int) -> Mapping[str, float]:
    """Return what formulas of KPIs may use: only what is known.

    Args:
        workload: From the job file.
        gpus: Of the job; 0 when its devices are not GPUs that Slurm counts.

    >>> numbers_of(Workload(parameters="7B", peak_flops_per_second="989T"), 8)
    {'flops_per_token': 42000000000.0, 'peak_flops_per_second': 989000000000000.0, 'devices': 8.0}
    """
    found: dict[str, float] = {}
    if workload.flops_per_token is not None:
        found["flops_per_token"] = large_number(workload.flops_per_token)
    elif workload.parameters is not None:
        attention = 1.0
        for key in _ATTENTION:
            attention *= getattr(workload, key) or 0
        found["flops_per_token"] = 6 * large_number(workload.parameters) + 6 * attention
    if workload.peak_flops_per_second is not None:
        found["peak_flops_per_second"] = large_number(workload.peak_flops_per_second)
    devices = workload.devices or gpus
    if devices:
        found["devices"] = float(devices)
    return found
