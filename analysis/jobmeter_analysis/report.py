"""The artifacts of an analysis: tables and MANIFEST.json, each written as a whole."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from jobmeter.files import write_atomically
from jobmeter_analysis.engine import Analysis

MANIFEST = "MANIFEST.json"
CSV = "kpis.csv"
JSON = "kpis.json"
PARQUET = "kpis.parquet"


def write_report(analysis: Analysis, folder: Path) -> None:
    """Write kpis.csv, kpis.json, kpis.parquet and, last, MANIFEST.json with their checksums.

    Each file is replaced as a whole. MANIFEST.json comes last: when it is there, and its checksums
    agree, the others are of the same analysis.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(analysis.table.to_csv(index=False), folder / CSV)
    write_atomically(as_json(analysis), folder / JSON)
    _write_parquet(analysis.table, folder / PARQUET)
    artifacts = {
        name: {"sha256": _sha256(folder / name), "bytes": (folder / name).stat().st_size}
        for name in (CSV, JSON, PARQUET)
    }
    manifest = {**analysis.manifest, "artifacts": artifacts}
    write_atomically(_dumped(manifest), folder / MANIFEST)


def as_json(analysis: Analysis) -> str:
    """Return ``{"rows": [...], "manifest": {...}}``; NaN and infinity as null."""
    rows = analysis.table.to_dict(orient="records")
    return _dumped({"rows": rows, "manifest": analysis.manifest})


def _dumped(data: Mapping[str, Any]) -> str:
    return json.dumps(_finite(data), indent=2, allow_nan=False) + "\n"


def _finite(data: Any) -> Any:  # noqa: ANN401  # whatever JSON can hold
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    table.to_parquet(partial, index=False)
    partial.chmod(0o600)
    partial.replace(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
