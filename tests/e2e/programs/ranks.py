"""One rank of a training: steps of a quarter of a second, then it ends, or is ended, or told to."""

import os
import sys
import time
from pathlib import Path

from jobmeter_exporters.training import TrainingMonitor


def main() -> None:
    steps, *told = sys.argv[1:]
    with TrainingMonitor() as monitor:
        for number in range(int(steps)):
            with monitor.step(tokens=1000, samples=10):
                time.sleep(0.25 + 0.05 * int(os.environ.get("RANK", 0)))
            monitor.record(loss=1 / (number + 1))
        while told and not Path(told[0]).exists():
            time.sleep(0.05)


if __name__ == "__main__":
    main()
