"""What a living Prometheus says of its targets, over HTTP, past the proxies of the environment.

A job's Prometheus listens on the loopback of its node, so a proxy never knows the way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import numpy as np

from jobmeter.errors import RecordingError
from jobmeter.quantities import duration_s
from jobmeter_analysis.recording import NO_TIMES, Selector, Series

TIMEOUT_S = 10.0
USERNAME = "jobmeter"
"""Whose password a run has, where the URL names nobody."""
_NEVER = 1.0
"""Seconds since the epoch: a scrape before it never was."""


@dataclass(frozen=True)
class ServerTarget:
    """One target of a server.

    Args:
        name: ``service@node`` of a run of jobmeter, else ``job@instance``.
        health: ``up``, ``down`` or ``unknown``, as the server says.
        age_s: How long ago it was asked, by the server's clock; None where that is not said.
        interval_s: Between two scrapes; None where that is not said.
        error: Why the last scrape failed.
    """

    name: str
    health: str
    age_s: float | None
    interval_s: float | None
    error: str


@dataclass(frozen=True)
class ServerNow:
    """One server.

    Args:
        answers: Whether it answers as a Prometheus does.
        why: Why it does not.
        targets: What it asks.
    """

    answers: bool
    why: str = ""
    targets: tuple[ServerTarget, ...] = ()


class LiveServer:
    """A Prometheus that can be asked again and again.

    Args:
        url: Of its start page; may hold a user name and a password.
        password: In place of one in the URL; never shown.

    Raises:
        RecordingError: the URL is none.
    """

    def __init__(self, url: str, password: str | None = None) -> None:
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, TypeError) as cause:
            raise RecordingError(f"this is no URL of a Prometheus: {cause}") from cause
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise RecordingError("the URL of a Prometheus begins with http:// or https://")
        self._auth = None
        if parsed.username or password is not None:
            secret = parsed.password if password is None else password
            self._auth = (parsed.username or USERNAME, secret)
        self.name = str(parsed.copy_with(userinfo=b"", query=None, fragment=None)).rstrip("/")

    def look(self) -> ServerNow:
        """Return what it says of its targets; a server that does not answer is no error."""
        try:
            data, at = self._ask("targets", {"state": "active"})
            targets = [_target(one, at) for one in data["activeTargets"]]
        except RecordingError as cause:
            return ServerNow(False, str(cause))
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            return ServerNow(
                False, f"{self.name}: does not answer as a Prometheus does ({cause!r})"
            )
        return ServerNow(True, targets=tuple(targets))

    def last(self, selectors: Sequence[Selector]) -> list[Series]:
        """Return the last sample of each series; nothing where the server does not answer."""
        names = "|".join(selector.name for selector in selectors)
        try:
            data, _ = self._ask("query", {"query": f'{{__name__=~"{names}"}}'})
            return [_series(one) for one in data["result"]]
        except (RecordingError, KeyError, TypeError, ValueError, AttributeError, IndexError):
            return []

    def _ask(self, what: str, form: dict[str, str]) -> tuple[Any, float | None]:
        """Return the answer and the server's time, seconds since the epoch."""
        try:
            with httpx.Client(timeout=TIMEOUT_S, auth=self._auth, trust_env=False) as http:
                response = http.get(f"{self.name}/api/v1/{what}", params=form)
        except httpx.TimeoutException as cause:
            raise RecordingError(f"{self.name}: no answer within {TIMEOUT_S:g} s") from cause
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as cause:
            raise RecordingError(f"{self.name}: cannot be reached ({cause})") from cause
        if response.status_code in (401, 403):
            raise RecordingError(
                f"{self.name}: refused with status {response.status_code}; the password is wrong "
                "or missing"
            )
        try:
            answer = json.loads(response.content)
            if answer["status"] != "success":
                raise RecordingError(f"{self.name}: {answer.get('error', 'an error')}")
            return answer["data"], _server_time(response)
        except (ValueError, KeyError, TypeError) as cause:
            raise RecordingError(
                f"{self.name}: does not answer as a Prometheus does (status {response.status_code})"
            ) from cause


def _server_time(response: httpx.Response) -> float | None:
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return None


def _target(said: dict[str, Any], at: float | None) -> ServerTarget:
    labels = said["labels"]
    service = labels.get("service") or labels.get("job", "")
    place = labels.get("node") or labels.get("instance", "")
    asked = datetime.fromisoformat(_short(said.get("lastScrape", ""))).timestamp()
    interval = said.get("scrapeInterval")
    return ServerTarget(
        name=f"{service}@{place}",
        health=str(said.get("health", "unknown")),
        age_s=max(0.0, at - asked) if at is not None and asked > _NEVER else None,
        interval_s=_interval_s(interval) if interval else None,
        error=str(said.get("lastError", "")),
    )


def _short(time: str) -> str:
    """Return a time of Go as Python 3.10 can read it: at most six digits of a second.

    >>> _short("2026-11-23T02:00:01.123456789+01:00"), _short("2026-11-23T02:00:01Z")
    ('2026-11-23T02:00:01.123456+01:00', '2026-11-23T02:00:01+00:00')
    """
    time = time.replace("Z", "+00:00")
    whole, dot, rest = time.partition(".")
    if not dot:
        return time
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return f"{whole}.{rest[:digits][:6]:0<6}{rest[digits:]}"


def _interval_s(text: str) -> float | None:
    """Return seconds from a duration of Prometheus.

    >>> _interval_s("1m30s"), _interval_s("500ms"), _interval_s("1w")
    (90.0, 0.5, None)
    """
    total, rest = 0.0, text
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789"))
        unit = rest[digits:]
        letters = len(unit) - len(unit.lstrip("abcdefghijklmnopqrstuvwxyz"))
        try:
            total += duration_s(rest[: digits + letters])
        except ValueError:
            return None
        rest = unit[letters:]
    return total


def _series(said: dict[str, Any]) -> Series:
    at, value = said["value"]
    times = np.array([round(float(at) * 1000)], np.int64)
    return Series(dict(said["metric"]), times, np.array([float(value)]), NO_TIMES)
