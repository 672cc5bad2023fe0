"""A two-layer network learns a noisy function on the CPU, and says how it goes on /metrics.

Plain numpy, so that it runs wherever jobmeter does. What matters for the meter: counters and a
histogram that move with every step, and the last exposition left behind as a file, because the
endpoint ends with the process and nothing else could read its final values.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from prometheus_client import (
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    start_http_server,
    write_to_textfile,
)

SAMPLES = Counter("training_samples", "Samples that went through the network.")
STEP = Histogram(
    "training_step_duration_seconds",
    "Time of one optimizer step.",
    buckets=[0.001 * 1.5**n for n in range(20)],
)
LOSS = Gauge("training_loss", "Mean squared error of the last batch.")
LOSS.set(float("nan"))  # there is none before the first step


def batches(rng, size, features):
    """Yield batches of inputs and of the noisy function of them that is to be learned."""
    secret = rng.normal(size=(features, 1)) / features**0.5
    while True:
        inputs = rng.normal(size=(size, features))
        yield inputs, np.tanh(inputs @ secret) + 0.05 * rng.normal(size=(size, 1))


def train(steps, batch_size, features=64, hidden=256, learning_rate=0.02):
    """Take ``steps`` steps of gradient descent and return the last loss."""
    rng = np.random.default_rng(7)
    first = rng.normal(size=(features, hidden)) / features**0.5
    second = rng.normal(size=(hidden, 1)) / hidden**0.5
    data = batches(rng, batch_size, features)
    for _ in range(steps):
        began = time.perf_counter()
        inputs, wanted = next(data)
        active = np.maximum(inputs @ first, 0.0)
        error = active @ second - wanted
        loss = float((error**2).mean())
        gradient = 2.0 * error / batch_size
        first -= learning_rate * inputs.T @ ((gradient @ second.T) * (active > 0))
        second -= learning_rate * active.T @ gradient
        SAMPLES.inc(batch_size)
        LOSS.set(loss)
        STEP.observe(time.perf_counter() - began)
    return loss


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--port", type=int, required=True, help="where /metrics listens")
    arguments.add_argument("--steps", type=int, default=1000)
    arguments.add_argument("--batch-size", type=int, default=2048)
    chosen = arguments.parse_args()
    start_http_server(chosen.port, addr="127.0.0.1")
    loss = train(chosen.steps, chosen.batch_size)
    left = os.environ.get("JOBMETER_FINAL_METRICS")
    if left:
        write_to_textfile(str(Path(left) / "training.prom"), REGISTRY)
    print(f"{chosen.steps} steps, loss {loss:.4f}")


if __name__ == "__main__":
    main()
