"""Everything jobmeter raises on purpose.

* JobmeterError
  - SpecError             the job file is wrong: unknown key, bad value, unknown name in a template
  - SiteError             the site profile is wrong, or this job cannot run on this site
  - RenderError           a template asks for something the plan does not have
  - ProcessError          a program is missing, failed, or did not answer in time
    - SchedulerError      sbatch, squeue or sacct failed, or said something unreadable
  - RunFolderError        a run directory is missing, cut short, or of another schema version
  - RecordingError        the recorded samples cannot be read
  - CatalogueError        a KPI definition is wrong
  - ImageError            an image is missing, damaged, for other machines, or could not be made
    - ImageRequestError   an image was asked for that there is not, or not in this way
  - InvalidRecordingError the recording is not valid, and it was required to be

Only the command line turns one of these into a line and an exit code.
"""

from __future__ import annotations

from typing import ClassVar


class JobmeterError(Exception):
    """Base of everything fit to be shown at a terminal.

    The message says what happened, with the value in question, then what to try.
    """

    exit_code: ClassVar[int] = 1


class SpecError(JobmeterError):
    """The job file is wrong."""

    exit_code = 2


class SiteError(JobmeterError):
    """The site profile is wrong, or this job cannot run on this site."""

    exit_code = 2


class RenderError(JobmeterError):
    """A template asks for something the plan does not have."""


class ProcessError(JobmeterError):
    """A program is missing, failed, or did not answer in time."""


class SchedulerError(ProcessError):
    """A Slurm command failed, or said something unreadable."""


class RunFolderError(JobmeterError):
    """A run directory is missing, cut short, or of another schema version."""


class RecordingError(JobmeterError):
    """The recorded samples cannot be read."""


class CatalogueError(JobmeterError):
    """A KPI definition is wrong."""


class ImageError(JobmeterError):
    """An image is missing, damaged, for other machines, or could not be made."""


class ImageRequestError(ImageError):
    """An image was asked for that there is not, or not in this way."""

    exit_code = 2


class InvalidRecordingError(JobmeterError):
    """The recording is not valid, and ``monitoring.required`` asked for a valid one."""

    exit_code = 3
