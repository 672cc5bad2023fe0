"""The notebooks of examples/ run as they are, and are stored without what they put out."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")  # the extra "notebooks", which few machines need
NotebookClient = pytest.importorskip("nbclient").NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.ipynb"))
ids = [path.stem for path in NOTEBOOKS]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=ids)
def executed(request, tmp_path_factory):
    """The notebook after all of its cells have run, in a kernel without the user's settings."""
    scratch = tmp_path_factory.mktemp("kernel")
    with pytest.MonkeyPatch.context() as environment:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
            environment.setenv(name, str(scratch / name.lower()))
        environment.setenv("JUPYTER_PLATFORM_DIRS", "1")
        notebook = nbformat.read(request.param, as_version=4)
        NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": str(request.param.parent)}},
        ).execute()
    return notebook


def test_a_serving_and_a_training_run_are_shown():
    assert ids == ["serving", "training"]


def test_every_cell_runs_and_warns_of_nothing(executed):
    for cell in code_cells(executed):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text


def test_every_cell_shows_something(executed):
    for cell in code_cells(executed):
        assert cell.outputs, cell.source


def test_plots_are_drawn(executed):
    drawn = [
        output
        for cell in code_cells(executed)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(drawn) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=ids)
def test_it_is_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert not cell.metadata
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
