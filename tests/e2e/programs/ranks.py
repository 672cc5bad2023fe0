"""One rank of a training: steps of a quarter of a second, and then it ends, or is ended."""

import os
import sys
import time

from jobmeter_exporters.training import TrainingMonitor


def main() -> None:
    steps = int(sys.argv[1])
    with TrainingMonitor() as monitor:
        for number in range(steps):
            with monitor.step(tokens=1000, samples=10):
                time.sleep(0.25 + 0.05 * int(os.environ["RANK"]))
            monitor.record(loss=1 / (number + 1))


if __name__ == "__main__":
    main()
