"""The notebook for Colab: every cell executed as with Run all, in a kernel of its own, and stopped
where the accelerator is missing."""

import base64
import re

import pytest

from tests import running as commands

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = commands.ROOT / "experiments" / "colab.ipynb"
UNTIL_CHECKED = ("parameters", "install", "check")
FIGURES = ("learning_curves", "confusion_matrix", "gallery")


def read():
    return nbformat.reads(NOTEBOOK.read_text(encoding="utf-8"), 4)


def executed(parameters, ids=None, **variables):
    """Runs code cells as they stand, from a Jupyter that was started in experiments/, as one is by
    opening the notebook.

    Args:
        parameters: variables set after the first cell.
        ids: of the cells to run; None for all.
        variables: further ones of the environment.

    Returns:
        id of the cell -> its outputs.
    """
    notebook = read()
    notebook.cells = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and (ids is None or cell.id in ids)
    ]
    lines = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(1, nbformat.v4.new_code_cell(lines, id="filled-in"))
    client = nbclient.NotebookClient(
        notebook, timeout=280, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    client.execute(env=commands.environment(**variables))
    return {cell.id: cell.outputs for cell in notebook.cells}


def printed(outputs):
    return "".join(output.get("text", "") for output in outputs)


def shown(outputs, kind):
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def test_it_is_valid_and_holds_no_results_and_no_ones_paths():
    notebook = read()
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
    code = "".join(cell.source for cell in notebook.cells)
    assert 'REPOSITORY = ""' in code
    assert {path.split("/")[1] for path in re.findall(r"(?<![\w.}])/[\w/]+", code)} <= {
        "content",
        "index",
        "masks",
    }


@pytest.fixture(scope="module")
def all_cells(tmp_path_factory):
    """(outputs by cell, folder of the records). The photographs and networks are tiny, the words of
    the commands those of a user."""
    records = tmp_path_factory.mktemp("colab") / "mis registros"
    options = [option for option in commands.TINY if not option.startswith("--config=")]
    shorter = ["--variants unet asymmetric_unet", "--seeds 0", "--model.reduction=1"]
    parameters = {
        "CONFIGURATION": "smoke",
        "RECORDS": str(records),
        "OPTIONS": " ".join(f"'{option}'" for option in options),
        "COMPARISON": " ".join(
            [*shorter, *(f"'{option}'" for option in (*options, *commands.SHORT))]
        ),
    }
    return executed(parameters, JAX_DISABLE_MOST_OPTIMIZATIONS="1"), records


@pytest.mark.long
def test_it_takes_the_checkout_it_lies_in_and_names_the_device_in_use(all_cells):
    outputs, records = all_cells
    assert f"CPU runtime; records go to {records}" in printed(outputs["install"])
    assert not re.search("Cloning|Installing", printed(outputs["install"]))
    assert re.search(
        r"^JAX [\d.]+ computes on 1 x cpu \(CPU\)\.$", printed(outputs["check"]), re.MULTILINE
    )
    assert "No accelerator was chosen" in printed(outputs["check"])


@pytest.mark.long
def test_the_pictures_and_the_table_are_those_of_the_record(all_cells):
    outputs, records = all_cells
    run = records / "colab_smoke"
    pictures = [base64.b64decode(picture) for picture in shown(outputs["pictures"], "image/png")]
    assert pictures == [(run / "figures" / f"{name}.png").read_bytes() for name in FIGURES]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)

    summary = commands.read(run / "summary.json")
    (table,) = shown(outputs["summary"], "text/markdown")
    rows = {
        row[0]: row[1:]
        for row in re.findall(r"^\| (\w+) \| ([\d.]*) \| ([\d.]*) \|$", table, re.MULTILINE)
    }
    assert len(rows) == 7
    assert rows.pop("mean") == (f"{summary['test/miou']:.4f}", f"{summary['test/mean_dice']:.4f}")
    for name, (iou, dice) in rows.items():
        for text, key in ((iou, "iou"), (dice, "dice")):
            value = summary[f"test/{key}/{name}"]
            assert text == ("" if value is None else f"{value:.4f}")
    assert f"{summary['parameters']:,} parameters, {commands.STEPS} steps" in table
    assert f"pixel accuracy {summary['test/pixel_accuracy']:.4f}" in table


@pytest.mark.long
def test_the_comparison_is_shown(all_cells):
    outputs, records = all_cells
    (report,) = shown(outputs["compare"], "text/markdown")
    assert report == (records / "colab_comparison" / "comparison.md").read_text(encoding="utf-8")
    for name in ("unet", "asymmetric_unet"):
        assert (
            commands.read(records / "colab_comparison" / f"{name}-seed0" / "summary.json")["steps"]
            == 2
        )
        assert name in report


@pytest.mark.parametrize("runtime", ["TPU", pytest.param("GPU", marks=pytest.mark.long)])
def test_a_runtime_that_computes_on_the_cpu_instead_is_stopped(runtime, tmp_path):
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'GPU 0: Tesla T4'\n", encoding="utf-8")
    command.chmod(0o755)
    variables = {
        "TPU": {"TPU_ACCELERATOR_TYPE": "v5e-1"},
        "GPU": {"PATH": f"{tmp_path}:{commands.environment()['PATH']}"},
    }
    message = f"THIS IS A {runtime} RUNTIME, BUT JAX [0-9.]+ COMPUTES ON THE CPU"
    with pytest.raises(nbclient.exceptions.CellExecutionError, match=message):
        executed({}, UNTIL_CHECKED, JAX_PLATFORMS="cpu", **variables[runtime])


@pytest.mark.long
def test_several_devices_get_a_batch_that_they_divide():
    checked = printed(executed({}, UNTIL_CHECKED, **commands.devices(8))["check"])
    assert "computes on 8 x cpu" in checked
    assert "--training.batch_size=8" in checked
