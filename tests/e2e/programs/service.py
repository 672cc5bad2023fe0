#!/usr/bin/python3
"""A server that a job starts: it counts, and fails in the ways that a test asks for.

usage: service.py HOST PORT [--ready-after REQUESTS] [--never-ready] [--shares-port] [--child]

GET /ready        503 until it was asked so often, then 200
POST /add/N       adds N to work_units_total
POST /end/STATUS  ends at once
GET /settings     says the units as JSON
GET /metrics      asks for the key in SERVICE_KEY as a bearer's, if there is one
"""

import argparse
import http.server
import os
import socket
import subprocess
import sys

parser = argparse.ArgumentParser()
parser.add_argument("host")
parser.add_argument("port", type=int)
parser.add_argument("--ready-after", type=int, default=0)
parser.add_argument("--never-ready", action="store_true")
parser.add_argument("--shares-port", action="store_true")
parser.add_argument("--child", action="store_true", help="leave a process in a session of its own")


class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    units = 0
    arguments = None

    def do_GET(self):
        handler = type(self)
        if self.path == "/ready":
            handler.asked += 1
            late = handler.asked <= self.arguments.ready_after
            self.answer(503 if late or self.arguments.never_ready else 200)
        elif self.path not in ("/metrics", "/settings"):
            self.answer(404)
        elif self.headers.get("Authorization", "") != bearer():
            self.answer(401)
        elif self.path == "/settings":
            self.answer(200, f'{{"units": {handler.units}}}')
        else:
            self.answer(200, f"# TYPE work_units_total counter\nwork_units_total {handler.units}\n")

    def do_POST(self):
        what, number = self.path.strip("/").split("/")
        if what == "end":
            os._exit(int(number))
        type(self).units += int(number)
        self.answer(200)

    def answer(self, status, text=""):
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


def bearer():
    key = os.environ.get("SERVICE_KEY")
    return f"Bearer {key}" if key else ""


class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):
        if Handler.arguments.shares_port:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


if __name__ == "__main__":
    Handler.arguments = parser.parse_args()
    if Handler.arguments.child:
        subprocess.Popen(["sleep", "301"])
    print("listening on", Handler.arguments.port, file=sys.stderr, flush=True)
    Server((Handler.arguments.host, Handler.arguments.port), Handler).serve_forever()
