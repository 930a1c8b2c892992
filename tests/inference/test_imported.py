"""Published networks as runs: imported, loaded, asked, trained further."""

import json
import shutil
import struct
import tracemalloc
import zipfile

import h5py
import jax
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image
from safetensors.numpy import load_file, save_file

import cnn_jax
import cnn_jax.inference.imported
from cnn_jax.commands import export
from cnn_jax.commands import weights as command
from cnn_jax.configuration.schema import ClassificationConfig
from cnn_jax.errors import InputError
from cnn_jax.inference import initial
from cnn_jax.models import conventions
from cnn_jax.models.weights import (
    class_names,
    fitting,
    from_pytorch,
    published,
    pytorch,
    torch_files,
)
from cnn_jax.tasks import model_config
from tests.models.weights import drawn
from tests.running import ROOT
from tests.test_docs import blocks

DATA = ROOT.parent / "shared" / "data"


def of_pytorch(model, path, source=0, classes=10):
    """A file as PyTorch's libraries publish this architecture, its values drawn."""
    naming = pytorch.namings(model, fitting.depth_of(model))[source]
    shapes = fitting.abstract(model, classes, 3, {})
    tensors = {}
    for module, leaves in fitting.modules_of(shapes).items():
        for leaf, place in leaves.items():
            kind = {"kernel": "weight", "scale": "weight", "mean": "running_mean"}.get(leaf, leaf)
            name = f"{naming.names(module)}.{ {'var': 'running_var'}.get(kind, kind) }"
            shape = shapes[place].shape
            shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else tuple(reversed(shape))
            tensors[name] = drawn.tensor(name, shape)
    save_file(tensors, path)
    return path


def imported(*words):
    return command.main(["import", *map(str, words)])


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """(the file of a ResNet-20, its run)."""
    folder = tmp_path_factory.mktemp("cifar")
    file = of_pytorch("resnet20", folder / "resnet20.safetensors")
    assert imported(file, "--model", "resnet20", "--output", folder / "run") == 0
    return file, folder / "run"


def test_a_published_network_is_a_run_that_needs_its_file_no_more(cifar, tmp_path, capsys):
    _, folder = cifar
    moved = shutil.copytree(folder, tmp_path / "moved")
    run = cnn_jax.load(moved)
    assert run.model.shortcut == "around"
    assert run.info.classes == class_names.CIFAR_10
    assert run.config.initial_digest == run.info.fingerprint
    path = tmp_path / "größer.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)).save(path)
    top = run.predict(path).top(5)
    assert len(top) == 5
    assert {name for name, _ in top} <= set(class_names.CIFAR_10)
    assert [p for _, p in top] == sorted((p for _, p in top), reverse=True)

    shown = blocks(ROOT / "docs" / "weights.md", "python")
    assert len(shown) == 1
    code = shown[0].replace("RUN", str(moved)).replace("tiger.jpg", str(path))
    exec(compile(code, "docs/weights.md", "exec"), {})
    assert top[0][0] in capsys.readouterr().out


def test_it_normalises_as_it_was_trained(cifar):
    run = cnn_jax.load(cifar[1])
    image = np.full((1, 32, 32, 3), 255, np.uint8)
    expected = (1 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(np.asarray(run.normalize(image))[0, 0, 0], expected, rtol=1e-6)


def test_the_same_import_again_is_no_error_and_another_is(cifar, tmp_path, capsys):
    file, folder = cifar
    again = ["--model", "resnet20", "--output", folder]
    assert imported(file, *again) == 0
    assert imported(file, *again, "--values", "tf") == 2
    said = capsys.readouterr().err
    assert "another configuration" in said
    assert "give another --output" in said
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefghij"), encoding="utf-8")
    assert imported(file, *again, "--classes", names) == 2
    assert "other names of its classes: give another --output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "resnet32"], "tensors are missing (layer1.3."),
        (["--model", "resnet32"], "have the shapes of resnet20: ask for resnet20"),
        (["--model", "resnet20", "--classes", "NAMES"], "has 2 names, and the network 10"),
        (["--model", "resnet"], "no architecture: did you mean"),
        (["--model", "lenet5"], "can't be read into lenet5"),
        ([], "--model is missing"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_folder(cifar, tmp_path, capsys, words, said):
    names = tmp_path / "names.txt"
    names.write_text("eins\nzwei\n", encoding="utf-8")
    words = [str(names) if word == "NAMES" else word for word in words]
    assert imported(cifar[0], *words, "--output", tmp_path / "run") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_files_that_are_no_weights_are_refused(tmp_path, capsys):
    (tmp_path / "text.pth").write_text("no weights at all")
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-1.safetensors"}})
    )
    for name, said in (
        ("text.pth", "no file of weights that is known"),
        ("empty.h5", "no file of weights that is known"),
        ("model.safetensors.index.json", "lists model-1.safetensors, which isn't beside it"),
        ("missing.h5", "can't be read"),
        (".", "is a folder"),
    ):
        path = tmp_path / name
        assert imported(path, "--model", "resnet20", "--output", tmp_path / "run") == 2
        assert said in capsys.readouterr().err


def test_its_model_card_claims_no_figures_and_says_how_it_was_made(cifar, tmp_path):
    assert export.main([str(cifar[1]), "--output", str(tmp_path / "weights.safetensors")]) == 0
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "None: it was not tested." in card
    assert f"It was made by `python -m cnn_jax.commands.weights import {cifar[0]}" in card
    assert "--config config.json" not in card


@pytest.mark.parametrize("lost", ["linear.weight", "layer1.0.conv1.weight"])
def test_a_file_that_lacks_a_tensor_is_of_no_other_architecture(cifar, tmp_path, capsys, lost):
    tensors = load_file(cifar[0])
    del tensors[lost]
    save_file(tensors, tmp_path / "lost.safetensors")
    assert imported(tmp_path / "lost.safetensors", "--model", "resnet20", "--output", "R") == 2
    said = capsys.readouterr().err
    assert lost in said
    assert "save all of a resnet20's tensors" in said
    assert "resnet32" not in said


def test_weights_that_are_no_numbers_are_refused(cifar, tmp_path, capsys):
    tensors = load_file(cifar[0])
    tensors["layer2.1.bn1.running_var"][3] = np.nan
    save_file(tensors, tmp_path / "diverged.safetensors")
    assert imported(tmp_path / "diverged.safetensors", "--model", "resnet20", "--output", "R") == 2
    assert "NaN or infinity in what is batch_stats/stage_2_block_2/" in capsys.readouterr().err


def test_an_encoder_without_a_head_is_no_run(tmp_path):
    """As segmentation_models.pytorch has it within a segmenter."""
    path = of_pytorch("resnet18", tmp_path / "whole.safetensors")
    tensors = {f"encoder.{name}": value for name, value in load_file(path).items()}
    kept = {name: value for name, value in tensors.items() if ".fc." not in name}
    save_file(kept, tmp_path / "encoder.safetensors")
    with pytest.raises(InputError, match="--initial_part encoder"):
        cnn_jax.inference.imported.import_weights(
            tmp_path / "encoder.safetensors", "resnet18", tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("model", ["resnet20", "asymmetric_unet"])
def test_one_logit_is_that_of_the_second_of_two_classes(model, tmp_path):
    """Published heads of one number end in a sigmoid: that of ln 3 is 3/4."""
    shapes = fitting.abstract(model, 1, 3, {})
    tensors = {"/".join(name): np.zeros(leaf.shape, np.float32) for name, leaf in shapes.items()}
    tensors["params/head/bias"][:] = np.log(3)
    path = tmp_path / "one.safetensors"
    save_file(tensors, path)
    assert imported(path, "--model", model, "--output", tmp_path / "run") == 0
    run = cnn_jax.load(tmp_path / "run")
    image = np.zeros((32, 32, 3), np.uint8)
    probabilities = run.predict(image).probabilities
    assert run.info.classes == ("class 0", "class 1")
    np.testing.assert_allclose(probabilities[..., 0], 0.25, rtol=1e-5)
    np.testing.assert_allclose(probabilities[..., 1], 0.75, rtol=1e-5)


def test_a_file_that_was_saved_without_its_head_is_told_what_it_is_for(cifar, tmp_path, capsys):
    """As Keras publishes its `..._no_top.h5`."""
    tensors = {k: v for k, v in load_file(cifar[0]).items() if not k.startswith("linear.")}
    path = tmp_path / "no_top.safetensors"
    save_file(tensors, path)
    assert imported(path, "--model", "resnet20", "--output", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert f"{path} holds a network without a head" in said
    assert f"--initial {path}" in said
    assert not (tmp_path / "run").exists()


def test_conventions_are_refused_for_what_is_not_of_them(cifar, tmp_path, capsys):
    words = ["--model", "resnet20", "--output", tmp_path / "run", "--conventions", "timm_tf"]
    sentence = "--conventions timm_tf is of timm's EfficientNets: leave it out"
    ours = tmp_path / "ours.safetensors"
    variables = published.read(cifar[0], "resnet20").variables
    save_file(traverse_util.flatten_dict(variables, sep="/"), ours)
    for file in (cifar[0], ours):
        assert imported(file, *words) == 2
        assert sentence in capsys.readouterr().err
    with pytest.raises(InputError, match="conventions 'timm_ft' isn't known: did you mean timm_tf"):
        published.read(cifar[0], "resnet20", conventions="timm_ft")
    with pytest.raises(InputError, match="values 'torsch' isn't known: did you mean torch"):
        published.read(cifar[0], "resnet20", values="torsch")


def test_networks_for_which_pictures_are_prepared_otherwise_are_not_averaged(cifar, tmp_path):
    """A file would be cropped and resized for all as the first wants it."""
    file, folder = cifar
    cnn_jax.ensemble([folder, folder])
    for flag, value, said in (
        ("--crop-share", "0.875", r"differ in crop share \(1\.0, 0\.875\)"),
        ("--interpolation", "bicubic", r"differ in interpolation \(bilinear, bicubic\)"),
    ):
        words = ["--model", "resnet20", "--output", tmp_path / value, flag, value]
        assert imported(file, *words) == 0
        with pytest.raises(InputError, match=said):
            cnn_jax.ensemble([folder, tmp_path / value])


def test_what_a_network_saw_our_weights_alone_do_not_say(cifar, tmp_path, capsys):
    """Their record does. Values that are given count, of the file or of the run that is begun."""
    variables = published.read(cifar[0], "resnet20").variables
    path = tmp_path / "weights.safetensors"
    save_file(traverse_util.flatten_dict(variables, sep="/"), path)
    config = ClassificationConfig(model=model_config("resnet20"), initial=str(path))
    config.data.mean, config.data.std = (0.3,), (0.4,)
    begun, _ = initial.opened(config)
    assert (begun.data.mean, begun.data.std) == ((0.3,), (0.4,))
    assert "as the weights" not in capsys.readouterr().out
    words = ["--model", "resnet20", "--values", "torch", "--output", tmp_path / "run"]
    assert imported(path, *words) == 0
    run = cnn_jax.load(tmp_path / "run")
    assert (run.info.mean, run.info.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_only_of_timms_efficientnets_tf_says_how_they_compute(tmp_path, monkeypatch):
    """The networks are given without their tensors, whose names alone matter here."""
    monkeypatch.setattr(from_pytorch, "_carry_pytorch", lambda *_: ({}, 2, 3, ()))
    b0, v2 = "efficientnet_b0", "mobilenet_v2"
    files = {
        (model, whose): of_pytorch(model, tmp_path / f"tf_{model}_{whose}.safetensors", number, 2)
        for model, number, whose in ((b0, 0, "torchvision"), (b0, 1, "timm"), (v2, 1, "timm"))
    }
    for (model, whose), file in files.items():
        source = "timm_tf" if (model, whose) == (b0, "timm") else whose
        found = published.read(file, model)
        assert (found.source, found.options) == (source, conventions.options(model, source))
        plain = file.rename(tmp_path / file.name.removeprefix("tf_"))
        assert published.read(plain, model).source == whose
        if source == "timm_tf":
            assert published.read(plain, model, conventions="timm_tf").source == "timm_tf"
        else:
            with pytest.raises(InputError, match="is of timm's EfficientNets: leave it out"):
                published.read(plain, model, conventions="timm_tf")


@pytest.mark.parametrize("name", ["resnetblur50_84f4748f.pth", "resnetaa50_a1h.safetensors"])
def test_timms_resnets_that_blur_are_no_plain_ones(name, tmp_path):
    """timm 1.0.31's `create_model` gives all three the same names and shapes of tensors."""
    with pytest.raises(InputError, match="tensors look like a resnet18's"):
        published.read(of_pytorch("resnet18", tmp_path / name), "resnet18")


def test_vgg_has_batchnorm_where_its_file_does(tmp_path, monkeypatch):
    monkeypatch.setattr(from_pytorch, "_carry_pytorch", lambda *_: ({}, 2, 3, ()))
    file = tmp_path / "vgg11_bn.safetensors"
    tensors = {"features.0.weight": np.zeros((64, 3, 3, 3), np.float32)}
    save_file(tensors, file)
    assert "norm" not in published.read(file, "vgg11").options
    save_file(tensors | {"features.1.running_mean": np.zeros(64, np.float32)}, file)
    assert published.read(file, "vgg11").options["norm"] == "batch"


def zipped(path, **entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/"), content)


def hdf5(path, fill):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"a"]
        group = file.create_group("a")
        group.attrs["weight_names"] = [b"kernel"]
        fill(group)


def test_hostile_files_end_in_a_sentence_and_take_no_memory(tmp_path, capsys, monkeypatch):
    """Files that say they are larger than they are, or that lie elsewhere."""
    monkeypatch.setattr(torch_files, "_MOST_PICKLED", 2**24)
    zeros = bytes(2**25)
    zipped(tmp_path / "order.pth", **{"a__data.pkl": b".", "a__byteorder": zeros})
    zipped(tmp_path / "bomb.pth", **{"a__data.pkl": zeros})
    zipped(tmp_path / "bomb.keras", **{"config.json": b"{}", "model.weights.h5": zeros})
    with (tmp_path / "header.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 10 * 2**30) + b'{"a":')
    hdf5(
        tmp_path / "unstored.h5",
        lambda a: a.create_dataset("kernel", (2**30, 64), "f4", chunks=True),
    )
    many = [f"kernel_{number}" for number in range(12)]
    with h5py.File(tmp_path / "many.h5", "w") as file:  # each small enough
        file.attrs["layer_names"] = [b"a"]
        file.create_group("a").attrs["weight_names"] = many
        for name in many:
            file["a"].create_dataset(name, (2**22,), "f4", chunks=True)
    hdf5(tmp_path / "twice.h5", lambda a: a.create_dataset("kernel", (2**18,), "f4"))
    with h5py.File(tmp_path / "twice.h5", "a") as file:
        file.attrs["layer_names"] = [b"a"] * 1000
    elsewhere = [(str(tmp_path / "text"), 0, 80)]
    (tmp_path / "text").write_text("-" * 80)
    hdf5(
        tmp_path / "outside.h5",
        lambda a: a.create_dataset("kernel", (10,), "f8", external=elsewhere),
    )
    np.savez(tmp_path / "arrays.npz", weight=np.zeros(3))
    for name, said in (
        ("order.pth", "byte order"),
        ("bomb.pth", "its pickle is too large for weights"),
        ("bomb.keras", "model.weights.h5 is 33,554,432 bytes made of"),
        ("header.safetensors", "is damaged or no safetensors"),
        ("unstored.h5", "what is read up to /a/kernel is 274,877,906,944 bytes made of"),
        ("many.h5", "what is read up to /a/kernel_1 is 33,554,432 bytes made of"),
        ("twice.h5", "layer_names has a 1000 times"),
        ("outside.h5", "lies in another file"),
        ("arrays.npz", "there is no data.pkl"),
    ):
        path = tmp_path / name
        tracemalloc.start()
        try:
            assert imported(path, "--model", "resnet20", "--output", tmp_path / "run") == 2
            assert tracemalloc.get_traced_memory()[1] < 2**25, name
        finally:
            tracemalloc.stop()
        sentence = capsys.readouterr().err
        assert said in sentence, name
        assert sentence.count("\n") == 1


def test_names_come_in_several_forms(tmp_path):
    keras = tmp_path / "class_index.json"
    keras.write_text(json.dumps({"1": ["n02", "tiger"], "0": ["n01", "tench"]}))
    assert class_names.read(keras, 2) == ("tench", "tiger")
    plain = tmp_path / "names.txt"
    plain.write_text("Wiese\nGebäude\n\n", encoding="utf-8")
    assert class_names.read(plain, 2) == ("Wiese", "Gebäude")
    assert len(class_names.imagenet()) == len(set(class_names.imagenet())) == 1000
    assert class_names.known("mobilenet", 1001)[:2] == ("background", "tench")
    assert class_names.palette(3) == ((0, 0, 0), (128, 0, 0), (0, 128, 0))


# ---- real weights


@pytest.mark.parametrize(
    ("depth", "right"),
    [
        (20, 915),
        *(pytest.param(*c, marks=pytest.mark.long) for c in ((32, 928), (44, 933), (56, 926))),
    ],
)
def test_cifar_networks_are_as_right_as_published(depth, right, tmp_path):
    file = DATA / "weights" / f"cifar_resnet{depth}.th"
    if not file.exists():
        pytest.skip(f"{file} is absent: it isn't part of the repository")
    assert imported(file, "--model", f"resnet{depth}", "--output", tmp_path / "run") == 0
    run = cnn_jax.load(tmp_path / "run")
    with np.load(DATA / "weights" / "cifar10_test1000.npz") as held:
        images, labels = held["images"], held["labels"]
    found = np.concatenate(
        [np.asarray(run.probabilities(images[at : at + 250])) for at in range(0, 1000, 250)]
    )
    assert int((found.argmax(-1) == labels).sum()) == right


@pytest.mark.long
def test_mobilenet_v2_sees_what_keras_does_in_photographs(tmp_path):
    file = DATA / "weights" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"
    if not file.exists():
        pytest.skip(f"{file} is absent: it isn't part of the repository")
    assert imported(file, "--model", "mobilenet_v2", "--output", tmp_path / "run") == 0
    run = cnn_jax.load(tmp_path / "run")
    index = json.loads((DATA / "imagenet100" / "class_index.json").read_text())
    names = class_names.imagenet()
    paths = [DATA / "imagenet100" / name for name in index]
    tops = [[name for name, _ in found.top(5)] for found in run.predict(paths)]
    classes = [names[label] for label in index.values()]
    assert sum(top[0] == name for top, name in zip(tops, classes, strict=True)) == 80
    assert sum(name in top for top, name in zip(tops, classes, strict=True)) == 99

    from tests.models import keras_weights

    theirs = keras_weights.keras.applications.MobileNetV2(
        weights=str(file), classifier_activation=None
    )
    images = np.stack([run.read(path) for path in paths[:10]])
    expected = np.asarray(theirs(images / 127.5 - 1, training=False))
    ours = jax.jit(lambda x: run.model.apply(run.variables, x, train=False))(run.normalize(images))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
