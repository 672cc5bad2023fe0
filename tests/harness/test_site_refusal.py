"""What a site cannot run is refused before anything is written, with the limit and a way out."""

import pytest

from jobmeter.errors import SiteError
from jobmeter.quantities import slurm_time_s
from jobmeter.site import SiteProfile, read_site
from jobmeter.site_files import shipped_sites
from jobmeter.site_limits import OTHERS
from jobmeter.site_refusal import check_request, overriding, remarks
from jobmeter.spec import Resources

MELUXINA = read_site("meluxina")
USUAL = {"account": "p200000", "partition": "gpu", "time": "01:00:00"}


def refused(site=MELUXINA, name="meluxina", **asked):
    with pytest.raises(SiteError) as caught:
        check_request(Resources(**asked), name, site, "job.yaml")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def accepted(site=MELUXINA, name="meluxina", **asked):
    check_request(Resources(**asked), name, site, "job.yaml")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"time": "3-00:00:00"},
            "resources.time: 3-00:00:00 asked for, but QOS 'default' allows 2-00:00:00; "
            "ask for 2-00:00:00 or less, or take QOS 'long'",
        ),
        (
            {"nodes": 60},
            "resources.nodes: 60 nodes asked for, but QOS 'default' allows 50; ask for 50 or "
            "fewer, or take QOS 'large' (by arrangement)",
        ),
        (
            {"partition": "cpu", "qos": "test", "nodes": 29, "time": "30"},
            "resources.nodes: 29 nodes asked for, but QOS 'test' allows 28; ask for 28 or fewer, "
            "or take QOS 'default' or QOS 'large' (by arrangement)",
        ),
        (
            {"partition": "cpu", "gpus_per_node": 4},
            "resources.gpus_per_node: 4 GPUs a node asked for, but partition 'cpu' has none; "
            "ask for 0, or take partition 'gpu'",
        ),
        (
            {"gpus_per_node": 8},
            "resources.gpus_per_node: 8 GPUs a node asked for, but partition 'gpu' has 4; "
            "ask for 4 or fewer, on more nodes",
        ),
        (
            {"tasks_per_node": 4, "cpus_per_task": 64},
            "resources.cpus_per_task: 4 x 64 CPUs a node asked for, but partition 'gpu' has 128; "
            "ask for fewer, on more nodes, or take partition 'cpu'",
        ),
        (
            {"memory": "512G"},
            "resources.memory: 512G a node asked for, but partition 'gpu' has 480G; "
            "ask for 480G or less",
        ),
        (
            {"partition": "gpuu"},
            "resources.partition: site 'meluxina' has no partition 'gpuu'; did you mean 'gpu'?",
        ),
        (
            {"qos": "debug"},
            "resources.qos: site 'meluxina' has no QOS 'debug'; known: default, dev, test, short, "
            "short-preempt, long, large, urgent",
        ),
        (
            {"account": None},
            "resources.account: site 'meluxina' demands one; add it",
        ),
        (
            {"partition": None},
            "resources.partition: site 'meluxina' demands one; add it, one of cpu, gpu, fpga, "
            "largemem",
        ),
        (
            {"qos": "dev"},
            "resources.reservation: QOS 'dev' demands one; add one of cpudev, gpudev, or take QOS "
            "'default' or QOS 'short' or QOS 'short-preempt' (preempted by urgent)",
        ),
        (
            {"extra": ["--time=5-00:00:00"]},
            "resources.extra: 5-00:00:00 asked for, but QOS 'default' allows 2-00:00:00; ask for "
            "2-00:00:00 or less, or take QOS 'long'",
        ),
        (
            {"extra": ["--partition cpu --gres=gpu:a100:4,tmp:1"]},
            "resources.extra: 4 GPUs a node asked for, but partition 'cpu' has none; ask for 0, "
            "or take partition 'gpu'",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(asked, message):
    assert refused(**{**USUAL, **asked}) == f"job.yaml: {message}"


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"time": "48:00:00", "nodes": 50, "gpus_per_node": 4, "memory": "480G"},
        {"time": "144:00:00", "qos": "long", "nodes": 10},
        {"qos": "dev", "reservation": "gpudev"},
        {"tasks_per_node": 4, "cpus_per_task": 32},
        {"partition": "cpu,gpu", "gpus_per_node": 4},  # one of them will do
        {"time": "10-00:00:00", "extra": ["--time=01:00:00"]},
        {"gpus_per_node": 8, "extra": ["--gpus-per-node=a100:4"]},
        {"account": None, "extra": ["--account=p200000"]},
        {"memory": "0"},  # all of a node
    ],
)
def test_what_can_be_is_not(asked):
    accepted(**{**USUAL, **asked})


def test_a_limit_that_is_not_known_refuses_nothing():
    everything = {"nodes": 10**6, "time": "999-00", "gpus_per_node": 99, "memory": "99T"}
    everything |= {"partition": "x", "qos": "y", "account": "z", "cpus_per_task": 10**6}
    accepted(read_site("generic-slurm"), "generic-slurm", **everything)
    elsewhere = {**everything, "gpus_per_node": 4}
    accepted(read_site("marenostrum5"), "marenostrum5", **elsewhere)


def test_limits_of_all_other_partitions_hold_where_none_is_named_too():
    site = read_site("marenostrum5")
    asked = {"account": "a", "qos": "acc_debug", "gpus_per_node": 8}
    assert "every partition has 4" in refused(site, "marenostrum5", **asked)
    assert "partition 'acc' has 4" in refused(site, "marenostrum5", partition="acc", **asked)


def test_a_qos_may_begin_at_a_number_of_nodes():
    site = read_site("leonardo")
    asked = {"account": "a", "partition": "boost_usr_prod", "qos": "boost_qos_bprod", "nodes": 64}
    assert "64 nodes asked for, but QOS 'boost_qos_bprod' begins at 65" in refused(
        site, "leonardo", **asked
    )


def test_every_limit_of_every_shipped_partition_and_qos_can_be_asked_for():
    for name in shipped_sites():
        site = read_site(name)
        needed = {key: "x" for key in site.mandatory if key not in ("time", "partition", "qos")}
        for kind, limits in (("partition", site.partitions), ("qos", site.qos)):
            for key, limit in limits.items():
                if key == OTHERS:
                    continue
                other = {"qos": {"partition": next(iter(site.partitions))}, "partition": {}}[kind]
                if kind == "partition" and "qos" in site.mandatory:
                    other = {"qos": site.defaults.qos or next(iter(site.qos))}
                if getattr(limit, "reservations", None):
                    other = {**other, "reservation": limit.reservations[0]}
                nodes = getattr(limit, "min_nodes", None) or 1
                asked = {**needed, **other, kind: key, "nodes": nodes, "time": limit.max_time}
                if limit.max_time is None:
                    asked["time"] = "00:01:00"
                default = site.qos.get(site.defaults.qos or "")
                if kind == "partition" and default is not None and default.max_time is not None:
                    shorter = min(asked["time"], default.max_time, key=slurm_time_s)
                    asked["time"] = shorter
                accepted(site, name, **asked)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gpus=64"], "resources.extra: --gpus"),
        (["--mem-per-cpu=4G"], "resources.extra: --mem-per-cpu"),
        (["--time=0"], "resources.extra: --time=0"),
        (["--tim=99-00"], "resources.extra: --tim"),
        (["--nodes=all"], "resources.extra: --nodes=all"),
    ],
)
def test_an_option_that_is_not_understood_is_said_to_be_unchecked(options, said):
    asked = Resources(**USUAL, extra=options)
    check_request(asked, "meluxina", MELUXINA, "job.yaml")
    assert remarks(asked, "meluxina", MELUXINA) == (
        f"{said} is not checked against the limits of site 'meluxina'",
    )


def test_an_option_that_changes_no_limit_is_not_spoken_of():
    asked = Resources(**USUAL, extra=["--comment=a 'b' $c", "--exclusive", "--nodelist=mel2001"])
    assert remarks(asked, "meluxina", MELUXINA) == ()
    assert remarks(Resources(extra=["--gpus=64"]), "generic-slurm", SITE) == ()


SITE = SiteProfile(description="x", launcher="slurm")


def test_variables_that_override_the_script_are_named_without_their_values():
    said = overriding({"SBATCH_PARTITION": "secret", "SLURM_JOB_ID": "1", "HOME": "/"})
    assert said == (
        "SBATCH_PARTITION is set, and sbatch puts it above the job file; unset it if that is not "
        "meant",
    )
