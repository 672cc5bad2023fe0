"""Which GPUs are the job's."""

import pytest
from nvml_node import UUIDS

from jobmeter_exporters.errors import ExporterError
from jobmeter_exporters.nvidia_devices import Choice, Gpu, Instance, choice, chosen, names_in
from jobmeter_exporters.watched import NoData


def gpu(index, minor=None, instances=()):
    uuid = f"GPU-{index}abc-0000"
    return Gpu(None, index, minor, uuid, (str(index),), bool(instances), tuple(instances))


GPUS = [gpu(index, minor=index) for index in range(4)]


def indices(gpus, option, **environment):
    return [one.index for one in chosen(gpus, choice(option, environment))]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0", ("0",)),
        ("0,2-3,2", ("0", "2", "3")),
        (" GPU-1abc , 3", ("GPU-1abc", "3")),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("1,-1,2", ("1",)),
        ("0-99999", ("0-99999",)),
        ("²", ("²",)),
    ],
)
def test_names_in_a_list(text, names):
    assert names_in(text) == names


def test_the_jobs_gpus_of_this_node():
    assert indices(GPUS, "auto") == [0, 1, 2, 3]
    assert indices(GPUS, "auto", CUDA_VISIBLE_DEVICES="2,1") == [1, 2]
    assert indices(GPUS, "auto", SLURM_JOB_GPUS="3", CUDA_VISIBLE_DEVICES="0") == [3]
    assert indices(GPUS, "auto", SLURM_STEP_GPUS="2-3", SLURM_JOB_GPUS="0") == [2, 3]
    assert indices(GPUS, "auto", CUDA_VISIBLE_DEVICES="GPU-3AB,GPU-0abc") == [0, 3]


def test_options_go_before_the_jobs():
    assert indices(GPUS, "all", SLURM_JOB_GPUS="3") == [0, 1, 2, 3]
    assert indices(GPUS, "0,GPU-1", SLURM_JOB_GPUS="3") == [0, 1]


def test_numbers_of_slurm_are_those_of_device_files():
    """In the job's control group NVML numbers what it sees anew; CUDA, too."""
    renumbered = [gpu(0, minor=2), gpu(1, minor=3)]
    assert indices(renumbered, "auto", SLURM_JOB_GPUS="2,3", CUDA_VISIBLE_DEVICES="0,1") == [0, 1]
    assert indices(renumbered, "auto", SLURM_STEP_GPUS="3") == [1]
    assert indices(renumbered, "auto", CUDA_VISIBLE_DEVICES="1") == [1]


def test_without_device_files_as_many_as_the_job_has_are_its_own():
    unknown = [gpu(0), gpu(1)]
    assert indices(unknown, "auto", SLURM_JOB_GPUS="2,3") == [0, 1]
    with pytest.raises(ExporterError, match=r"SLURM_JOB_GPUS has '3', and NVML sees 0 \(GPU-0abc"):
        indices(unknown, "auto", SLURM_JOB_GPUS="3")


@pytest.mark.parametrize("nothing", ["", "-1", "NoDevFiles", "none"])
def test_a_job_without_gpus(nothing):
    with pytest.raises(NoData, match="CUDA_VISIBLE_DEVICES names no GPU"):
        indices(GPUS, "auto", CUDA_VISIBLE_DEVICES=nothing)


def test_names_that_are_not_there():
    with pytest.raises(ExporterError, match=r"--nvidia-devices has '7,GPU-x'.*or all"):
        indices(GPUS, "7,GPU-x")
    assert indices(GPUS, "7,1") == [1]


def test_an_instance_by_its_uuid():
    parts = [Instance(None, number, f"MIG-{number}", "1g.10gb") for number in (7, 8)]
    gpus = [gpu(0), gpu(1, instances=parts)]
    (only,) = chosen(gpus, Choice(("MIG-8",)))
    assert (only.index, [one.id for one in only.instances]) == (1, [8])
    (whole,) = chosen(gpus, Choice(("1",)))
    assert len(whole.instances) == 2


def test_instances_go_before_what_slurm_numbers():
    parts = [Instance(None, number, f"MIG-{number}", "1g.10gb") for number in (7, 8)]
    environment = {"SLURM_JOB_GPUS": "5", "CUDA_VISIBLE_DEVICES": "MIG-7"}
    (only,) = chosen([gpu(0), gpu(1, instances=parts)], choice("auto", environment))
    assert [one.id for one in only.instances] == [7]


def test_a_lost_gpu_of_another_job_is_no_trouble_of_ours(node):
    node.say({"3.handle": "error 15"})
    with node.scraper(CUDA_VISIBLE_DEVICES="0,1") as scraper:
        assert scraper.scrape().success
    with node.scraper(CUDA_VISIBLE_DEVICES="0,3") as scraper:
        assert not scraper.scrape().success


def test_only_the_jobs_gpus_are_read(node):
    with node.scraper(SLURM_JOB_GPUS="1,3") as scraper:
        scrape = scraper.scrape()
        asked = node.take_calls()
    assert len(scrape.values("DCGM_FI_DEV_POWER_USAGE")) == 2
    assert scrape.values("DCGM_FI_DEV_POWER_USAGE", UUID=UUIDS["1"])
    assert not [call for call in asked if call.startswith("0.") and "power" in call]


def test_a_wrong_choice_is_said_once_with_what_there_is(node):
    with node.scraper("--nvidia-devices", "9") as scraper:
        scrape, again = scraper.scrape(), scraper.scrape()
    assert (scrape.success, scrape.lines) == (False, [])
    assert "'9', and NVML sees 0 (GPU-0000" in scrape.log[0]
    assert again.log == []
