"""Announcements that nobody should believe, as files in JOBMETER_ENDPOINTS_DIR."""

import json
import os
import socket
import time
from pathlib import Path


def main() -> None:
    folder, run = Path(os.environ["JOBMETER_ENDPOINTS_DIR"]), os.environ["JOBMETER_RUN_ID"]
    here = socket.gethostname()
    for service, node, auth, run_id in (
        ("cgroup", here, "basic", run),
        ("other", here, "basic", "another-run"),
        ("far", "elsewhere", "none", run),
    ):
        said = {"schema": 1, "service": service, "node": node, "host": "127.0.0.1", "port": 9}
        said |= {"path": "/metrics", "auth": auth, "run_id": run_id}
        (folder / f"{service}.json").write_text(json.dumps(said) + "\n")
    (folder / "garbage.json").write_bytes(b"\xff{no announcement")
    time.sleep(3)


if __name__ == "__main__":
    main()
