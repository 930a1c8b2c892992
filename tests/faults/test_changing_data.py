"""Data that change or can't be read any more while a run is at work, or before it is resumed."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from cnn_jax.commands import evaluate
from cnn_jax.configuration.schema import DataConfig
from cnn_jax.data import synthetic
from cnn_jax.data.synthetic import CLASSES
from cnn_jax.records.run_directory import RunDirectory
from tests import running as commands
from tests.data import fake_sets
from tests.running import TINY, assert_refused, assert_same_state


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The scenes of the reference run as files, with their description: training on them takes the
    same steps."""
    folder = tmp_path_factory.mktemp("drawn")
    config = DataConfig(source="synthetic", scene_px=(64, 96), scene_counts=(4, 1, 1))
    for split, scenes in synthetic.generate(config).splits.items():
        for number, scene in enumerate(scenes):
            image, mask = scene.read()
            fake_sets.save(image, folder / f"data/{split}/images/{number}.png")
            fake_sets.save(mask, folder / f"data/{split}/masks/{number}.png")
    classes = "".join(
        f"[[classes]]\nname = '{known.name}'\nvalues = [{i}]\n" for i, known in enumerate(CLASSES)
    )
    (folder / "set.toml").write_text(f"base = 'folders'\n{classes}")
    return folder


@pytest.fixture
def scenes(drawn, tmp_path):
    """(folder of the scenes, arguments of a run on them which decodes every scene each time it is
    read)."""
    shutil.copytree(drawn, tmp_path / "set")
    data = (
        "--data.source",
        tmp_path / "set/set.toml",
        "--data.directory",
        tmp_path / "set/data",
    )
    return tmp_path / "set", (
        *TINY,
        *data,
        "--data.memory_budget_gib=0.0",
        "--data.prefetch_batches=1",
        "--workdir",
        tmp_path / "run",
    )


def test_images_that_vanish_between_epochs(scenes, reference, tmp_path, command, monkeypatch):
    """A sentence with the name, and the state kept; with one cut short it isn't resumed; mended, it
    ends with the same bits."""
    folder, arguments = scenes
    files = sorted((folder / "data/train/images").iterdir())
    whole, log = [path.read_bytes() for path in files], RunDirectory.log

    def deleting(record, values):
        log(record, values)
        if values["step"] == 2:
            for path in files:
                path.unlink(missing_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "log", deleting)
        refused = command(*arguments)
    assert_refused(refused, files[0].parent, "can't be decoded")

    for path, content in zip(files, whole, strict=True):
        path.write_bytes(content if path != files[1] else content[: len(content) // 2])
    assert_refused(command(*arguments), files[1], "can't be decoded")
    files[1].write_bytes(whole[1])
    resumed = command(*arguments)
    assert resumed.code == 0, resumed.err
    assert re.search(
        "^resuming after step [48]$", resumed.out, re.MULTILINE
    )  # as far as batches had been read ahead
    assert commands.metrics(tmp_path / "run") == commands.metrics(reference[0])
    assert_same_state(tmp_path / "run", reference[0])

    # The record holds the description: the TOML is needed no more, wherever the photographs lie.
    (folder / "set.toml").unlink()
    (folder / "data").rename(tmp_path / "elsewhere")
    assert evaluate.main([str(tmp_path / "run"), "--directory", str(tmp_path / "elsewhere")]) == 0


def one_pixel(folder):
    path = folder / "data/train/masks/2.png"
    mask = np.array(Image.open(path))
    mask[3, 4] = (mask[3, 4] + 1) % len(CLASSES)
    fake_sets.save(mask, path)


def added(folder):
    for kind in ("images", "masks"):
        shutil.copy(folder / f"data/train/{kind}/2.png", folder / f"data/train/{kind}/9.png")


def removed(folder):
    for kind in ("images", "masks"):
        (folder / f"data/train/{kind}/3.png").unlink()


def renamed(folder):
    for kind in ("images", "masks"):
        (folder / f"data/train/{kind}/3.png").rename(folder / f"data/train/{kind}/5.png")


def moved_to_another_split(folder):
    for kind in ("images", "masks"):
        (folder / f"data/train/{kind}/3.png").rename(folder / f"data/test/{kind}/3.png")


def described_otherwise(folder):
    path = folder / "set.toml"
    path.write_text(path.read_text().replace("'road'", "'street'"))


@pytest.mark.parametrize(
    "change", [one_pixel, added, removed, renamed, moved_to_another_split, described_otherwise]
)
def test_run_on_changed_data_is_refused(change, scenes, tmp_path, command):
    folder, arguments = scenes
    begin(arguments, tmp_path / "run")
    before = {
        path: path.read_bytes()
        for path in (tmp_path / "run").rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    change(folder)
    assert_refused(command(*arguments), tmp_path / "run", "data", "fingerprint")
    assert {
        p: p.read_bytes()
        for p in (tmp_path / "run").rglob("*")
        if p.is_file() and p.name != ".lock"
    } == before


def begin(arguments, workdir):
    """A record as a run leaves it that was killed after its first line of metrics."""
    from cnn_jax.data.scene_folders import dataset_info, open_folder
    from cnn_jax.records.run_directory import environment
    from cnn_jax.run import from_command_line
    from experiments.aerial_unet import CONFIGURATIONS

    config, _, _ = from_command_line(commands.MODULE, CONFIGURATIONS, list(map(str, arguments)))
    scenes = open_folder(config.data)
    counts = np.zeros(len(scenes.classes), np.int64)
    info = dataset_info(config.data, scenes, {"train": ()}, counts)
    with RunDirectory(workdir, config) as record:
        record.begin(environment(config, info.fingerprint, ""), info)
        record.log({"step": 2, "train/loss": 1.0, "elapsed_s": 1.0})
