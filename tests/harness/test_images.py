"""Images: the list of them, the lock file of a folder, and the proof that one is whole."""

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from sif_files import sif

from jobmeter import images
from jobmeter.errors import ImageError, ImageRequestError
from jobmeter.images_lock import LockedImage, lock_path, write_images
from jobmeter.images_sif import SifHeader, parse_header, read_header
from jobmeter.templating import template_folder

NAMES = [
    "prometheus",
    "node-exporter",
    "dcgm-exporter",
    "exporters",
    "alertmanager",
    "grafana",
    "vllm",
    "qdrant",
    "pytorch",
    "tests",
]


@pytest.fixture
def prometheus(tmp_path):
    """An image in a folder, as the lock file has it."""
    file = tmp_path / "prometheus-0.sif"
    file.write_bytes(sif())
    locked = LockedImage(
        name="prometheus",
        version="3.5.3",
        base="debian",
        origin="Debian GNU/Linux forky/sid",
        architecture="x86_64",
        program="prometheus",
        file=file,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        size_bytes=file.stat().st_size,
        definition_sha256="0" * 64,
        made_at="2026-11-23T02:00:00+00:00",
    )
    write_images(tmp_path, {"prometheus": locked})
    return locked


def test_the_list_has_what_the_stack_and_the_examples_need():
    assert set(images.read_catalogue()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_image_has_its_definition_and_a_pinned_version(name):
    image = images.read_catalogue()[name]
    assert (template_folder("containers") / image.definition).is_file()
    assert image.registry is not None
    assert re.search(r"\d", image.registry.tag)
    assert "latest" not in image.registry.tag


@pytest.mark.parametrize("name", NAMES)
def test_every_image_and_its_program_are_documented(name):
    page = (Path(__file__).parents[2] / "docs" / "images.md").read_text()
    assert f"| `{name}` | `{images.read_catalogue()[name].program}` |" in page


def test_what_has_a_digest_is_asked_for_by_it_alone():
    catalogue = images.read_catalogue()
    assert re.fullmatch(
        r"docker\.io/prom/prometheus@sha256:[0-9a-f]{64}",
        catalogue["prometheus"].registry.reference,
    )
    assert catalogue["vllm"].registry.reference == "docker.io/vllm/vllm-openai:v0.30.0-cu129"


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(
        ImageRequestError, match="'promtheus' is unknown; did you mean 'prometheus'"
    ):
        images.chosen(["promtheus"], images.read_catalogue())


def test_the_header_says_for_which_machines_an_image_is():
    assert parse_header(sif("x86_64")) == SifHeader("x86_64", 136)
    assert parse_header(sif("aarch64")).architecture == "aarch64"
    assert parse_header(sif(b"77\0")).architecture == "unknown"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged: it has 0 bytes, less than a header"),
        (b"\x7fELF" + bytes(200), "damaged: it does not begin as a SIF file"),
        (sif(version=b"02\0"), "damaged: it is a SIF file of version 02, not 01"),
        (sif()[:-1], "damaged: it is cut off at 135 of 136 bytes"),
    ],
)
def test_a_damaged_image_is_named(tmp_path, content, said):
    file = tmp_path / "x.sif"
    file.write_bytes(content)
    with pytest.raises(ImageError, match=f"x.sif: {said}; build or pull it again"):
        read_header(file)


def test_a_whole_image_passes(tmp_path, prometheus):
    (found,) = images.locked_images(tmp_path).values()
    assert found == prometheus
    images.verify(found)
    images.verify(found, "x86_64")


def test_nodes_of_another_architecture_are_told_before_a_job_is(prometheus):
    with pytest.raises(ImageError, match="is built for x86_64, the nodes are aarch64"):
        images.verify(prometheus, "aarch64")


def test_an_image_that_was_replaced_by_that_of_another_machine_is_found(prometheus):
    prometheus.file.write_bytes(sif("aarch64"))
    with pytest.raises(ImageError, match=r"is built for aarch64, images\.lock.json says x86_64"):
        images.verify(prometheus)


def test_an_image_with_one_other_byte_is_found(prometheus):
    prometheus.file.write_bytes(sif(payload=b"squashfS"))
    with pytest.raises(ImageError, match=r"sha256 [0-9a-f]{12}\.\.\., images.lock.json says"):
        images.verify(prometheus)


def test_a_missing_image_is_named(prometheus):
    prometheus.file.unlink()
    with pytest.raises(ImageError, match=r"prometheus-0\.sif: the image is missing"):
        images.verify(prometheus)


def test_a_folder_can_be_moved(tmp_path, prometheus):
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (prometheus.file, lock_path(tmp_path)):
        path.rename(moved / path.name)
    images.verify(images.locked_images(moved)["prometheus"])


def test_nothing_built_yet_is_no_error(tmp_path):
    assert images.locked_images(tmp_path) == {}
    assert images.locked_images(tmp_path / "missing") == {}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema_version": 1}', '{"schema_version": 1, "images": {"x": {}}}']
)
def test_a_broken_list_is_named(tmp_path, text):
    lock_path(tmp_path).write_text(text)
    with pytest.raises(ImageError, match=r"images.lock.json: is not a list of images"):
        images.locked_images(tmp_path)


def test_a_list_of_a_later_jobmeter_is_not_guessed_at(tmp_path, prometheus):
    data = json.loads(lock_path(tmp_path).read_text())
    lock_path(tmp_path).write_text(json.dumps(data | {"schema_version": 2}))
    with pytest.raises(ImageError, match="has schema version 2, this jobmeter reads 1"):
        images.locked_images(tmp_path)


def test_the_list_never_leads_out_of_its_folder(tmp_path, prometheus):
    elsewhere = dataclasses.replace(prometheus, file=Path("/etc/passwd"))
    write_images(tmp_path, {"prometheus": elsewhere})
    data = json.loads(lock_path(tmp_path).read_text())
    data["images"]["prometheus"]["file"] = "../../etc/passwd"
    lock_path(tmp_path).write_text(json.dumps(data))
    assert images.locked_images(tmp_path)["prometheus"].file == tmp_path / "passwd"


def test_colleagues_may_read_the_list_where_the_umask_lets_them(tmp_path, prometheus):
    before = os.umask(0o022)
    try:
        write_images(tmp_path, {"prometheus": prometheus})
    finally:
        os.umask(before)
    assert lock_path(tmp_path).stat().st_mode & 0o777 == 0o644
