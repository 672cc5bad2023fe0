"""Inside vLLM's server: writes down every value that a histogram observes.

Found by way of PYTHONPATH. It is the truth that the histograms' buckets are compared with: each
observation becomes a line ``time name value`` in the file that OBSERVED names.
"""

import os
import time


def witness(path):
    from prometheus_client import Histogram

    observe = Histogram.observe
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def observed(self, amount, *rest, **more):
        os.write(file, f"{time.time():.6f} {self._name} {amount!r}\n".encode())
        return observe(self, amount, *rest, **more)

    Histogram.observe = observed


if os.environ.get("OBSERVED"):
    witness(os.environ["OBSERVED"])
