"""Everything the exporters raise on purpose.

* ExporterError
  - PortInUse        something else listens on the address
  - NothingToReport  an exporter that is required has no numbers here
  - UnexpectedText   a file of the kernel does not read as documented
  - CommandError     a program could not be started, took too long, or said what nobody can read
    - TooMuchOutput  it printed more than there is room for

``watched.NoData`` is not among them: it says that there is nothing to report.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class ExporterError(Exception):
    """Base of everything fit to be shown at a terminal.

    The message says what happened, with the value in question, then what to try.
    """

    exit_code: ClassVar[int] = 1


class PortInUse(ExporterError):  # noqa: N818 - reads as what happened, like its exit code
    """The address is taken; the caller tries the next port."""

    exit_code = errno.EADDRINUSE


class NothingToReport(ExporterError):  # noqa: N818 - the same
    """An exporter that is required has no numbers on this node."""

    exit_code = 3


class UnexpectedText(ExporterError):  # noqa: N818 - the same
    """A file of the kernel does not read as documented."""


class CommandError(ExporterError):
    """A program could not be started, took too long, or said what nobody can read."""


class TooMuchOutput(CommandError):  # noqa: N818 - the same
    """A program printed more than there is room for."""
