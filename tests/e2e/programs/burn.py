#!/usr/bin/python3
"""Uses $1 seconds of CPU time, however long that takes."""

import sys
import time

if __name__ == "__main__":
    while time.process_time() < float(sys.argv[1]):
        pass
