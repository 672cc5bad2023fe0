"""The GPUs of this node, their instances (MIG), and which of them are the job's."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.families import Labels
from jobmeter_exporters.nvidia_answers import LOST, Answers, GpuLost, Handle, Nvml
from jobmeter_exporters.watched import NoData

NO_PERMISSION = 4
VARIABLES = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES")
"""Where the job's GPUs stand. The step's come first: the job's reach other nodes by inheritance."""

NOTHING = frozenset({"", "-1", "none", "void", "nodevfiles"})
"""What stands there when the job has none; CUDA, too, ignores what follows."""


@dataclass(frozen=True)
class Instance:
    """A GPU instance of a GPU that is cut up.

    Args:
        handle: NVML's handle of (the first compute instance of) it.
        id: Number of the GPU instance.
        uuid: ``MIG-...``.
        profile: Such as ``1g.10gb``.
    """

    handle: Handle
    id: int
    uuid: str
    profile: str

    @property
    def labels(self) -> Labels:
        """What DCGM's labels have beside those of the GPU: profile and id."""
        return (self.profile, str(self.id))


@dataclass(frozen=True)
class Gpu:
    """A GPU that NVML sees.

    Args:
        handle: NVML's handle.
        index: NVML's number of it.
        minor: Number of its device file, also where NVML's numbers begin anew in a job.
        uuid: ``GPU-...``.
        labels: DCGM's labels of it.
        cut: Whether it is cut into instances.
        instances: Those that are to be reported.
    """

    handle: Handle
    index: int
    minor: int | None
    uuid: str
    labels: Labels
    cut: bool = False
    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True)
class Choice:
    """Which GPUs to report.

    Args:
        names: Numbers or UUIDs (or how they begin); None for all.
        source: Where they stood, for messages.
        by_minor: Whether numbers are those of device files, as Slurm's are.
    """

    names: tuple[str, ...] | None
    source: str = "--nvidia-devices"
    by_minor: bool = False


def choice(option: str, environment: Mapping[str, str]) -> Choice:
    """Return the choice that ``--nvidia-devices`` stands for.

    >>> choice("0,2", {}).names
    ('0', '2')
    >>> choice("auto", {"CUDA_VISIBLE_DEVICES": "1"}).names
    ('1',)
    >>> choice("auto", {}).names is None
    True
    """
    if option == "all":
        return Choice(None)
    if option != "auto":
        return Choice(names_in(option))
    # Slurm numbers instances as if they were GPUs.
    first = [VARIABLES[-1]] if "MIG-" in environment.get(VARIABLES[-1], "") else []
    for variable in (*first, *VARIABLES):
        if variable in environment:
            names = names_in(environment[variable])
            return Choice(names, variable, variable.startswith("SLURM_"))
    return Choice(None)


def names_in(text: str) -> tuple[str, ...]:
    """Return the GPUs of a list such as ``0,2-3`` or ``GPU-8932f937-...``.

    >>> names_in("0, 2-3")
    ('0', '2', '3')
    >>> names_in("-1")
    ()
    """
    names: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if part.lower() in NOTHING:
            break
        if between := re.fullmatch(r"(\d{1,4})-(\d{1,4})", part, re.ASCII):
            names += map(str, range(int(between[1]), int(between[2]) + 1))
        else:
            names.append(part)
    return tuple(dict.fromkeys(names))


def may_be_meant(index: int, choice: Choice) -> bool:
    """Whether a GPU of which no more than NVML's number is known may be one to report."""
    names = choice.names
    by_index = names is not None and not choice.by_minor and all(map(str.isdecimal, names))
    return names is None or not by_index or str(index) in names


def found(nvml: Nvml, hostname: str) -> tuple[list[Gpu], dict[int, str]]:
    """Return the GPUs that NVML lets us see, and by index what went wrong with others.

    Raises:
        pynvml.NVMLError: The driver does not answer at all.
    """
    driver = nvml.nvmlSystemGetDriverVersion()
    gpus: list[Gpu] = []
    problems: dict[int, str] = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            gpus.append(_gpu(nvml, index, hostname, driver))
        except GpuLost as lost:
            problems[index] = str(lost)
        except nvml.NVMLError as problem:
            # Where the control group of the job forbids a GPU, it is another job's.
            if problem.value != NO_PERMISSION:
                problems[index] = LOST.get(problem.value, str(problem))
    return gpus, problems


def chosen(gpus: Sequence[Gpu], choice: Choice) -> list[Gpu]:
    """Return the GPUs, and of those that are cut up the instances, that are to be reported.

    Raises:
        NoData: The job has none.
        ExporterError: None of the GPUs that are here is among them.
    """
    if choice.names is None:
        return list(gpus)
    if not choice.names:
        raise NoData(f"{choice.source} names no GPU")
    some = [part for gpu in gpus if (part := _part(gpu, choice)) is not None]
    if some or not gpus:
        return some
    if choice.by_minor and len(gpus) <= len(choice.names):
        return list(gpus)  # the job's own, numbered anew, and no device file to tell by
    here = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus)
    raise ExporterError(
        f"{choice.source} has {','.join(choice.names)!r}, and NVML sees {here}; "
        "name some of these with --nvidia-devices, or all"
    )


def _part(gpu: Gpu, choice: Choice) -> Gpu | None:
    """Return the GPU, with the instances that are meant; None when it is not meant at all."""
    names = choice.names or ()
    number = gpu.minor if choice.by_minor else gpu.index
    if str(number) in names or any(_begins(gpu.uuid, name) for name in names):
        return gpu
    own = tuple(one for one in gpu.instances if any(_begins(one.uuid, name) for name in names))
    return dataclasses.replace(gpu, instances=own) if own else None


def _begins(uuid: str, name: str) -> bool:
    return name.upper().startswith(("GPU-", "MIG-")) and uuid.upper().startswith(name.upper())


def _gpu(nvml: Nvml, index: int, hostname: str, driver: str) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    answers = Answers(nvml)
    uuid = nvml.nvmlDeviceGetUUID(handle)
    mode = answers.ask("MIG", nvml.nvmlDeviceGetMigMode, handle)
    cut = bool(mode and mode[0])
    pci = answers.ask("PCI", nvml.nvmlDeviceGetPciInfo_v3, handle)
    bus_id = pci.busId if pci is not None else ""
    name = answers.ask("name", nvml.nvmlDeviceGetName, handle) or ""
    return Gpu(
        handle,
        index,
        answers.ask("minor number", nvml.nvmlDeviceGetMinorNumber, handle),
        uuid,
        (
            str(index),
            uuid,
            bus_id.decode() if isinstance(bus_id, bytes) else bus_id,
            f"nvidia{index}",
            name,
            hostname,
            driver,
        ),
        cut,
        tuple(_instances(nvml, answers, handle)) if cut else (),
    )


def _instances(nvml: Nvml, answers: Answers, handle: Handle) -> list[Instance]:
    """Return each GPU instance once, however many compute instances it is cut into."""
    by_id: dict[int, Instance] = {}
    for index in range(answers.ask("instances", nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        device = answers.ask(
            f"instance {index}", nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index
        )
        if device is None:
            continue
        number = answers.ask("instance id", nvml.nvmlDeviceGetGpuInstanceId, device)
        if number is None:
            continue
        name = answers.ask("instance name", nvml.nvmlDeviceGetName, device) or ""
        uuid = answers.ask("instance UUID", nvml.nvmlDeviceGetUUID, device) or ""
        by_id.setdefault(number, Instance(device, number, uuid, profile_in(name)))
    return list(by_id.values())


def profile_in(name: str) -> str:
    """Return the profile of a GPU instance from the name of a MIG device.

    >>> profile_in("NVIDIA H100 80GB HBM3 MIG 1g.10gb")
    '1g.10gb'
    >>> profile_in("NVIDIA H100 80GB HBM3 MIG 1c.3g.40gb")
    '3g.40gb'
    """
    return re.sub(r"^\d+c\.", "", name.rpartition(" MIG ")[2])
