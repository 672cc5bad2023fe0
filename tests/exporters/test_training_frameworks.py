"""The callbacks with the real PyTorch, Lightning and Transformers, on a CPU.

These packages are not in the environment of the tests but in one of their own, which
``tools/get-training-frameworks.sh`` makes; the programs that run there are in
``training_frameworks/programs.py``.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import jobmeter_exporters

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parents[1] / ".programs" / "training"
PROGRAMS = HERE / "training_frameworks" / "programs.py"
DEADLINE_S = 240.0


@pytest.fixture(autouse=True)
def environment():
    if not (ENVIRONMENT / "made_from").exists():
        pytest.skip(f"no {ENVIRONMENT}: tools/get-training-frameworks.sh {ENVIRONMENT} python3")


@pytest.fixture
def run(tmp_path):
    """Run a program in a job; return what it says."""
    (tmp_path / "final").mkdir()
    launched = ("SLURM", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(launched)}
    variables = {
        "PYTHONPATH": str(Path(jobmeter_exporters.__file__).parents[1]),
        "JOBMETER_FINAL_METRICS": str(tmp_path / "final"),
        "SLURMD_NODENAME": "n1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),  # torchrun leaves folders behind
    }

    def run(*arguments, launcher=()):
        done = subprocess.run(
            [ENVIRONMENT / "bin" / "python", *launcher, PROGRAMS, *arguments],
            env={**kept, **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


def left(folder, service="training"):
    """Return the samples of the last exposition by their names and labels."""
    text = (folder / "final" / f"{service}@n1.prom").read_text()
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{text}"' for name, text in sorted(sample.labels.items()))
            samples[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return samples


def check(done, samples):
    """Compare with the line in which the program says what it expects."""
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("EXPECTED ")]
    for name, expected in json.loads(line.removeprefix("EXPECTED ")).items():
        if expected is None:
            assert name not in samples
        elif expected == "some":
            assert samples[name] > 0, name
        else:
            assert samples[name] == pytest.approx(expected, rel=1e-6), name


LIGHTNING = pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])


@LIGHTNING
def test_a_training_in_lightning(run, tmp_path, package):
    done = run("in_lightning", package, str(tmp_path / "work"))
    samples = left(tmp_path)
    check(done, samples)
    parts = [samples[f"training_{part}_seconds_total"] for part in ("forward", "backward")]
    assert sum(parts) < samples["training_step_duration_seconds_sum"]


def test_trainings_one_after_the_other_are_counted_together(run, tmp_path):
    done = run("one_after_the_other", "lightning.pytorch", str(tmp_path / "work"))
    check(done, left(tmp_path))


def test_epochs_that_are_left_early(run, tmp_path):
    check(run("epochs_left_early", "lightning.pytorch", str(tmp_path / "work")), left(tmp_path))


def test_ranks_that_lightning_spawns(run, tmp_path):
    run("two_ranks", "lightning.pytorch", str(tmp_path / "work"))
    for rank in ("0", "1"):
        samples = left(tmp_path, f"training-rank{rank}")
        assert samples[f'training_step_duration_seconds_count{{rank="{rank}"}}'] == 3
        assert samples[f'training_samples_total{{rank="{rank}"}}'] in (11, 12)


def test_a_sigterm_in_lightning_loses_nothing(run, tmp_path):
    done = run("interrupted", "lightning.pytorch", str(tmp_path / "work"))
    assert "Received SIGTERM" in done.stderr
    check(done, left(tmp_path))


def test_a_training_in_hugging_face(run, tmp_path):
    done = run("in_hugging_face", str(tmp_path / "work"))
    samples = left(tmp_path)
    check(done, samples)
    parts = ("data_wait", "forward", "backward", "optimizer")
    spent = sum(samples[f"training_{part}_seconds_total"] for part in parts)
    assert spent < samples["training_step_duration_seconds_sum"]


def test_experts_counted_in_tensors(run, tmp_path):
    check(run("experts_on_tensors"), left(tmp_path))


def test_ranks_of_torchrun(run, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    run("ranks_of_torchrun", launcher=launcher)
    for rank in ("0", "1"):
        samples = left(tmp_path, f"training-rank{rank}")
        assert samples[f'training_samples_total{{rank="{rank}"}}'] == 2 + int(rank)
