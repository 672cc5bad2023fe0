"""Where recorded samples can come from: a data folder, a living server, a Parquet file.

All of them give the same samples of the same recording; ``docs/recordings.md`` says where they
differ. ``open_source`` finds the right one for a text of the command line.
"""

from __future__ import annotations

import re
from pathlib import Path

from jobmeter.errors import RecordingError
from jobmeter_analysis.recording import Recording

_DATA_FOLDERS = ("tsdb", "data")


def open_source(text: str) -> Recording:
    """Return the recording that a person means by ``text``.

    Args:
        text: A Prometheus data folder, the URL of a Prometheus, or a file that
            ``jobmeter export`` wrote.

    Raises:
        RecordingError: it is none of them.
    """
    if text.startswith(("http://", "https://")):
        from jobmeter_analysis.sources.prometheus_server import PrometheusServer

        return PrometheusServer(text)
    path = Path(text)
    if "://" in text:
        raise RecordingError(f"{text.partition('://')[0]}://: no source; give an http(s) URL")
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        from jobmeter_analysis.sources.parquet import ParquetFile

        return ParquetFile(path)
    raise RecordingError(
        f"{text}: no such folder or file; a source is a Prometheus data folder, "
        "the URL of a Prometheus, or a Parquet file that 'jobmeter export' wrote"
    )


def without_password(source: str) -> str:
    """Return a source as it may be shown.

    >>> without_password("https://me:s@cret@prometheus:9090/x"), without_password("data/tsdb")
    ('https://prometheus:9090/x', 'data/tsdb')
    """
    return re.sub(r"^(\w+://)[^/?#]*@", r"\1", source)


def _folder(path: Path) -> Recording:
    from jobmeter_analysis.sources.prometheus_folder import PrometheusFolder

    if (path / "run.json").is_file() or (path / "events.jsonl").is_file():
        raise RecordingError(
            f"{path}: a run of jobmeter, not a data folder; 'jobmeter analyze {path}' knows more "
            "of it (or give the folder 'tsdb' of one of its attempts)"
        )
    for folder in (path, *(path / name for name in _DATA_FOLDERS)):
        if _is_data_folder(folder):
            return PrometheusFolder(folder)
    raise RecordingError(
        f"{path}: no Prometheus data folder: it has neither a folder 'wal' nor blocks"
    )


def _is_data_folder(folder: Path) -> bool:
    return (folder / "wal").is_dir() or any(folder.glob("*/meta.json"))
