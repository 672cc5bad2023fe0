"""The password of one run: made here, written to files of mode 0600, and nowhere else."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import bcrypt

_LOWEST_COST = 4  # 256 random bits cannot be guessed at any cost, and a scrape should be cheap


@dataclass(frozen=True)
class Credentials:
    """User name and password; the password stays out of ``repr``."""

    username: str
    password: str = field(repr=False)

    @property
    def bcrypt_hash(self) -> str:
        """What Prometheus and node_exporter compare with."""
        return bcrypt.hashpw(self.password.encode(), bcrypt.gensalt(rounds=_LOWEST_COST)).decode()

    @property
    def curl_config(self) -> str:
        """A curl configuration file with these credentials."""
        return f'user = "{self.username}:{self.password}"\n'


def new_credentials(username: str) -> Credentials:
    """Return credentials with a random password of 256 bits, safe in YAML, URLs and headers."""
    return Credentials(username, secrets.token_urlsafe(32))
