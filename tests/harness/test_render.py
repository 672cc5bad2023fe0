"""What is rendered, line by line, and that the shell and Prometheus accept it."""

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from jobmeter.allocation import Allocation, Component
from jobmeter.plan import Context, make_plan
from jobmeter.render import render_files, render_web_config
from jobmeter.runtime import ContainerImage, RuntimeProfile
from jobmeter.site import SiteProfile, Storage, read_site
from jobmeter.spec import JobSpec
from jobmeter.templating import render

GOLDEN = Path(__file__).parent / "golden"

IMAGES = {
    name: ContainerImage(name, program, f"/project/it's/images/{name}.sif", 4096, "x86_64")
    for name, program in (
        ("prometheus", "prometheus"),
        ("node-exporter", "node_exporter"),
        ("exporters", "jobmeter-exporters"),
        ("dcgm-exporter", "dcgm-exporter"),
    )
}

RUNTIMES = {
    "apptainer": RuntimeProfile(
        kind="apptainer",
        options=["--no-mount", "bind-paths"],
        binds=["/mnt/tier2", "$SCRATCH/it's:/scratch:ro"],
        environment=["HF_HOME"],
    ),
    "singularity": RuntimeProfile(kind="singularity", program="/opt/sylabs/bin/singularity"),
    "pyxis": RuntimeProfile(kind="pyxis", binds=["/lustre"], environment=["HF_HOME"]),
}

JOBS = {
    "local": ("local", {"name": "hello", "run": "echo hello"}),
    "three-nodes": (
        "generic-slurm",
        {
            "name": "train",
            "resources": {"nodes": 3, "time": "00:30:00", "exclusive": True},
            "monitoring": {"interval": "1s", "required": True},
            "ports": ["train"],
            "metrics": {"training": "http://localhost:{{ ports.train }}/metrics"},
            "logs": {
                "ollama": {"file": "$SCRATCH/it's.log", "rules": "ollama"},
                "own": {"file": "own.log", "rules": "{{ job_dir }}/rules.yaml"},
            },
            "phases": [
                {
                    "name": "warmup",
                    "run": "srun python train.py --port {{ ports.train }}",
                    "results": "warmup.json",
                },
                {
                    "name": "train",
                    "run": 'echo "it\'s $HOME" && srun python train.py',
                    "results": ["$SCRATCH/it's here.json", "{{ job_dir }}/{{ ports.train }}.json"],
                },
            ],
        },
    ),
    "meluxina-gpu": (
        "meluxina",
        {
            "name": "bench",
            "resources": {
                "nodes": 2,
                "gpus_per_node": 4,
                "tasks_per_node": 4,
                "cpus_per_task": 16,
                "time": "01:00:00",
                "account": "p200000",
                "partition": "gpu",
                "extra": ["--comment=a 'b' $c"],
            },
            "monitoring": {"exporters": ["node", "cgroup", "dcgm", "queue"]},
            "run": "srun --ntasks-per-node=1 torchrun --nnodes={{ nodes }} --rdzv-backend=c10d "
            "--nproc-per-node={{ gpus_per_node }} "
            "--rdzv-endpoint={{ rendezvous.host }}:{{ rendezvous.port }} train.py",
        },
    ),
    "services": (
        "generic-slurm",
        {
            "name": "rag",
            "resources": {"nodes": 3, "gpus_per_node": 4},
            "services": {
                "vectors": {"recipe": "qdrant", "node": 1},
                "llm": {
                    "recipe": "vllm",
                    "nodes": 2,
                    "after": ["vectors"],
                    "model": "$MODELS/it's a llama",
                    "tensor_parallel_size": 8,
                    "ttft_slo_s": [0.35],
                    "args": ["--seed=1"],
                    "environment": {"NCCL_SOCKET_IFNAME": "ib0"},
                    "ready_limit": "45m",
                },
                "small": {"recipe": "ollama", "replicas": 2, "node": 2},
                "near": {"recipe": "qdrant", "replicas": 2, "reach": "node"},
                "plain": {"recipe": "http", "command": ["x"], "reach": "node", "node": 1},
            },
            "phases": [
                {
                    "name": "ask",
                    "run": "ask {{ services.llm.url }} {{ services.small.urls }} $QDRANT_API_KEY",
                },
            ],
        },
    ),
    "groups": (
        "meluxina",
        {
            "name": "rag",
            "resources": {
                "time": "01:00:00",
                "account": "p200000",
                "extra": ["--comment=a 'b' $c"],
                "groups": {
                    "gpus": {"nodes": 2, "partition": "gpu", "gpus_per_node": 4},
                    "cpus": {"nodes": 3, "partition": "cpu", "tasks_per_node": 16},
                },
            },
            "services": {
                "llm": {"recipe": "vllm", "group": "gpus", "nodes": 2, "model": "m"},
                "vectors": {"recipe": "qdrant", "group": "cpus", "node": 1, "replicas": 2},
                "small": {"recipe": "ollama", "node": 1, "replicas": 2},
            },
            "phases": [
                {
                    "name": "ask",
                    "run": "srun --het-group={{ groups.cpus.number }} -N {{ groups.cpus.nodes }} "
                    "--nodelist={{ groups.cpus.nodelist }} ask {{ services.llm.url }}",
                    "results": "{{ groups.cpus.nodelist }}.json",
                },
            ],
        },
    ),
} | {
    runtime: (
        SiteProfile(
            description=runtime,
            launcher="slurm",
            runtime=profile,
            storage=Storage(models=["$PROJECT/it's/models", "/models"], cache="$SCRATCH/cache"),
        ),
        {
            "name": "contained",
            "resources": {"nodes": 2, "gpus_per_node": 4, "time": "00:30:00"},
            "monitoring": {"exporters": ["node", "cgroup", "hl-smi", "dcgm", "queue"]},
            "logs": {"own": {"file": "$SCRATCH/it's.log", "rules": "rules.yaml"}},
            "services": {
                "llm": {"recipe": "vllm", "model": "m", "environment": {"HF_HOME": "$SCRATCH/hf"}},
                "other": {"recipe": "http", "image": "/data/other.sif", "command": ["serve", "x"]},
                "bare": {"recipe": "ollama"},
            },
            "run": "srun ./bench",
        },
    )
    for runtime, profile in RUNTIMES.items()
}
ALLOCATION = Allocation("1240", "1234_5", ("n1", "n2"), gpus_per_node=4, ends_s=1795400000)
COMPONENTS = replace(
    ALLOCATION,
    attempt="1240",
    nodes=("n1", "n2", "n3"),
    components=(Component(("n1",), 4), Component(("n2", "n3"))),
)
UNPLANNED = {
    "attached": ("attached", ALLOCATION),
    "attached-groups": ("attached", COMPONENTS),
    "hook": ("hook", None),
}
JOBS |= {
    kind: (
        "meluxina",
        {
            "name": kind,
            "resources": dict((allocation or ALLOCATION).resources),
            "metrics": {"worker": "http://localhost:8000/metrics"},
            "run": ":",
        },
    )
    for kind, (_, allocation) in UNPLANNED.items()
}


def rendered(job):
    site, data = JOBS[job]
    name, profile = (site, read_site(site)) if isinstance(site, str) else (job, site)
    context = Context(
        "run-1",
        Path("/home/it's me/runs/run-1"),
        "job.yaml",
        Path("/jobs"),
        "/opt/py/bin/python",
        "0",
        IMAGES,
        "v3.13.4" if profile.runtime.kind != "native" else None,
        *UNPLANNED.get(job, ()),
    )
    plan = make_plan(JobSpec.model_validate(data), name, profile, context)
    files = render_files(plan)
    return files if job != "hook" else {**files, "monitor.sh": sourced(plan)}


def sourced(plan):
    """The file for scripts of users, with next to nothing embedded."""
    values = {
        "files": {"scripts/it's.sh": "echo\n"},
        "runs": "/home/it's me/runs",
        "secrets": "/home/it's me/secrets",
        "shell": ("/bin/bash", "-l"),
        "job_file": "{}\n",
        "manifest": '{"run_id": "run-1",\n "nodes": 0,\n}\n',
    }
    return render("sbatch", "hook.sh.j2", {"plan": plan, **values})


@pytest.mark.parametrize("job", JOBS)
def test_rendered_files_match_golden(job):
    files = rendered(job)
    folder = GOLDEN / job
    if os.environ.get("UPDATE_GOLDEN"):
        shutil.rmtree(folder, ignore_errors=True)
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        pytest.fail(f"wrote {folder.name}; read the diff, then run again without UPDATE_GOLDEN")
    golden = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}
    assert files == golden


@pytest.mark.parametrize("job", JOBS)
def test_rendered_scripts_pass_shellcheck(job, tmp_path):
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not on PATH")
    for name, text in rendered(job).items():
        if name.endswith((".sbatch", ".sh")):
            script = tmp_path / Path(name).name
            script.write_text(text)
            found = subprocess.run(
                [shellcheck, "--shell=bash", str(script)], capture_output=True, text=True
            )
            assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("job", JOBS)
def test_prometheus_accepts_its_configuration(job, tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on PATH")
    attempt = tmp_path / "run" / "attempts" / "1"
    attempt.mkdir(parents=True)
    (tmp_path / "run" / "secrets").mkdir()
    for secret in ("password", "service.key"):
        (tmp_path / "run" / "secrets" / secret).write_text("x")
    config = attempt / "prometheus.yml"
    config.write_text(rendered(job)["prometheus/prometheus.yml"])
    checked = subprocess.run(
        [promtool, "check", "config", str(config)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    web = tmp_path / "web.yml"
    web.write_text(render_web_config("jobmeter", "$2b$04$" + "a" * 53))
    checked = subprocess.run(
        [promtool, "check", "web-config", str(web)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_rendering_is_pure():
    assert rendered("three-nodes") == rendered("three-nodes")


def unsafe_substitutions(text):
    """bash 5.2 gives up when a trapped signal comes while it expands a command substitution that
    is anything but a whole assignment: see sbatch/_common.sh.j2."""
    code = re.sub(r"^run_phase .*", "", re.sub(r"^\s*#.*", "", text, flags=re.M), flags=re.M)
    found = re.finditer(r"(.{0,40})\$\((?!\()|(.{0,40})`", code)
    return [m[0] for m in found if not re.search(r"(^|\s)[A-Za-z_]+=$", m[1] or m[2] or "")]


@pytest.mark.parametrize("job", JOBS)
def test_no_signal_can_break_the_parsing_of_a_script(job):
    for name, text in rendered(job).items():
        if name.endswith((".sbatch", ".sh")):
            assert unsafe_substitutions(text) == [], name
