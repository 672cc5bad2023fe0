"""Fills a collection of Qdrant, or asks it, over REST, and writes down what it saw.

Nothing but Python is needed. The key comes from QDRANT_API_KEY.
"""

import argparse
import json
import os
import random
import statistics
import time
import urllib.request
from pathlib import Path

COLLECTION, SIZE = "example", 128


class Client:
    """Requests one after the other, each timed."""

    def __init__(self, url):
        self._url = url
        self.seconds, self.server_seconds = [], []

    def send(self, method, path, body):
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "api-key": os.environ["QDRANT_API_KEY"]},
        )
        began = time.perf_counter()
        # A site's proxy does not reach the nodes of a job.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request) as answer:
            said = json.load(answer)
        self.seconds.append(time.perf_counter() - began)
        self.server_seconds.append(said["time"])
        return said["result"]


def vector(rng):
    return [rng.gauss(0, 1) for _ in range(SIZE)]


def insert(client, rng, chosen):
    settings = {"vectors": {"size": SIZE, "distance": "Dot"}}
    client.send("PUT", f"/collections/{COLLECTION}", settings)
    client.seconds.clear()  # of what follows alone: the server counts requests for points only
    client.server_seconds.clear()
    for first in range(0, chosen.points, chosen.batch_size):
        numbers = range(first, min(first + chosen.batch_size, chosen.points))
        points = [{"id": number, "vector": vector(rng)} for number in numbers]
        client.send("PUT", f"/collections/{COLLECTION}/points?wait=true", {"points": points})


def query(client, rng, chosen):
    for _ in range(chosen.queries):
        body = {"query": vector(rng), "limit": 10}
        client.send("POST", f"/collections/{COLLECTION}/points/query", body)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("what", choices=["insert", "query"])
    arguments.add_argument("url")
    arguments.add_argument("result", type=Path, help="file to write")
    arguments.add_argument("--points", type=int, default=20000)
    arguments.add_argument("--batch-size", type=int, default=200)
    arguments.add_argument("--queries", type=int, default=2000)
    chosen = arguments.parse_args()
    client, rng = Client(chosen.url), random.Random(7)
    began = time.perf_counter()
    {"insert": insert, "query": query}[chosen.what](client, rng, chosen)
    seconds = time.perf_counter() - began
    quantiles = statistics.quantiles(client.seconds, n=100)
    saw = {
        "requests": len(client.seconds),
        "requests_per_second": len(client.seconds) / seconds,
        "server_mean_ms": 1000 * statistics.fmean(client.server_seconds),
        "mean_ms": 1000 * statistics.fmean(client.seconds),
        **{f"p{percent}_ms": 1000 * quantiles[percent - 1] for percent in (50, 95, 99)},
    }
    chosen.result.write_text(json.dumps(saw, indent=2))
    print(json.dumps(saw))


if __name__ == "__main__":
    main()
