"""A two-layer network learns a noisy function on the CPU, and says how it goes on /metrics.

Plain numpy, so that it runs wherever jobmeter does. The monitor counts the steps, serves the
numbers on the port, and leaves the last ones behind as a file: the endpoint ends with the process,
and nothing else could read its final values.
"""

import argparse
from itertools import islice

import numpy as np

from jobmeter_exporters.training import TrainingMonitor


def batches(rng, size, features):
    """Yield batches of inputs and of the noisy function of them that is to be learned."""
    secret = rng.normal(size=(features, 1)) / features**0.5
    while True:
        inputs = rng.normal(size=(size, features))
        yield inputs, np.tanh(inputs @ secret) + 0.05 * rng.normal(size=(size, 1))


def train(monitor, steps, batch_size, features=64, hidden=256, learning_rate=0.02):
    """Take ``steps`` steps of gradient descent and return the last loss."""
    rng = np.random.default_rng(7)
    first = rng.normal(size=(features, hidden)) / features**0.5
    second = rng.normal(size=(hidden, 1)) / hidden**0.5
    data = monitor.batches(batches(rng, batch_size, features))
    monitor.record(learning_rate=learning_rate)
    for inputs, wanted in islice(data, steps):
        with monitor.step(samples=batch_size):
            with monitor.forward():
                active = np.maximum(inputs @ first, 0.0)
                error = active @ second - wanted
                loss = float((error**2).mean())
            with monitor.backward():
                gradient = 2.0 * error / batch_size
                to_first = inputs.T @ ((gradient @ second.T) * (active > 0))
                to_second = active.T @ gradient
            with monitor.optimizer():
                first -= learning_rate * to_first
                second -= learning_rate * to_second
            monitor.record(loss=loss)
    return loss


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--port", type=int, required=True, help="where /metrics listens")
    arguments.add_argument("--steps", type=int, default=1000)
    arguments.add_argument("--batch-size", type=int, default=2048)
    chosen = arguments.parse_args()
    with TrainingMonitor(port=chosen.port) as monitor:
        loss = train(monitor, chosen.steps, chosen.batch_size)
    print(f"{chosen.steps} steps, loss {loss:.4f}")


if __name__ == "__main__":
    main()
