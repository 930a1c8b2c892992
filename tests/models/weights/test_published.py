"""Networks of other libraries, by the names and shapes of their tensors and the logits they gave,
which `write_fixtures.py` wrote once."""

import functools
import gzip
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from cnn_jax.errors import InputError
from cnn_jax.models import MODELS, conventions, weights
from cnn_jax.models.classifiers import CLASSIFIERS
from cnn_jax.models.encoders import encoder
from cnn_jax.models.fcn import FCN
from cnn_jax.models.weights import files, fitting, pytorch, torch_files
from tests.models.weights import drawn, write_kernels

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*.json.gz"))
QUICK = ("timm-resnet18",)
"""Those that are computed in every run of the suite; all are with `-m long`."""


def fixture(path):
    return json.loads(gzip.decompress(path.read_bytes()))


def marked(paths):
    for path in paths:
        name = path.name.removesuffix(".json.gz")
        yield pytest.param(path, id=name, marks=() if name in QUICK else pytest.mark.long)


def written(held, folder):
    """A safetensors file with the values that `drawn` draws."""
    path = folder / "weights.safetensors"
    scales = held.get("scales", {})
    tensors = {
        name: drawn.tensor(name, tuple(shape), scales) for name, shape in held["shapes"].items()
    }
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
    return path


@pytest.mark.parametrize("path", list(marked(FIXTURES)))
def test_it_computes_what_the_other_library_does(path, tmp_path):
    held = fixture(path)
    architecture = held["model"] if held["source"] != "smp" else held["encoder"]
    found = weights.read(written(held, tmp_path), architecture, head=held["source"] != "smp")
    for px, expected in held["results"].items():
        images = drawn.images(int(px))
        if held["source"] == "smp":
            module = encoder(
                architecture,
                conventions=found.source,
                norm="batch",
                dtype="float32",
                axis_name=None,
            )

            def compute(variables, images, module=module):
                maps = module.apply(variables, images, train=False, feature_maps=True)
                return jax.nn.relu(maps[max(maps)]).mean((1, 2))
        else:

            def compute(variables, images):
                return found.module.apply(variables, images, train=False)

        ours = np.asarray(jax.jit(compute)(found.variables, images))
        if ours.ndim == 4:
            ours = ours.transpose(0, 3, 1, 2)[:, :, ::5, ::5]
        ours, expected = ours.flatten()[: len(expected)], np.array(expected, np.float32)
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * expected.std())


def test_each_network_of_pytorch_that_docs_name_has_its_names_and_options():
    """A family whose name ends in a number is not cut to another."""
    for model in ("deeplabv3", "dilated_fcn", "se_resnet50", "efficientnet_b5", "convnext_large"):
        assert pytorch.namings(model), model
    assert conventions.options("deeplabv3", "torchvision") == {"pooled_norm": "batch"}
    symmetric = {"padding": "SYMMETRIC", "epsilon": 1e-5}
    assert conventions.options("efficientnet_b4", "torchvision") == symmetric
    assert conventions.options("efficientnet_b5", "torchvision") == symmetric | {"epsilon": 1e-3}
    assert conventions.options("efficientnet_b5", "timm") == symmetric
    assert conventions.options("efficientnet_b5", "timm_tf") == {}
    assert conventions.options("convnext_tiny", "timm") == {"rounding": "down"}


@pytest.mark.parametrize(
    "prefix",
    ["module.", "module._orig_mod.", "_orig_mod.module.", "model.", "model._orig_mod.", "net."],
)
def test_what_holds_a_network_may_have_named_it(prefix, tmp_path):
    """As `AveragedModel`, DistributedDataParallel compiled inside and as a whole, and Lightning
    save it."""
    path = written(fixture(Path(__file__).parent / "fixtures" / "timm-resnet18.json.gz"), tmp_path)
    tensors = load_file(path)
    named = {f"{prefix}{name}": value for name, value in tensors.items()}
    save_file(named | {"n_averaged": np.array(7)}, tmp_path / "named.safetensors")
    plain, found = (weights.read(p, "resnet18") for p in (path, tmp_path / "named.safetensors"))
    jax.tree.map(np.testing.assert_array_equal, found.variables, plain.variables)


@pytest.mark.parametrize("stride", [8, 32])
def test_an_fcns_own_weights_say_how_many_classes_it_tells_apart(stride, tmp_path, monkeypatch):
    """No module of it is called the head."""
    name = f"narrow_fcn{stride}s"
    narrow = functools.partial(FCN, stride=stride, width=0.1, dense_width=8)
    monkeypatch.setitem(fitting.MODELS, name, narrow)
    shapes = fitting.abstract(name, 5, 4, {})
    path = tmp_path / "weights.safetensors"
    save_file({"/".join(k): np.ones(leaf.shape, np.float32) for k, leaf in shapes.items()}, path)
    found = weights.read(path, name)
    assert (found.num_classes, found.channels) == (5, 4)


@pytest.mark.parametrize("name", ["ema", "ema_state_dict", "model_ema", "state_dict_ema"])
def test_of_weights_and_their_average_the_average_is_read(name, monkeypatch):
    held = {"model.fc.bias": np.zeros(2), f"{name}.module.fc.bias": np.ones(2)}
    monkeypatch.setattr(torch_files, "read", lambda path: held)
    found = files._unprefixed(files._tensors("best.pth"))
    assert list(found) == ["fc.bias"]
    np.testing.assert_array_equal(found["fc.bias"], np.ones(2))


def test_an_encoder_of_vgg_has_no_dense_layers(tmp_path):
    """As segmentation_models.pytorch writes them; half a classifier is refused."""
    places = dict(zip((0, 3, 6, 8, 11, 13, 16, 18), (64, 128, 256, 256, *[512] * 4), strict=True))
    tensors, before = {}, 3
    for place, width in places.items():
        name = f"encoder.features.{place}"
        for leaf, sizes in (("weight", (width, before, 3, 3)), ("bias", (width,))):
            tensors[f"{name}.{leaf}"] = drawn.tensor(f"{name}.{leaf}", sizes)
        before = width
    path = tmp_path / "encoder.safetensors"
    save_file(tensors, path)
    found = weights.read(path, "vgg11", head=False)
    assert set(found.variables["params"]) == {
        f"block_{block}_convolution_{number}"
        for block, count in enumerate((1, 1, 2, 2, 2), 1)
        for number in range(1, count + 1)
    }
    last = found.variables["params"]["block_5_convolution_2"]["convolution"]["kernel"]
    np.testing.assert_array_equal(last, tensors["encoder.features.18.weight"].transpose(2, 3, 1, 0))
    tensors["encoder.classifier.0.weight"] = np.zeros((4096, 25088), np.float32)
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"classifier\.0\.bias"):
        weights.read(path, "vgg11", head=False)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("cnn", "resnet20", "vgg11") else pytest.mark.long)
        for name in CLASSIFIERS
    ],
)
def test_the_nearest_architecture_is_told_from_the_sizes_that_its_kernels_have(name):
    """`python -m tests.models.weights.write_kernels` writes them again."""
    lines = fitting.KERNELS.read_text(encoding="utf-8").splitlines()
    assert [line.split()[0] for line in lines] == list(CLASSIFIERS)
    assert write_kernels.line(name) in lines


def test_which_architecture_is_meant_is_said_without_tracing_any(monkeypatch):
    """Tracing them all took more than a minute."""
    shapes = fixture(Path(__file__).parent / "fixtures" / "timm-resnet18.json.gz")["shapes"]
    arrays = [np.empty(shape, np.float32) for shape in shapes.values()]
    monkeypatch.setattr(fitting, "abstract", None)
    said = fitting.nearest_architecture("densenet201", arrays, lambda _: True)
    assert said == "95% of its kernels have the shapes of resnet18: ask for resnet18"
    said = fitting.nearest_architecture("densenet201", arrays, lambda name: name == "mlp")
    assert said == "no architecture here has most of its shapes"


def test_our_own_weights_of_other_options_are_sent_to_their_run(tmp_path):
    """Which options a network had, the record beside its weights knows, and the file doesn't."""
    module = MODELS["unet"](num_classes=2, base_width=4, depth=2)
    variables = module.init(jax.random.key(0), np.zeros((1, 16, 16, 3)), train=False)
    path = tmp_path / "weights.safetensors"
    flat = traverse_util.flatten_dict(variables, sep="/")
    save_file({name: np.asarray(value) for name, value in flat.items()}, path)
    with pytest.raises(InputError, match="if its network had other options, give the folder of"):
        weights.read(path, "unet")


def test_numbers_that_numpy_lacks_are_named(tmp_path):
    path = tmp_path / "eight_bits.safetensors"
    about = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path.write_bytes(len(about).to_bytes(8, "little") + about + b"ab")
    with pytest.raises(InputError, match=r"float8_e4m3fn.*: save it in float32 or float16"):
        weights.read(path, "resnet20")
