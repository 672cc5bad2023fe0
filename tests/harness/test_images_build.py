"""Making images: what is asked of apptainer, what becomes of a failure, and who may work when.

The program ``apptainer`` is a stand-in here; tests/e2e/test_images.py has the real one.
"""

import contextlib
import json
import os
import platform
import re
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sif_files import sif

from jobmeter.errors import ImageError
from jobmeter.images_root import debian_root

JOBMETER = Path(sys.executable).parent / "jobmeter"
HERE = platform.machine()
OTHER = "aarch64" if HERE == "x86_64" else "x86_64"


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def jobmeter(stand_in, tmp_path, home):
    """Return a function that runs jobmeter with a home, a place for temporary files and no more."""
    (tmp_path / "tmp").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(tmp_path / "tmp"),
        "SIF": str(tmp_path / "made.sif"),
    }
    (tmp_path / "made.sif").write_bytes(sif(HERE))

    children = []

    def start(*arguments, **more):
        child = subprocess.Popen(
            [JOBMETER, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**environment, **more},
            start_new_session=True,
        )
        children.append(child)
        return child

    def run(*arguments, **more):
        child = start(*arguments, **more)
        out, err = child.communicate(timeout=120)
        return subprocess.CompletedProcess(child.args, child.returncode, out, err)

    run.start = start
    yield run
    for child in children:
        with contextlib.suppress(ProcessLookupError):  # all of its session have ended
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


@pytest.fixture
def apptainer(stand_in, tmp_path):
    """Return a function that gives the stand-in its script; at first it makes a good image."""

    def does(script):
        stand_in(
            "apptainer",
            f'printf "%s\\n" "$@" >{shlex.quote(str(tmp_path))}/words\n'
            f"env >{shlex.quote(str(tmp_path))}/environment\n"
            f"cp -r . {shlex.quote(str(tmp_path))}/seen\n"
            "verb=$1; while [ $# -gt 2 ]; do shift; done; out=$1\n"
            f"{script}",
        )

    does('echo "INFO: Starting"; echo "jobmeter.version 3.5.3"; cp "$SIF" "$out"')
    return does


@pytest.fixture
def debian(tmp_path):
    """A folder that looks like a Debian root file system."""
    root = tmp_path / "debian"
    (root / "usr" / "bin").mkdir(parents=True)
    (root / "usr" / "bin" / "dpkg").touch()
    (root / "etc").mkdir()
    (root / "etc" / "os-release").write_text('PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n')
    return root


def one_line(done, code):
    assert done.returncode == code, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("jobmeter: ")
    return line


def whole_images(folder):
    return sorted(path.name for path in folder.glob("[!.]*.sif"))


def leftovers(tmp_path):
    """Everything that a build must not leave, in its folder and among temporary files."""
    return [*(tmp_path / "images").glob(".partial*"), *(tmp_path / "tmp").iterdir()]


def test_an_image_of_debian_is_built_listed_and_verified(jobmeter, apptainer, debian, tmp_path):
    done = jobmeter(
        "images", "build", "prometheus", "--base", "debian", "--root", debian, "--folder", "images"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "quiet in a pipe"
    assert re.fullmatch(
        rf"prometheus 3\.5\.3: .*/images/prometheus-[0-9a-f]{{12}}\.sif \(0 MB, {HERE}, \d+ s\)\n",
        done.stdout,
    )
    words = (tmp_path / "words").read_text().splitlines()
    assert words[0] == "build"
    assert words[-1] == "prometheus.def"
    definition = (tmp_path / "seen" / "prometheus.def").read_text()
    assert definition.startswith(f"Bootstrap: localimage\nFrom: {debian}\n")
    locked = json.loads((tmp_path / "images" / "images.lock.json").read_text())["images"]
    assert locked["prometheus"]["base"] == "debian"
    assert locked["prometheus"]["version"] == "3.5.3"
    assert locked["prometheus"]["origin"] == "Debian GNU/Linux 13 (trixie)"
    assert [locked["prometheus"]["file"]] == whole_images(tmp_path / "images")
    assert leftovers(tmp_path) == []
    verified = jobmeter("images", "verify", "--folder", "images", "--json")
    assert json.loads(verified.stdout)["images"] == [
        {"name": "prometheus", "ok": True, "problem": None}
    ]
    listed = jobmeter("images", "list", "--folder", "images", "--json")
    (row,) = [x for x in json.loads(listed.stdout)["images"] if x["here"]]
    assert (row["name"], row["here"]["state"]) == ("prometheus", "here")


def test_nothing_goes_into_the_home(jobmeter, apptainer, debian, tmp_path, home):
    jobmeter("images", "build", "exporters", "--base=debian", "--root", debian, "--folder=images")
    told = dict(
        line.split("=", 1)
        for line in (tmp_path / "environment").read_text().splitlines()
        if re.match(r"\w+=", line)
    )
    for spelling in ("APPTAINER", "SINGULARITY"):
        assert told[f"{spelling}_CACHEDIR"] == str(tmp_path / "images" / ".cache")
        assert Path(told[f"{spelling}_TMPDIR"]).is_relative_to(tmp_path / "tmp")
    assert told["APPTAINER_MKSQUASHFS_ARGS"] == "-Xcompression-level 1"
    assert list(home.iterdir()) == []


def test_the_profile_says_where_everything_lies(jobmeter, apptainer, debian, tmp_path):
    (tmp_path / "site.yaml").write_text(
        "description: x\nlauncher: bash\n"
        f"images: {{folder: $STORE/images, cache: {tmp_path}/cache, tmp: {tmp_path}/scratch, "
        f"base: debian, root: {debian}}}\n"
    )
    done = jobmeter("images", "build", "exporters", "--site", "site.yaml", STORE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert len(whole_images(tmp_path / "images")) == 1
    assert f"APPTAINER_CACHEDIR={tmp_path}/cache" in (tmp_path / "environment").read_text()
    line = one_line(jobmeter("images", "verify", "--site", "site.yaml"), 2)
    assert line.endswith("images.folder: $STORE/images: $STORE is not set here; set it")


def test_our_exporters_are_copied_in_without_what_is_compiled(
    jobmeter, apptainer, debian, tmp_path
):
    jobmeter("images", "build", "exporters", "--base=debian", "--root", debian, "--folder=images")
    python = tmp_path / "seen" / "python"
    assert (python / "jobmeter_exporters" / "__main__.py").is_file()
    assert (python / "jobmeter_exporters" / "log_rules" / "vllm.yaml").is_file()
    assert (python / "pynvml.py").is_file()
    assert not [*python.rglob("*.so"), *python.rglob("*.pyc")]
    served = subprocess.run(
        [sys.executable, "-P", "-m", "jobmeter_exporters", "--help"]
        if sys.version_info >= (3, 11)
        else [sys.executable, "-m", "jobmeter_exporters", "--help"],
        env={"PYTHONPATH": str(python)},
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert b"--nvidia-sample-interval" in served.stdout


def test_an_image_is_out_of_date_when_what_went_in_has_changed(
    jobmeter, apptainer, debian, tmp_path
):
    jobmeter("images", "build", "exporters", "--base=debian", "--root", debian, "--folder=images")
    lock = tmp_path / "images" / "images.lock.json"
    data = json.loads(lock.read_text())
    data["images"]["exporters"]["definition_sha256"] = "0" * 64
    lock.write_text(json.dumps(data))
    line = one_line(jobmeter("images", "verify", "--folder", "images"), 1)
    assert line.endswith("its definition has changed since; jobmeter images build exporters")


def test_a_vendors_image_is_pulled_by_its_digest(jobmeter, apptainer, tmp_path):
    done = jobmeter("images", "pull", "node-exporter", "--folder", "images")
    assert done.stdout.startswith("node-exporter v1.12.1: ")
    words = (tmp_path / "words").read_text().splitlines()
    assert words[0] == "pull"
    assert re.fullmatch(r"docker://docker\.io/prom/node-exporter@sha256:[0-9a-f]{64}", words[-1])
    assert jobmeter("images", "verify", "--folder", "images").returncode == 0


def test_images_for_nodes_of_another_architecture_are_pulled_for_them(
    jobmeter, apptainer, tmp_path
):
    (tmp_path / "made.sif").write_bytes(sif(OTHER))
    (tmp_path / "site.yaml").write_text(
        f"description: x\nlauncher: slurm\narchitecture: {OTHER}\nimages: {{folder: images}}\n"
    )
    assert jobmeter("images", "pull", "prometheus", "--site", "site.yaml").returncode == 0
    words = (tmp_path / "words").read_text().splitlines()
    assert words[1:3] == ["--arch", {"aarch64": "arm64", "x86_64": "amd64"}[OTHER]]
    line = one_line(jobmeter("images", "build", "prometheus", "--site", "site.yaml"), 1)
    assert f"this machine is {HERE}, the nodes are {OTHER}" in line
    line = one_line(jobmeter("images", "verify", "--folder", "images"), 1)
    assert f"is built for {OTHER}, the nodes are {HERE}" in line


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            'echo "INFO: x"; echo "FATAL:   While performing build: no user namespace"; exit 255',
            "apptainer ended with 255: While performing build: no user namespace; the whole log:",
        ),
        (
            'echo "half" >"$out"; echo "FATAL: write x: no space left on device"; exit 255',
            "no space was left in",
        ),
        (
            'echo "FATAL: close x: disk quota exceeded"; exit 255',
            "no space was left in",
        ),
        (
            'echo "FATAL: initializing source: dial tcp: lookup x: no such host"; exit 255',
            "without internet build it from --base debian, or make it elsewhere and copy",
        ),
        ('echo "half of it" >"$out"', "damaged: it has 11 bytes, less than a header"),
        ("exit 0", "the image is missing"),
        ("kill -TERM $$", "interrupted; nothing of it was kept"),
    ],
)
def test_a_build_that_fails_says_why_in_one_line_and_leaves_nothing(
    jobmeter, apptainer, tmp_path, script, said
):
    apptainer(script)
    line = one_line(jobmeter("images", "build", "prometheus", "--folder", "images"), 1)
    assert said in line
    assert whole_images(tmp_path / "images") == []
    assert not (tmp_path / "images" / "images.lock.json").exists()
    assert leftovers(tmp_path) == []


def test_an_image_of_another_architecture_is_not_taken(jobmeter, apptainer, tmp_path):
    (tmp_path / "made.sif").write_bytes(sif(OTHER))
    line = one_line(jobmeter("images", "build", "prometheus", "--folder", "images"), 1)
    assert f"image prometheus: came out for {OTHER}, the nodes are {HERE}" in line
    assert whole_images(tmp_path / "images") == []


def test_one_that_fails_keeps_no_other_from_being_made(jobmeter, apptainer, tmp_path):
    apptainer('case $out in *grafana*) exit 1;; esac; cp "$SIF" "$out"')
    done = jobmeter("images", "build", "prometheus", "grafana", "qdrant", "--folder", "images")
    assert "image grafana: apptainer ended with 1" in one_line(done, 1)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["prometheus", "qdrant"]


def test_what_a_failed_build_said_is_kept_until_one_works(jobmeter, apptainer, tmp_path):
    apptainer("echo the reason; exit 1")
    jobmeter("images", "build", "prometheus", "--folder", "images")
    log = tmp_path / "images" / "prometheus.log"
    assert "the reason" in log.read_text()
    apptainer('cp "$SIF" "$out"')
    jobmeter("images", "build", "prometheus", "--folder", "images")
    assert not log.exists()


def test_an_older_image_stays_for_jobs_that_use_it_and_is_named(jobmeter, apptainer, tmp_path):
    jobmeter("images", "build", "prometheus", "--folder", "images")
    (older,) = whole_images(tmp_path / "images")
    (tmp_path / "made.sif").write_bytes(sif(HERE, payload=b"another"))
    jobmeter("images", "build", "prometheus", "--folder", "images")
    assert len(whole_images(tmp_path / "images")) == 2
    line = one_line(jobmeter("images", "list", "--folder", "images"), 0)
    assert f"{older}: an older image" in line


def held(jobmeter, apptainer, tmp_path):
    """Start a build that is at work when this returns, and goes on until ``release`` is written."""
    os.mkfifo(tmp_path / "at_work")
    os.mkfifo(tmp_path / "release")
    apptainer(
        f'echo half >"$out"; echo $$ >{tmp_path}/at_work; read -r _ <{tmp_path}/release; '
        'cp "$SIF" "$out"'
    )
    child = jobmeter.start("images", "build", "prometheus", "--folder", "images")
    pid = int((tmp_path / "at_work").read_text())
    return child, pid


def test_the_second_of_two_is_told_who_is_at_work(jobmeter, apptainer, tmp_path):
    first, _ = held(jobmeter, apptainer, tmp_path)
    line = one_line(jobmeter("images", "pull", "qdrant", "--folder", "images"), 1)
    assert re.search(
        rf"images: in use by 'jobmeter images build prometheus' of \S+ on \S+, pid {first.pid}, "
        r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC; try again when it is done",
        line,
    )
    assert jobmeter("images", "list", "--folder", "images").returncode == 0, "readers go on"
    (tmp_path / "release").write_text("\n")
    out, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    assert len(whole_images(tmp_path / "images")) == 1, out


def test_a_killed_build_counts_for_nothing_and_harms_no_later_one(jobmeter, apptainer, tmp_path):
    first, pid = held(jobmeter, apptainer, tmp_path)
    first.kill()
    first.wait(timeout=60)
    assert list((tmp_path / "images").glob(".partial-*"))
    orphan = os.pidfd_open(pid)
    apptainer('cp "$SIF" "$out"')
    done = jobmeter("images", "build", "prometheus", "--folder", "images")
    assert done.returncode == 0, done.stderr
    assert leftovers(tmp_path) == []
    (tmp_path / "release").write_text("\n")
    select.select([orphan], [], [], 60)  # what it had started writes its image and ends
    os.close(orphan)
    first.communicate(timeout=60)
    assert len(whole_images(tmp_path / "images")) == 1
    assert jobmeter("images", "verify", "--folder", "images").returncode == 0
    assert jobmeter("images", "pull", "qdrant", "--folder", "images").returncode == 0
    assert leftovers(tmp_path) == [], "the next one tidies up"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_build_that_is_told_to_stop_tidies_up(jobmeter, apptainer, tmp_path, number):
    first, pid = held(jobmeter, apptainer, tmp_path)
    first.send_signal(number)
    if number == signal.SIGINT:
        os.kill(pid, number)  # the terminal tells every process
    out, err = first.communicate(timeout=60)
    assert (first.returncode, out) == (1, "")
    assert err == "jobmeter: image prometheus: interrupted; nothing of it was kept\n"
    assert leftovers(tmp_path) == []
    assert whole_images(tmp_path / "images") == []


def test_too_little_space_is_told_before_the_work(apptainer, tmp_path):
    probe = (
        "import shutil, collections\n"
        "shutil.disk_usage = lambda _: collections.namedtuple('U', 'free')(1_000_000)\n"
        "from jobmeter.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, "images", "build", "vllm", "--folder", "images"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
    )
    line = one_line(done, 1)
    assert "tmp: 1 MB are free, 60.0 GB are needed; make room, or set images.tmp" in line
    assert not (tmp_path / "words").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("build", 2, "name the images, of prometheus, node-exporter"),
        ("build promtheus --folder x", 2, "'promtheus' is unknown; did you mean 'prometheus'?"),
        ("build prometheus", 2, "--site local: its profile names no images.folder"),
        ("build vllm --base debian --folder x", 2, "cannot be built from base 'debian'; give"),
        ("build prometheus --base deb --folder x", 2, "--base deb: unknown; give registry or"),
        ("build prometheus --base debian --folder x", 2, "needs a root file system; give --root"),
        ("build prometheus --base debian --root no --folder x", 1, "root file system is missing"),
        ("build prometheus --base debian --root . --folder x", 1, "no Debian root file system"),
        ("build tests --wheelhouse no --folder x", 2, "no: no such folder"),
        ("pull exporters --folder x", 2, "a part of it is ours, so no registry has it; jobmeter"),
        ("verify --folder x", 1, "has no images yet; jobmeter images build NAME..."),
        ("verify grafana --folder x", 1, "has no image grafana; jobmeter images build grafana"),
        ("build grafana --folder /proc/x", 1, "/proc/x: cannot be written"),
    ],
)
def test_what_cannot_be_gets_one_line(jobmeter, apptainer, arguments, code, said):
    assert said in one_line(jobmeter("images", *arguments.split()), code)


def test_without_the_program_its_module_is_named(jobmeter, tmp_path):
    (tmp_path / "site.yaml").write_text(
        "description: x\nlauncher: slurm\nprologue: [module load Apptainer]\n"
        f"runtime: {{kind: apptainer}}\narchitecture: {HERE}\n"
    )
    done = jobmeter(
        "images", "build", "prometheus", "--site", "site.yaml", "--folder=x", PATH="/nowhere"
    )
    assert one_line(done, 1).endswith(
        "apptainer: not on PATH, and it makes the images; load its module first "
        "(the profile's prologue: module load Apptainer)"
    )


def test_a_root_file_system_with_files_of_others_is_refused(debian, monkeypatch):
    somebody = os.getuid() + 1000
    monkeypatch.setattr(os, "getuid", lambda: somebody)
    with pytest.raises(ImageError, match=r"belongs to uid \d+, .* with tar --no-same-owner"):
        debian_root(debian)


def test_the_work_is_not_done_where_somebody_else_put_something(jobmeter, apptainer, tmp_path):
    jobmeter("images", "build", "prometheus", "--folder", "images", SIF="none")
    mark = re.search(r"APPTAINER_TMPDIR=(\S+)", (tmp_path / "environment").read_text())[1]
    place = Path(mark).parent
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    line = one_line(jobmeter("images", "build", "prometheus", "--folder", "images"), 1)
    assert f"{place}: belongs to somebody else" in line
