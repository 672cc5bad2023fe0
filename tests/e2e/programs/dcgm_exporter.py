"""A stand-in for dcgm-exporter: its options, and two GPUs whose energy grows.

``DCGM_STANDIN`` says how it does: ``works``, ``dies`` at once, ``silent`` (it runs, and knows of no
GPU), ``falls-silent`` after its tenth answer; ``DCGM_STANDIN_PROFILING``, whether it is to be asked
for what only Hopper and newer give to everybody.
"""

import argparse
import http.server
import os
import sys
import time
from pathlib import Path

GPU = 'gpu="{0}",UUID="GPU-{0}",device="nvidia{0}",modelName="H100",Hostname="n1"'


def exposition(began: float) -> str:
    lines = []
    for gpu in (0, 1):
        labels = GPU.format(gpu)
        energy_mj = 1e9 + 300_000 * (time.time() - began)
        lines.append(f"DCGM_FI_DEV_GPU_UTIL{{{labels}}} {50 + gpu}")
        lines.append(f"DCGM_FI_DEV_POWER_USAGE{{{labels}}} 300")
        lines.append(f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{labels}}} {energy_mj:.0f}")
    return "".join(f"{line}\n" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--collectors", type=Path)
    parser.add_argument("--collect-interval", type=int)
    parser.add_argument("--address", required=True)
    parser.add_argument("--web-config-file", type=Path)
    given = parser.parse_args()
    how = os.environ.get("DCGM_STANDIN", "works")
    if how == "dies":
        print("Failed to watch metrics: the host engine is not there", file=sys.stderr)
        return 1
    if given.collectors:
        asked = [line.partition(",")[0] for line in given.collectors.read_text().splitlines()]
        assert "DCGM_FI_DEV_GPU_UTIL" in asked
        assert ("DCGM_FI_PROF_SM_ACTIVE" in asked) == (os.environ["DCGM_STANDIN_PROFILING"] == "1")
        assert "basic_auth_users" in given.web_config_file.read_text()
    began, answers = time.time(), 0

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal answers
            answers += 1
            mute = how == "silent" or (how == "falls-silent" and answers > 10)
            if given.web_config_file and not self.headers.get("Authorization"):
                self.send_error(401)
                return
            body = b"" if mute else exposition(began).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    host, _, port = given.address.rpartition(":")
    http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
