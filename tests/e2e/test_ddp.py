"""A real PyTorch trains on every rank of two nodes: counts to the last sample, and who is slow."""

import re
from pathlib import Path

import pytest
from slurm_user import User
from testbed import Cluster

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".programs" / "training"
EXAMPLES = ROOT / "examples"
NODES, RANKS, BATCH, SEQUENCE, LAYERS = 2, 4, 8, 64, 2
SLOW_RANK, SLOW_S = 2, 0.2
STEPS = {"train": 20, "experts": 5}
PYTHON = "/opt/training/bin/python"
JOB = f"""
name: ddp
resources: {{nodes: {NODES}, tasks_per_node: 2, time: "00:10:00"}}
monitoring: {{interval: 1s, exporters: [node, cgroup]}}
phases:
  - name: train
    run: |
      srun --ntasks={{{{ nodes }}}} --ntasks-per-node=1 {PYTHON} -m torch.distributed.run \\
        --nnodes={{{{ nodes }}}} --nproc-per-node={{{{ tasks_per_node }}}} --rdzv-backend=c10d \\
        --rdzv-endpoint={{{{ rendezvous.host }}}}:{{{{ rendezvous.port }}}} \\
        --rdzv-conf=read_timeout=300 \\
        /opt/examples/train_lm.py --batch-size {BATCH} --steps {STEPS["train"]} \\
        --slow-rank {SLOW_RANK} --slow-s {SLOW_S}
  - name: experts
    run: |
      srun bash -c 'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
        exec {PYTHON} /opt/examples/train_lm.py --batch-size {BATCH} --experts 4 \\
          --steps {STEPS["experts"]}'
"""
FRAMEWORKS = {"lightning": 4, "huggingface": 3}
"""Steps of each rank."""
FRAMEWORKS_JOB = f"""
name: frameworks
resources: {{nodes: {NODES}, tasks_per_node: 2, time: "00:10:00"}}
monitoring: {{interval: 1s, exporters: [node]}}
phases:
  - name: lightning
    run: >-
      srun {PYTHON} /opt/programs/frameworks.py
      lightning {FRAMEWORKS["lightning"]} {BATCH} {SEQUENCE}
  - name: huggingface
    run: >-
      srun --ntasks={{{{ nodes }}}} --ntasks-per-node=1 {PYTHON} -m torch.distributed.run
      --nnodes={{{{ nodes }}}} --nproc-per-node={{{{ tasks_per_node }}}} --rdzv-backend=c10d
      --rdzv-endpoint={{{{ rendezvous.host }}}}:{{{{ rendezvous.port }}}}
      --rdzv-conf=read_timeout=300
      /opt/programs/frameworks.py huggingface {FRAMEWORKS["huggingface"]} {BATCH} {SEQUENCE}
"""
SITE = """
description: a Slurm with a PyTorch
launcher: slurm
prologue:
  - export PYTHONPATH=$(echo /opt/jobmeter/lib/python3*/site-packages)
  - export OMP_NUM_THREADS=1 TORCH_CPP_LOG_LEVEL=ERROR HF_HUB_OFFLINE=1
"""

pytestmark = [pytest.mark.cluster, pytest.mark.prometheus]


@pytest.fixture(scope="module")
def submitted(installed):
    """Run a job file on a cluster whose nodes have a PyTorch; return what came of it."""
    if not (ENVIRONMENT / "made_from").exists():
        pytest.skip(f"no {ENVIRONMENT}: tools/get-training-frameworks.sh {ENVIRONMENT} python3")
    binds = {
        **installed(None),
        ENVIRONMENT: Path("/opt/training"),
        EXAMPLES: Path("/opt/examples"),
    }
    with Cluster.start(nodes=NODES, binds=binds) as cluster:
        user = User(cluster)
        site = user.write("torch.yaml", SITE)

        def submit(name, text):
            run = user.submit(f"{name}.yaml", text, site=site)
            run.wait_for_end(timeout_s=600)
            return run

        yield submit


@pytest.fixture(scope="module")
def run(submitted):
    return submitted("ddp", JOB)


@pytest.fixture(scope="module")
def table(run):
    return run.table()


def test_every_phase_trains_on_all_ranks_at_a_rendezvous_of_its_own(run):
    assert [event["exit_code"] for event in run.events("phase_end")] == [0, 0], run.output
    assert run.events("recording_closed")[0]["clean"] is True
    assert not run.events("endpoint_refused")
    trained = re.findall(rf"(\d+) steps on each of {RANKS} ranks", run.output)
    assert trained == [str(steps) for steps in STEPS.values()]
    assert not [c for c in run.user.cluster.pids().values() if "train_lm" in c]


@pytest.mark.parametrize("phase", STEPS)
def test_steps_samples_and_tokens_are_exact(phase, table):
    check_counts(table, phase, STEPS[phase])


def test_lightning_below_srun_and_hugging_face_below_torchrun(submitted):
    """Each finds its ranks by what the job has set, and each rank is counted to the last token."""
    run = submitted("frameworks", FRAMEWORKS_JOB)
    assert [event["exit_code"] for event in run.events("phase_end")] == [0, 0], run.output
    trained = re.findall(rf"(\w+): rank (\d) of {RANKS} has trained", run.output)
    everybody = [(framework, str(rank)) for framework in FRAMEWORKS for rank in range(RANKS)]
    assert sorted(trained) == sorted(everybody), run.output
    table = run.table()
    for phase, steps in FRAMEWORKS.items():
        check_counts(table, phase, steps)
        for kpi in ("rank_forward_time_ratio", "rank_backward_time_ratio"):
            assert len(table.find(kpi, phase=phase, scope="rank")) == RANKS, kpi


def check_counts(table, phase, steps):
    """Compare what each rank counted in a phase, and all of them together, with the truth."""
    truth = {
        "steps_total": steps,
        "samples_total": steps * BATCH,
        "tokens_total": steps * BATCH * SEQUENCE,
    }
    for kpi, of_a_rank in truth.items():
        whole = table.one(kpi, phase=phase, scope="job")
        assert (whole["value"], whole["status"]) == (RANKS * of_a_rank, "exact"), kpi
        ranks = table.find(kpi, phase=phase, scope="service")
        assert {row["entity"]: row["value"] for row in ranks} == {
            f"training-rank{rank}@mel{1 + rank // 2:04}": of_a_rank for rank in range(RANKS)
        }, kpi
        assert {row["status"] for row in ranks} == {"exact"}, kpi


def test_every_token_is_routed_or_dropped(table):
    routed, dropped = (
        table.one(f"moe_{what}_tokens_total", phase="experts", scope="job")["value"]
        for what in ("routed", "dropped")
    )
    assert (
        routed + dropped
        == LAYERS * table.one("tokens_total", phase="experts", scope="job")["value"]
    )
    assert routed > dropped


def scores(table, kpi):
    rows = table.find(f"{kpi}_score_ratio", phase="train", scope="rank")
    assert len(rows) == RANKS, rows
    return {row["entity"].partition("@")[0]: row for row in rows}


def test_the_slow_rank_is_named(run, table):
    slow = f"rank{SLOW_RANK}"
    said = run.user.jobmeter("analyze", run.inside).stdout
    assert re.search(rf"^straggler in phase train: {slow}@mel0002: ", said, flags=re.M), said
    for kpi in ("rank_forward_time_ratio", "rank_backward_time_ratio"):
        of_ranks = scores(table, kpi)
        assert min(of_ranks, key=lambda rank: of_ranks[rank]["value"]) == slow, of_ranks
    named = [
        rank
        for rank, row in scores(table, "rank_forward_time_ratio").items()
        if "outlier" in row["reason"]
    ]
    assert named == [slow]
    # All ranks wait for it, each in its own step: the time of a step is that of everybody.
    (own,) = table.find("rank_forward_time_ratio", phase="train", entity=f"{slow}@mel0002")
    seconds = table.one("phase_seconds", phase="train")["value"]
    assert own["value"] * seconds >= STEPS["train"] * SLOW_S
    for row in table.find("rank_step_seconds_mean", phase="train", scope="rank"):
        assert row["value"] >= SLOW_S, row
