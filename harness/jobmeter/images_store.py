"""Where a site keeps its images: the folders of a profile, as paths of this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from jobmeter.errors import ImageRequestError
from jobmeter.runtime import ImageStore

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)


def image_folder(site: str, store: ImageStore) -> Path:
    """Return the folder of a site's images.

    Raises:
        ImageRequestError: the profile names none, or a variable in it is not set.
    """
    if store.folder is None:
        raise ImageRequestError(
            f"--site {site}: its profile names no images.folder; write one there, or give --folder"
        )
    return expanded(store.folder, "images.folder")


def expanded(text: str, key: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return ``text`` as an absolute path, its ``$NAME`` read from the environment.

    Raises:
        ImageRequestError: a variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not environment.get(name):
            raise ImageRequestError(f"{key}: {text}: ${name} is not set here; set it")
        return environment[name]

    return Path(_VARIABLE.sub(value, text)).expanduser().absolute()
