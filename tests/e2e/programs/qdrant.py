#!/usr/bin/python3
"""A stand-in for Qdrant, of which no server can be had where the tests run. It is no database.

It serves the documented REST paths that the clients in examples/ use, and the metrics of two
versions in the form of the recordings in tests/fixtures/expositions: STAND_IN_VERSION=1.16.0, or
2024-08, which leaves empty buckets out and has no ``app_info``. Like the original it takes its
settings from QDRANT__ variables, answers /readyz to everybody and the rest to who shows the key,
and counts and times the endpoints that work on points.
"""

import http.server
import json
import os
import re
import threading
import time

KEY = os.environ.get("QDRANT__SERVICE__API_KEY")
VERSION = os.environ.get("STAND_IN_VERSION", "1.16.0")
EDGES_S = {
    "1.16.0": (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 10, 50),
    "2024-08": (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
}[VERSION]
COUNTED = re.compile(r"/collections/[^/]+(/points(/query)?)")


class State:
    """Collections, and what was answered by method, endpoint and status."""

    def __init__(self):
        self.lock = threading.Lock()
        self.collections = {}
        self.answered = {}

    def count(self, method, path, status, seconds):
        found = COUNTED.fullmatch(path)
        if found is None:
            return
        key = (method, "/collections/{name}" + found[1], status)
        with self.lock:
            self.answered.setdefault(key, []).append(seconds)


STATE = State()


def collections(method, parts, body):
    """Return status and answer of a request below /collections."""
    if not parts:
        return 200, {"collections": [{"name": name} for name in STATE.collections]}
    name, *rest = parts
    if method == "PUT" and not rest:
        STATE.collections[name] = {"params": {"vectors": body["vectors"]}, "points": {}}
        return 200, True
    if name not in STATE.collections:
        return 404, None
    collection = STATE.collections[name]
    points = collection["points"]
    if method == "GET" and not rest:
        config = {"params": collection["params"]}
        return 200, {"status": "green", "points_count": len(points), "config": config}
    if method == "PUT" and rest == ["points"]:
        if any(len(point["vector"]) != size_of(collection) for point in body["points"]):
            return 400, None
        points.update({point["id"]: point for point in body["points"]})
        return 200, {"operation_id": 0, "status": "completed"}
    if method == "POST" and rest == ["points", "query"]:
        wanted = body["query"]
        if len(wanted) != size_of(collection):
            return 400, None
        found = nearest(points.values(), wanted, body["limit"])
        if body.get("with_payload"):
            found = [one | {"payload": points[one["id"]].get("payload")} for one in found]
        return 200, {"points": found}
    return 404, None


def size_of(collection):
    return collection["params"]["vectors"]["size"]


def nearest(points, wanted, limit):
    scored = ((sum(map(float.__mul__, point["vector"], wanted)), point["id"]) for point in points)
    best = sorted(scored, reverse=True)[:limit]
    return [{"id": number, "score": score} for score, number in best]


def exposition():
    """Return the metrics in the order and spelling of the recordings."""
    sizes = {name: len(one["points"]) for name, one in STATE.collections.items()}
    lines = []
    if VERSION == "1.16.0":
        lines += family("app_info", "gauge", [(f'name="qdrant",version="{VERSION}"', 1)])
    lines += family("collections_total", "gauge", [("", len(sizes))])
    lines += family("collections_vector_total", "gauge", [("", sum(sizes.values()))])
    if VERSION == "1.16.0":
        points = [(f'id="{name}"', size) for name, size in sizes.items()]
        lines += family("collection_points", "gauge", points)
    with STATE.lock:
        answered = {key: list(seconds) for key, seconds in STATE.answered.items()}
    labels = {key: 'method="{}",endpoint="{}",status="{}"'.format(*key) for key in sorted(answered)}
    counts = [(text, len(answered[key])) for key, text in labels.items()]
    lines += family("rest_responses_total", "counter", counts)
    lines += family("rest_responses_fail_total", "counter", [(text, 0) for text, _ in counts])
    lines.append("# TYPE rest_responses_duration_seconds histogram")
    for key, text in labels.items():
        if key[2] == 200:
            lines += histogram("rest_responses_duration_seconds", text, answered[key])
    return "\n".join(lines) + "\n"


def family(name, kind, samples):
    braces = ((f"{{{labels}}}" if labels else "", value) for labels, value in samples)
    return [f"# TYPE {name} {kind}", *(f"{name}{labels} {value}" for labels, value in braces)]


def histogram(name, labels, seconds):
    before = 0
    for edge in EDGES_S:
        upto = sum(one <= edge for one in seconds)
        if VERSION == "1.16.0" or upto > before:
            yield f'{name}_bucket{{{labels},le="{edge}"}} {upto}'
        before = upto
    yield f'{name}_bucket{{{labels},le="+Inf"}} {len(seconds)}'
    yield f"{name}_sum{{{labels}}} {sum(seconds)}"
    yield f"{name}_count{{{labels}}} {len(seconds)}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length) or "null")
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.path == "/readyz":
            self.send(200, "all shards are ready", "text/plain")
        elif KEY not in (self.headers.get("api-key"), bearer):
            self.send(401, "Must provide an API key or an Authorization bearer token", "text/plain")
        elif self.path == "/metrics":
            self.send(200, exposition(), "text/plain")
        else:
            self.act(body)

    do_GET = do_PUT = do_POST = answer  # noqa: N815 - the names that the base class looks for

    def act(self, body):
        began = time.perf_counter()
        path = self.path.partition("?")[0]
        root, *parts = path.strip("/").split("/")
        status, result = 404, None
        if root == "collections":
            status, result = collections(self.command, parts, body)
        seconds = time.perf_counter() - began
        STATE.count(self.command, path, status, seconds)
        word = "ok" if status == 200 else {"error": f"answered {status}"}
        said = {"result": result, "status": word, "time": seconds}
        self.send(status, json.dumps(said, separators=(",", ":")), "application/json")

    def send(self, status, text, kind):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        """Say nothing of each request."""


if __name__ == "__main__":
    address = (os.environ["QDRANT__SERVICE__HOST"], int(os.environ["QDRANT__SERVICE__HTTP_PORT"]))
    http.server.ThreadingHTTPServer(address, Handler).serve_forever()
