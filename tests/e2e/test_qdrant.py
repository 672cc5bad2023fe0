"""The example job for Qdrant with a stand-in for the server, against what its client counted."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from slurm_user import Table

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).parent / "programs" / "qdrant.py"

pytestmark = pytest.mark.prometheus


def job(version, recipe="qdrant"):
    """Return the example with the stand-in, smaller."""
    text = (ROOT / "examples" / "qdrant.yaml").read_text()
    text = text.replace("{{ job_dir }}", str(ROOT / "examples"))
    text = text.replace('insert.json"', 'insert.json --points 500 --batch-size 20"')
    text = text.replace('query.json"', 'query.json --queries 60"')
    job = yaml.safe_load(text)
    job["services"]["vectors"] |= {
        "recipe": recipe,
        "binary": str(STAND_IN),
        "environment": {"STAND_IN_VERSION": version},
    }
    return json.dumps(job)


@pytest.mark.parametrize("version", ["1.16.0", "2024-08"])
def test_the_table_says_what_the_client_counted(version, started, tmp_path):
    # A server may lack what a recipe asks for.
    shipped = (ROOT / "harness" / "jobmeter" / "recipes" / "qdrant.yaml").read_text()
    more = "snapshots: {nothing: {path: /nothing}, collections:"
    (tmp_path / "own.yaml").write_text(shipped.replace("snapshots: {collections:", more))
    child = started(job(version, "own.yaml"))
    stdout, stderr = child.communicate(timeout=180)
    assert child.returncode == 0, stdout + stderr
    (attempt,) = (tmp_path / "runs").glob("*/attempts/local")
    table = Table(json.loads((attempt / "report" / "kpis.json").read_text()))
    for phase, requests in (("insert", 25), ("query", 60)):
        assert re.search(rf"^phase {phase} *\nqdrant_", stdout + stderr, re.M), stdout
        client = json.loads((attempt / "results" / phase / f"{phase}.json").read_text())
        assert client["requests"] == requests
        row = table.one("qdrant_rest_requests_total", phase=phase)
        assert (row["value"], row["status"]) == (requests, "exact")
        row = table.one("qdrant_rest_request_seconds_mean", phase=phase)
        assert row["status"] == "exact"
        # Each answer says how long it took, which is what the server adds up.
        assert row["value"] == pytest.approx(client["server_mean_ms"] / 1000, rel=1e-6)
        assert row["value"] <= client["mean_ms"] / 1000
    assert table.one("qdrant_vectors_last", phase="query")["value"] == 500
    kept = attempt / "snapshots"
    assert names_of(kept / "ready") == {"vectors/collections.json"}
    of_each = {"vectors/collections.json", "vectors/collections.example.json"}
    assert names_of(kept / "insert.end") == names_of(kept / "query.end") == of_each
    settings = json.loads((kept / "query.end/vectors/collections.example.json").read_text())
    assert settings["result"]["config"]["params"]["vectors"] == {"size": 128, "distance": "Dot"}
    said = {(one["when"], one["name"]): one for one in table.manifest["snapshots"]["vectors"]}
    moments = ("ready", "insert.end", "query.end")
    assert {when for when, name in said if name == "collections"} == set(moments)
    refused = "curl: (22) The requested URL returned error: 404"
    assert all(said[when, "nothing"]["failed"] == refused for when in moments)
    taken = said["query.end", "collections.example"]
    kept_bytes = (kept / "query.end/vectors/collections.example.json").read_bytes()
    assert taken["sha256"] == hashlib.sha256(kept_bytes).hexdigest()
    assert (taken["failed"], taken["content"]) == (None, settings)
    assert said["ready", "collections"]["content"]["result"] == {"collections": []}
    key = (attempt.parents[1] / "secrets" / "service.key").read_bytes()
    assert not [p for p in attempt.rglob("*") if p.is_file() and key in p.read_bytes()]


def names_of(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_without_the_key_only_readiness_answers(started, tmp_path):
    told = yaml.safe_load(job("1.16.0"))
    codes = "curl -s -o /dev/null -w '%{http_code} ' $JOBMETER_URL_VECTORS"
    told["phases"] = [{"name": "ask", "run": "; ".join(codes + path for path in PATHS)}]
    child = started(json.dumps(told))
    stdout, stderr = child.communicate(timeout=180)
    assert child.returncode == 0, stderr
    assert re.search(r"200 401 401 401 ", stdout), stdout


PATHS = ("/readyz", "/metrics", "/collections", "/collections/example/points/query")
