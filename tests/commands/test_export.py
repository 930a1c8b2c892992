"""Exported networks: what other runtimes make of them, what stands beside them, and what is
refused."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

import cnn_jax
from cnn_jax.commands import export
from cnn_jax.inference.export import about, described
from tests.running import ROOT, environment

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def run(reference):
    """The reference run, a U-Net whose windows are 64x64 px; it halves them once."""
    return cnn_jax.load(reference[0])


def exported(run, path, *flags, format="onnx"):
    assert export.main([str(run.folder), "--format", format, "--output", str(path), *flags]) == 0
    return path


def pictures(height, width, batch=2):
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)


def logits(run, images):
    return np.asarray(run.model.apply(run.variables, run.normalize(images), train=False))


def test_onnx_gives_the_logits_of_normalised_images(run, tmp_path, capsys):
    path = exported(run, tmp_path / "network.onnx")
    assert "float32 images [batch, height, width, 3], 64 x 64 px" in capsys.readouterr().out
    images = pictures(64, 64)
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {"images": np.asarray(run.normalize(images))})
    np.testing.assert_allclose(found, logits(run, images), rtol=0, atol=1e-4)
    statistics = jax.tree.leaves(run.variables["batch_stats"])
    assert all(np.abs(leaf).max() not in (0, 1) for leaf in statistics)  # training moved them


def test_onnx_with_normalisation_and_softmax_inside_at_any_size(run, tmp_path):
    flags = ["--with", "normalization", "softmax", "--any-size"]
    path = exported(run, tmp_path / "network.onnx", *flags)
    session = onnxruntime.InferenceSession(path)
    for size in ((64, 64), (26, 110)):
        images = pictures(*size)
        (found,) = session.run(None, {"images": images.astype(np.float32)})
        expected = jax.nn.softmax(logits(run, images))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_onnx_holds_classes_colours_and_normalisation(run, tmp_path):
    model = onnx.load(exported(run, tmp_path / "network.onnx", "--with", "softmax"))
    held = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    assert held["classes"] == list(run.info.classes)
    assert held["colors"] == [list(color) for color in run.info.colors]
    assert (held["mean"], held["std"]) == (list(run.info.mean), list(run.info.std))
    assert (held["inside"], held["digest"]) == (["softmax"], run.digest)


def test_bands_that_a_description_names_are_told(run):
    info = dataclasses.replace(run.info, description={"bands": [4, 3, 2]})
    told = dataclasses.replace(run, info=info)
    assert about(told)["bands"] == [4, 3, 2]
    assert "width, 3] of the bands 4, 3, 2, " in described(told)
    assert "bands" not in about(run)
    assert "bands" not in described(run)


WITHOUT_FLAX = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("flax", "cnn_jax"):
            raise ImportError(name)

sys.meta_path.insert(0, Refused())
import jax.export
import numpy as np

exported = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
images = np.load(sys.argv[2])
np.save(sys.argv[3], exported.call(images))
print(exported.platforms)
"""


@pytest.mark.parametrize(("flags", "size"), [((), (64, 64)), (("--any-size",), (32, 96))])
def test_stablehlo_computes_the_same_without_flax(run, tmp_path, flags, size):
    path = exported(run, tmp_path / "network.stablehlo", *flags, format="stablehlo")
    images = pictures(*size, batch=3)
    np.save(tmp_path / "images.npy", run.normalize(images))
    files = [str(tmp_path / name) for name in ("images.npy", "logits.npy")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FLAX, str(path), *files],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "('cpu', 'cuda', 'tpu')"
    found = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(found, logits(run, images), rtol=0, atol=1e-4)


def test_examples_of_the_docs_run(run, tmp_path, monkeypatch):
    exported(run, tmp_path / "network.onnx")
    exported(run, tmp_path / "network.stablehlo", format="stablehlo")
    monkeypatch.chdir(tmp_path)
    images = np.asarray(run.normalize(pictures(64, 64)))
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        known = {"images": images}
        exec(compile(block, "docs/export.md", "exec"), known)
        assert known["logits"].shape == (2, 64, 64, len(run.info.classes))
        assert known.get("classes", list(run.info.classes)) == list(run.info.classes)


# ---- the model card


def test_a_model_card_stands_beside_the_file(run, tmp_path):
    exported(run, tmp_path / "network.onnx")
    exported(run, tmp_path / "weights.safetensors", format="safetensors")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    for name in run.info.classes:
        assert name in card
    assert f"{run.summary['test/miou']:.4f}" in card
    assert "mean over the classes that occur in truth or prediction" in card  # mIoU's averaging
    assert "- `network.onnx`: float32" in card
    assert "- `weights.safetensors`: " in card
    assert run.info.fingerprint in card
    assert "Apache-2.0" in card
    config = re.search(r"```json\n(.+?)\n```", card, re.DOTALL)[1]
    again = tmp_path / "config.json"
    again.write_text(config)
    assert cnn_jax.read_config(again) == run.config


def test_a_model_card_gives_intervals_over_seeds(reference, tmp_path):
    from cnn_jax.configuration.documents import digest
    from cnn_jax.inference import model_card

    folders = []
    for seed in (0, 1, 2):
        folder = tmp_path / f"seed{seed}"
        ignored = shutil.ignore_patterns("checkpoints", "figures", "scenes", "tensorboard")
        shutil.copytree(reference[0], folder, ignore=ignored)
        folders.append(folder)
    run = cnn_jax.load(reference[0])
    for seed, folder in enumerate(folders):
        run.config.seed = seed
        found = digest(run.config)
        for name, changes in (
            ("config", {"seed": seed}),
            ("environment", {"digest": found}),
            ("summary", {"seed": seed, "digest": found}),
        ):
            path = folder / f"{name}.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    records = model_card.of_same_variant(model_card.run_record.read(folders[1]))
    assert [record.folder.name for record in records] == ["seed0", "seed1", "seed2"]
    assert "±" in "\n".join(model_card._figures(records[1], records))


def test_another_page_is_left_alone(run, tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_text("# Mine\n")
    assert export.main([str(run.folder), "--output", str(tmp_path / "weights.safetensors")]) == 2
    assert "another page" in capsys.readouterr().err
    assert page.read_text() == "# Mine\n"
    assert list(tmp_path.iterdir()) == [page]


# ---- refusals


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--with", "softmax"], "add --format"),
        (["--format", "onnx", "--with", "argmax"], "argmax"),
        (["--format", "onnx", "--float16"], "--float16"),
        (["--format", "onnx", "--size-px", "64"], "two numbers"),
        (["--format", "onnx", "--size-px", "64", "64", "--any-size"], "leave out one"),
        (["--format", "onxx"], "onnx"),
        (["--format", "keras", "--any-size"], "add --format"),
        (["--format", "keras"], "unet isn't one of Keras's applications: export it with"),
        (["--format", "onnx", "--wit", "softmax"], "--with"),
    ],
)
def test_flags_that_cant_be_used_are_refused(run, tmp_path, capsys, flags, words):
    assert export.main([str(run.folder), "--output", str(tmp_path / "file"), *flags]) == 2
    sentence = capsys.readouterr().err
    assert words in sentence
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_kept(run, tmp_path, capsys):
    path = tmp_path / "network.onnx"
    path.write_text("mine")
    arguments = [str(run.folder), "--format", "onnx", "--output", str(path)]
    assert export.main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert export.main([*arguments, "--overwrite"]) == 0
    onnx.load(path)


def test_what_an_extra_lacks_is_named(run, tmp_path, capsys, monkeypatch):
    for format, package in (("onnx", "onnx"), ("stablehlo", "flatbuffers")):
        monkeypatch.setitem(sys.modules, package, None)
        path = tmp_path / "file"
        assert export.main([str(run.folder), "--format", format, "--output", str(path)]) == 2
        assert f"pip install 'cnn_jax[{format}]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
