#!/usr/bin/python3
"""A payload service with a counter: POST /add/N adds N, GET /metrics shows it. No dependencies.

Its argument is the port; 0 takes a free one, and says which.
"""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

total = 0
lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        global total
        with lock:
            total += int(self.path.rsplit("/", 1)[1])
        self.answer("")

    def do_GET(self):
        self.answer(
            "# HELP work_units_total Units of work.\n# TYPE work_units_total counter\n"
            f"work_units_total {total}\n"
        )

    def answer(self, text):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    if sys.argv[1] == "0":
        print(server.server_port, flush=True)
    server.serve_forever()
