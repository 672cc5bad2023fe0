"""Puts texts into Qdrant, or asks vLLM questions with the texts that are nearest to them.

Nothing but Python is needed. The keys come from QDRANT_API_KEY and OPENAI_API_KEY.
"""

import argparse
import json
import os
import time
import urllib.request
import zlib
from pathlib import Path

COLLECTION, SIZE = "texts", 256
TEXTS = [
    f"Room {number} of the library is on floor {number % 7} and holds books on {subject}."
    for number, subject in enumerate(
        ["mountains", "rivers", "engines", "music", "medicine", "stars", "bread", "law"] * 25
    )
]


def send(url, method, path, body, **headers):
    request = urllib.request.Request(
        url + path,
        method=method,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **headers},
    )
    # A site's proxy does not reach the nodes of a job.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return json.load(answer)


def to_qdrant(url, method, path, body):
    key = {"api-key": os.environ["QDRANT_API_KEY"]}
    return send(url, method, f"/collections/{COLLECTION}{path}", body, **key)["result"]


def vector(text):
    """Return how often each word is in the text, words put into SIZE places by their hash."""
    counts = [0.0] * SIZE
    for word in text.lower().replace(".", "").replace("?", "").split():
        counts[zlib.crc32(word.encode()) % SIZE] += 1.0
    return counts


def insert(chosen):
    settings = {"vectors": {"size": SIZE, "distance": "Cosine"}}
    to_qdrant(chosen.vectors, "PUT", "", settings)
    points = [
        {"id": number, "vector": vector(text), "payload": {"text": text}}
        for number, text in enumerate(TEXTS)
    ]
    to_qdrant(chosen.vectors, "PUT", "/points?wait=true", {"points": points})
    return {"texts": len(points)}


def ask(chosen):
    seconds = {"retrieve": 0.0, "answer": 0.0}
    tokens = 0
    for number in range(chosen.questions):
        question = f"On which floor is room {number % len(TEXTS)}?"
        began = time.perf_counter()
        body = {"query": vector(question), "limit": 3, "with_payload": True}
        found = to_qdrant(chosen.vectors, "POST", "/points/query", body)["points"]
        retrieved = time.perf_counter()
        context = "\n".join(point["payload"]["text"] for point in found)
        prompt = f"{context}\n\nQuestion: {question}\nAnswer:"
        body = {"model": "llm", "prompt": prompt, "max_tokens": 32, "temperature": 0}
        bearer = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
        answer = send(chosen.llm, "POST", "/v1/completions", body, **bearer)
        seconds["retrieve"] += retrieved - began
        seconds["answer"] += time.perf_counter() - retrieved
        tokens += answer["usage"]["completion_tokens"]
    means = {f"mean_{part}_s": spent / chosen.questions for part, spent in seconds.items()}
    return {"questions": chosen.questions, "completion_tokens": tokens, **means}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("what", choices=["insert", "ask"])
    arguments.add_argument("vectors", help="address of Qdrant")
    arguments.add_argument("llm", help="address of vLLM")
    arguments.add_argument("result", type=Path, help="file to write")
    arguments.add_argument("--questions", type=int, default=100)
    chosen = arguments.parse_args()
    saw = {"insert": insert, "ask": ask}[chosen.what](chosen)
    chosen.result.write_text(json.dumps(saw, indent=2))
    print(json.dumps(saw))


if __name__ == "__main__":
    main()
