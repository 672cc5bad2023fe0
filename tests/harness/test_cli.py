"""The command line as a user meets it: exit codes, one line for an error, quick help."""

import subprocess
import sys
from pathlib import Path

import pytest

JOBMETER = Path(sys.executable).parent / "jobmeter"


def jobmeter(*arguments, cwd=None):
    return subprocess.run(
        [JOBMETER, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=60
    )


def one_line(done, code):
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("jobmeter: ")
    return line


@pytest.mark.parametrize("command", [("run",), ("render",), ("submit", "--site", "generic-slurm")])
def test_a_wrong_job_file_ends_with_2_and_one_line(command, tmp_path):
    (tmp_path / "job.yaml").write_text("run: x\nresources: {gpu_per_node: 1}\n")
    done = jobmeter(*command, "job.yaml", cwd=tmp_path)
    line = one_line(done, 2)
    assert line.endswith(
        "job.yaml: resources: unknown key 'gpu_per_node'; did you mean 'gpus_per_node'?"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"], "nothing is written"


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("run", "job.yaml", "--site", "nowhere"), 2, "--site nowhere: no such site profile"),
        (("run", "job.yaml", "--site", "generic-slurm"), 2, "use 'jobmeter submit'"),
        (("submit", "job.yaml", "--site", "local"), 2, "use 'jobmeter run'"),
        (("run", "none.yaml"), 2, "none.yaml: no such file"),
        (("analyze", "none"), 1, "no such folder"),
        (("analyze", "."), 1, "no run.json here"),
        (("analyze", ".", "--start", "5"), 2, "--start and --end belong together"),
        (("analyze", ".", "--start", "x", "--end", "6"), 2, "--start: 'x' is no time"),
        (
            ("analyze", ".", "--start", "2026-01-01T00:00:00", "--end", "6"),
            2,
            "has no time zone; append +00:00 or Z",
        ),
        (("analyze", ".", "--start", "6", "--end", "5"), 2, "window is empty"),
        (("analyze", ".", "--start", "1790000000000", "--end", "6"), 2, "milliseconds?"),
        (("analyze",), 2, "give a run folder, or --source with a recording"),
        (("analyze", "--source", "x"), 2, "--source needs a window"),
        (("analyze", "--source", "x", "--phase", "a"), 2, "--source has no phases"),
        (
            ("analyze", "--source", "x", "--start", "5", "--end", "6", "--attempt", "last"),
            2,
            "--source has no attempts",
        ),
        (
            ("analyze", ".", "--phase", "a", "--start", "5", "--end", "6"),
            2,
            "--phase and --start/--end exclude each other",
        ),
    ],
)
def test_wrong_usage_gets_an_answer(arguments, code, expected, tmp_path):
    (tmp_path / "job.yaml").write_text("run: x\n")
    assert expected in one_line(jobmeter(*arguments, cwd=tmp_path), code)


def test_a_group_of_kpis_that_no_service_can_have_is_refused(tmp_path):
    recipe = "description: d\ncommand: [x]\nready: {path: /}\nkpis: [http, %s]\n"
    job = "run: x\nservices: {one: {recipe: own.yaml}}\n"
    (tmp_path / "job.yaml").write_text(job)
    for name in ("htpt", "node"):  # node is one of nodes
        (tmp_path / "own.yaml").write_text(recipe % name)
        line = one_line(jobmeter("render", "job.yaml", cwd=tmp_path), 2)
        assert f"job.yaml: services.one.recipe: its 'kpis' name {name!r}, which is no " in line
        assert "there is llm, llm-checks, " in line
        assert ", qdrant, http" in line
    (tmp_path / "own.yaml").write_text(recipe % "llm")
    assert jobmeter("render", "job.yaml", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("run",), ("submit", "job.yaml"), ("run", "-x")]
)
def test_misspelt_commands_and_options_end_with_2(arguments):
    done = jobmeter(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_render_prints_the_script_and_writes_every_file_on_demand(tmp_path):
    (tmp_path / "job.yaml").write_text("run: echo hello\n")
    printed = jobmeter("render", "job.yaml", "--site", "generic-slurm", cwd=tmp_path)
    assert printed.returncode == 0
    assert printed.stdout.startswith("#!/bin/bash\n#SBATCH --job-name=job\n")
    written = jobmeter("render", "job.yaml", "--out", "out", cwd=tmp_path)
    assert written.returncode == 0
    names = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert names == {
        "job.sbatch",
        "scripts/node.sh",
        "scripts/recorder.sh",
        "prometheus/prometheus.yml",
    }
    again = jobmeter("render", "job.yaml", "--out", "out", cwd=tmp_path)
    assert one_line(again, 1).endswith("out: File exists")


def test_help_loads_nothing_heavy():
    code = (
        "import sys, jobmeter.cli; "
        "print([m for m in ('pandas', 'numpy', 'pydantic', 'jinja2', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_exporter_answers_for_itself():
    done = jobmeter("exporter", "nonsense", "--run-id", "x")
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert "cgroup" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    (tmp_path / "job.yaml").write_text("run: echo hello\n")
    done = subprocess.run(
        f"'{JOBMETER}' render job.yaml | head -1", shell=True, cwd=tmp_path, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.stdout == "#!/bin/bash\n"
    assert done.stderr == ""
