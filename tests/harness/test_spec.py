"""Job files: what is accepted, and the answer that each mistake gets."""

import re
from pathlib import Path

import pytest

from jobmeter.errors import JobmeterError, SpecError
from jobmeter.plan import Context, make_plan
from jobmeter.site import read_site
from jobmeter.spec import read_spec

WRONG = {
    "unknown key": (
        "run: x\nresources: {gpu_per_node: 1}",
        "resources: unknown key 'gpu_per_node'; did you mean 'gpus_per_node'?",
    ),
    "unknown key at the top": ("rnu: x\nrun: x", "unknown key 'rnu'; did you mean 'run'?"),
    "unknown key in a list": (
        "phases: [{nme: a, run: x}]",
        "phases[0]: unknown key 'nme'; did you mean 'name'?",
    ),
    "bad time": ("run: x\nresources: {time: 1:99x}", "resources.time: '1:99x' is not a time limit"),
    "no time at all": ("run: x\nresources: {time: '0'}", "resources.time: '0' is no time at all"),
    "steps without their exporter": (
        "run: x\nmonitoring: {exporters: [node], cgroup_steps: tasks}",
        "monitoring: cgroup_steps: it is the exporter 'cgroup' that tells of steps; add it",
    ),
    "steps of another kind": (
        "run: x\nmonitoring: {cgroup_steps: true}",
        "monitoring.cgroup_steps: True is not known here; write 'off', 'steps' or 'tasks'",
    ),
    "negative nodes": (
        "run: x\nresources: {nodes: -1}",
        "resources.nodes: -1 is too small; write 1 or more",
    ),
    "nodes in words": (
        "run: x\nresources: {nodes: two}",
        "resources.nodes: 'two' is not a whole number",
    ),
    "missing command": ("name: x", "no command; add 'run: COMMAND' or a list of 'phases'"),
    "phase without command": ("phases: [{name: a}]", "phases[0]: key 'run' is missing; add it"),
    "empty command": ("run: '  '", "run: the command is empty; write what to run"),
    "two ways to run": ("run: x\nphases: [{name: a, run: y}]", "both 'run' and 'phases'"),
    "unknown service": (
        "run: 'bench {{ services.llm.url }}'",
        "run: asks for service 'llm', which the job file does not have",
    ),
    "unknown port": (
        "ports: [train]\nrun: 'serve {{ ports.trian }}'",
        "run: asks for port 'trian', which the job file does not have; did you mean 'train'?",
    ),
    "unknown placeholder": (
        "run: 'bench {{ nods }}'",
        "run: no placeholder 'nods'; did you mean 'nodes'?",
    ),
    "unknown part of a placeholder": (
        "run: 'bench {{ rendezvous.prot }}'",
        "run: asks for something of the rendezvous: 'prot', which the job file does not have; "
        "did you mean 'port'?",
    ),
    "a placeholder of several things": (
        "ports: [a, b]\nrun: 'bench {{ ports }}'",
        "run: a placeholder names all of a, b; name one, after a dot",
    ),
    "part of a plain placeholder": (
        "run: 'bench {{ python.path }}'",
        "run: 'str object' has no attribute 'path'; docs/job-file.md lists the placeholders",
    ),
    "placeholder without a value": (
        "run: 'torchrun --nproc-per-node={{ gpus_per_node }}'",
        "run: asks for 'gpus_per_node', which has no value; add 'gpus_per_node' to 'resources'",
    ),
    "rendezvous outside phases": (
        "run: x\nmetrics: {a: 'http://localhost:{{ rendezvous.port }}/'}",
        "metrics.a: no placeholder 'rendezvous'; ",
    ),
    "torn placeholder": ("run: 'bench {{ foo'", "run: "),
    "placeholder in a phase": (
        "phases: [{name: a, run: x}, {name: b, run: '{{ ports.p }}'}]",
        "phases[1].run: asks for port 'p'",
    ),
    "name with spaces": ("name: a b\nrun: x", "name: 'a b' cannot be a name"),
    "name with quotes": ('name: "it\'s"\nrun: x', 'name: "it\'s" cannot be a name'),
    "name with a command": ("name: $(reboot)\nrun: x", "name: '$(reboot)' cannot be a name"),
    "phase name with a command": (
        "phases: [{name: '$(reboot)', run: x}]",
        "phases[0].name: '$(reboot)' cannot be a name",
    ),
    "misspelt results": (
        "phases: [{name: a, run: x, result: b.json}]",
        "phases[0]: unknown key 'result'; did you mean 'results'?",
    ),
    "results in numbers": (
        "phases: [{name: a, run: x, results: [1]}]",
        "phases[0].results[0]: 1 is not text; put it in quotes",
    ),
    "results without a name": (
        "phases: [{name: a, run: x, results: out/}]",
        "phases[0].results[0]: 'out/' is not the path of a file",
    ),
    "results on two lines": (
        'phases: [{name: a, run: x, results: ["a\\nb"]}]',
        "phases[0].results[0]: 'a\\nb' must be a single line",
    ),
    "results with an unknown port": (
        "phases: [{name: a, run: x, results: '{{ ports.p }}.json'}]",
        "phases[0].results: asks for port 'p'",
    ),
    "two results of one name": (
        "phases: [{name: a, run: x, results: [1/b.json, 2/b.json]}]",
        "phases[0].results: two files are called 'b.json'",
    ),
    "results without a phase": (
        "run: x\nresults: a.json",
        "unknown key 'results'",
    ),
    "phase twice": (
        "phases: [{name: a, run: x}, {name: a, run: y}]",
        "phases: the name 'a' is used twice; rename one",
    ),
    "reserved phase": ("phases: [{name: job, run: x}]", "phases: 'job' means the whole job"),
    "key twice": ("run: x\nrun: y", "not readable as YAML: line 2: key 'run' is given twice"),
    "both counts": (
        "run: x\nworkload: {parameters: 7B, flops_per_token: 4.2e10}",
        "workload: both 'parameters' and 'flops_per_token'; keep one of them",
    ),
    "half an attention": (
        "run: x\nworkload: {parameters: 7B, layers: 32}",
        "workload: layers without heads, head_size, sequence_length; add the missing",
    ),
    "no number": (
        "run: x\nworkload: {parameters: seven}",
        "'seven' is not a number above zero; write one that may end in k, M, B, T or P",
    ),
    "no YAML": ("run: [x", "not readable as YAML: line "),
    "empty file": ("", "expected keys and values, found an empty file"),
    "a list": ("- run: x", "expected keys and values, found list"),
    "interval without unit": (
        "run: x\nmonitoring: {interval: '5'}",
        "monitoring.interval: '5' is not a duration; write a number with ms, s, m or h",
    ),
    "interval too short": (
        "run: x\nmonitoring: {interval: 1ms}",
        "monitoring.interval: '1ms' is too short; write 100ms or more",
    ),
    "unknown exporter": (
        "run: x\nmonitoring: {exporters: [nod]}",
        "monitoring.exporters[0]: 'nod' is not known here; write 'node', 'cgroup', 'nvidia', "
        "'dcgm', 'hl-smi' or 'queue'",
    ),
    "metrics without scheme": (
        "run: x\nmetrics: {training: 'localhost:8000'}",
        "metrics.training: 'localhost:8000' is not a metrics address",
    ),
    "metrics with a command": (
        "run: x\nmetrics: {training: 'http://$(id):8000/'}",
        "metrics.training: 'http://$(id):8000/' is not a metrics address",
    ),
    "metrics named like ours": (
        "run: x\nmetrics: {node: 'http://localhost:1/metrics'}",
        "metrics: 'node' is one of our own exporters",
    ),
    "too many nodes for one machine": (
        "run: x\nresources: {nodes: 3}",
        "resources.nodes: 3 nodes on site 'local', which is one machine",
    ),
    "groups without names": (
        "run: x\nresources: [{nodes: 1, gpus_per_node: 4}, {nodes: 2}]",
        "resources: a list; write the groups of a heterogeneous job by their names, below a key "
        "'groups'",
    ),
    "a single group": (
        "run: x\nresources: {groups: {a: {nodes: 2}}}",
        "resources: groups: 'a' is the only one; write what it has below 'resources' itself",
    ),
    "a group's name": (
        "run: x\nresources: {groups: {A-1: {}, b: {}}}",
        "'A-1' cannot be a group's name",
    ),
    "a time limit of a group": (
        "run: x\nresources: {groups: {a: {time: '1'}, b: {}}}",
        "resources.groups.a: unknown key 'time'",
    ),
    "groups on one machine": (
        "run: x\nresources: {groups: {a: {}, b: {}}}",
        "resources.groups: a, b on site 'local', which is one machine",
    ),
    "short sbatch option": (
        "run: x\nresources: {extra: [-x]}",
        "resources.extra[0]: '-x' is not a long sbatch option",
    ),
    "option with a second line": (
        'run: x\nresources: {extra: ["--x=1\\nrm -rf /"]}',
        "must be a single line",
    ),
    "account with a second line": (
        'run: x\nresources: {account: "a\\n#SBATCH --x"}',
        "resources.account: 'a\\n#SBATCH --x' must be a single line",
    ),
}


def context(job_file):
    return Context(
        "r-1", Path("/runs/r-1"), str(job_file), job_file.parent, "/usr/bin/python3", "0"
    )


def planned(job_file):
    spec, _ = read_spec(job_file)
    return make_plan(spec, "local", read_site("local"), context(job_file))


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_names_file_key_and_fix(mistake, tmp_path):
    text, expected = WRONG[mistake]
    job_file = tmp_path / "wrong.yaml"
    job_file.write_text(text)
    with pytest.raises(JobmeterError) as caught:
        planned(job_file)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message.startswith(f"{job_file}: ")
    assert expected in message
    assert "\n" not in message


def test_missing_file_and_binary_file(tmp_path):
    with pytest.raises(SpecError, match="no such file"):
        read_spec(tmp_path / "none.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00run")
    with pytest.raises(SpecError, match="cannot be read"):
        read_spec(binary)


def test_the_smallest_job_file_is_a_command(tmp_path):
    job_file = tmp_path / "hello.yaml"
    job_file.write_text("run: echo hello\n")
    plan = planned(job_file)
    assert plan.name == "hello"
    assert [(phase.name, phase.command) for phase in plan.phases] == [("run", "echo hello")]


@pytest.mark.parametrize("said", ["off", "'off'", "steps", "tasks"])
def test_how_much_is_told_of_steps(tmp_path, said):
    path = tmp_path / "job.yaml"
    path.write_text(f"run: x\nmonitoring: {{cgroup_steps: {said}}}\n")
    spec, _ = read_spec(path)
    assert spec.monitoring.cgroup_steps == said.strip("'")


def test_a_time_without_quotes_is_what_it_says(tmp_path):
    """YAML 1.1 reads 01:30:00 as the number 5400, which Slurm would take as minutes."""
    job_file = tmp_path / "job.yaml"
    job_file.write_text("run: x\nresources: {time: 01:30:00}\n")
    spec, _ = read_spec(job_file)
    assert spec.resources.time == "01:30:00"


def test_values_in_a_command_are_quoted_and_ports_are_left_to_the_shell(tmp_path):
    folder = tmp_path / "it's $(here)"
    folder.mkdir()
    job_file = folder / "job.yaml"
    job_file.write_text("ports: [api]\nrun: 'serve {{ job_dir }}/x --port {{ ports.api }}'\n")
    command = planned(job_file).phases[0].command
    assert command.endswith("/x --port ${JOBMETER_PORT_API}")
    assert re.search(r"serve '.*it'\"'\"'s \$\(here\)'/x", command)


def test_results_are_one_path_or_several(tmp_path):
    job_file = tmp_path / "job.yaml"
    job_file.write_text(
        "ports: [api]\n"
        "phases:\n"
        "  - {name: none, run: x}\n"
        "  - {name: one, run: x, results: out/bench.json}\n"
        "  - {name: two, run: x, results: ['{{ job_dir }}/$(id) *', '${A}-{{ ports.api }}$']}\n"
    )
    none, one, two = planned(job_file).phases
    assert none.results == ()
    assert one.results == ("out/bench.json",)
    assert two.results == (f"'{tmp_path}/$(id) *'", '"${A-}"-"${JOBMETER_PORT_API-}"\'$\'')
