"""Files that Keras writes, and what its networks compute with them."""

import re

import jax
import numpy as np
import pytest
from flax import traverse_util

import cnn_jax
from cnn_jax.commands import export
from cnn_jax.errors import InputError
from cnn_jax.inference import imported
from cnn_jax.models import conventions, weights
from cnn_jax.models.weights import fitting, keras

APPLICATIONS = {
    "VGG16": ("vgg16", 75),
    "InceptionV3": ("inception_v3", 107),
    "Xception": ("xception", 101),
    "ResNet50": ("resnet50", 75),
    "MobileNet": ("mobilenet", 75),
    "MobileNetV2": ("mobilenet_v2", 75),
    "DenseNet121": ("densenet121", 75),
}
"""Keras's name -> ours, and an odd side of an image."""


def saved(model, path):
    """Keras's file, by its name; `published.h5` has the layout in which weights are published."""
    from keras.src.legacy.saving import legacy_h5_format

    if path.name == "published.h5":
        import h5py

        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)
    elif path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) for name in APPLICATIONS]
)
@pytest.mark.filterwarnings(
    "ignore:You are saving your model as an HDF5 file",
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
)
def test_an_application_computes_what_it_does_in_keras(name, tmp_path):
    from tests.models import keras_weights

    ours, px = APPLICATIONS[name]
    theirs = keras_weights.untrained(name, px=px, classes=5)
    images = jax.random.normal(jax.random.key(0), (2, px, px, 3))
    expected = keras_weights.random_logits(theirs, images)
    results = []
    for file in ("published.h5", "whole.h5", "model.keras", "a.weights.h5"):
        path = saved(theirs, tmp_path / file)
        found = weights.read(path, ours)
        path.unlink()
        assert (found.num_classes, found.source, found.left_out) == (5, "keras", ())
        if found.preprocessing.std[0] == 1 / 255:
            images_as_seen = images[..., ::-1]  # the first kernels are turned
        else:
            images_as_seen = images
        if results:  # compute once; the same numbers again give the same again
            jax.tree.map(np.testing.assert_array_equal, found.variables, results[0])
            continue
        results.append(found.variables)
        logits = jax.jit(lambda v, x, m=found.module: m.apply(v, x, train=False))(
            found.variables, images_as_seen
        )
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)

    # back again: what is read lies in the file bit for bit, and Keras computes the same with it
    turned = found.preprocessing.std[0] == 1 / 255
    variables = with_first_kernel_turned(found) if turned else found.variables
    depth = getattr(found.module, "depth", 0)
    path = tmp_path / "back.h5"
    path.write_bytes(keras.written(keras.laid_out(ours, depth, variables)))
    again = weights.read(path, ours).variables
    jax.tree.map(np.testing.assert_array_equal, again, found.variables)
    theirs.set_weights([np.zeros(w.shape) for w in theirs.get_weights()])
    theirs.load_weights(path)
    path.unlink()
    logits = theirs(images, training=False)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def with_first_kernel_turned(found):
    flat = traverse_util.flatten_dict(found.variables)
    place = fitting.first_kernel(found.model, found.options)
    return traverse_util.unflatten_dict(flat | {place: flat[place][:, :, ::-1]})


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
)
@pytest.mark.usefixtures("quick_compilation")
def test_a_run_exported_for_keras_computes_its_logits_there(tmp_path, monkeypatch, capsys):
    from tests.models import keras_weights

    theirs = keras_weights.untrained("MobileNet", px=32, classes=3, alpha=0.25)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    for weight in theirs.weights:
        positive = weight.name in ("gamma", "moving_variance")
        low, high = (0.5, 1.5) if positive else (-0.5, 0.5)
        weight.assign(rng.uniform(low, high, weight.shape))
    file = saved(theirs, tmp_path / "published.h5")
    arrays = [np.asarray(w) for w in theirs.get_weights()]
    # as Keras has it, as another library might, and as no network of Keras's is
    options = {
        "keras": {"padding": "END"},
        "larger epsilon": {"epsilon": 1e-2},
        "other padding": {"padding": "SYMMETRIC"},
    }
    for source, held in options.items():
        folder = tmp_path / source
        seen = imported.Seen(image_px=(32, 32))
        with monkeypatch.context() as patched:
            patched.setitem(conventions._OPTIONS["keras"], "mobilenet", held)
            imported.import_weights(file, "mobilenet", folder, seen=seen)
        path = folder / "keras.h5"
        code = export.main([str(folder), "--format", "keras"])
        if source == "other padding":
            assert code == 2
            assert "model.padding is 'SYMMETRIC', and Keras's" in capsys.readouterr().err
            assert not path.exists()
            continue
        assert code == 0
        use = re.search(r"`(keras\.applications.+?)`", (folder / "README.md").read_text())[1]
        code = use.replace("FILE", repr(str(path)))
        made = eval(code, {"keras": keras_weights.keras})
        run = cnn_jax.load(folder)
        expected = run.model.apply(run.variables, images, train=False)
        logits = made(images, training=False)
        assert np.std(expected) > 0.1
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
        if source == "keras":
            for array, other in zip(made.get_weights(), arrays, strict=True):
                np.testing.assert_array_equal(array, other)


@pytest.mark.filterwarnings(
    "ignore:You are saving your model as an HDF5 file",
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
)
def test_each_of_keras_formats_holds_the_same_network(tmp_path):
    from tests.models import keras_weights

    theirs = keras_weights.untrained("MobileNet", px=32, classes=3, alpha=0.25)
    rng = np.random.default_rng(0)
    theirs.set_weights([rng.normal(size=w.shape) for w in theirs.get_weights()])
    found = [
        weights.read(saved(theirs, tmp_path / file), "mobilenet")
        for file in ("published.h5", "whole.h5", "model.keras", "a.weights.h5")
    ]
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, found[0].variables, other.variables)
    assert found[0].options == {"padding": "END", "width": 0.25}
    kernel = theirs.get_layer("conv_dw_3").kernel
    ours = found[0].variables["params"]["block_3"]["depthwise_kernel"]
    np.testing.assert_array_equal(ours[:, :, 0], np.asarray(kernel)[..., 0])

    with pytest.raises(InputError, match="is of timm's EfficientNets: leave it out"):
        weights.read(tmp_path / "published.h5", "mobilenet", conventions="timm_tf")
    for file in ("published.h5", "model.keras"):
        whole = (tmp_path / file).read_bytes()
        for share in (0.1, 0.5, 0.99):
            path = tmp_path / f"cut-{file}"
            path.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(InputError, match=r"damaged|no file"):
                weights.read(path, "mobilenet")
    with pytest.raises(InputError, match="layers with weights, and Keras's network"):
        weights.read(tmp_path / "published.h5", "mobilenet_v2")


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
)
def test_a_vgg_that_keras_published_without_its_top_is_an_encoder(tmp_path):
    """Its dense layers are part of the top."""
    from tests.models import keras_weights

    theirs = keras_weights.untrained("VGG16", px=32, classes=3, include_top=False)
    rng = np.random.default_rng(0)
    for weight in theirs.weights:
        weight.assign(rng.standard_normal(weight.shape, np.float32))
    path = saved(theirs, tmp_path / "published.h5")
    found = weights.read(path, "vgg16", head=False)
    assert found.num_classes == 0
    assert len(found.variables["params"]) == 13
    last = found.variables["params"]["block_5_convolution_3"]["convolution"]
    kernel, bias = theirs.get_layer("block5_conv3").get_weights()
    np.testing.assert_array_equal(last["kernel"], kernel)
    np.testing.assert_array_equal(last["bias"], bias)
    with pytest.raises(InputError, match="13 layers with weights, and Keras's network 16"):
        weights.read(path, "vgg16")


def test_a_file_that_points_to_another_is_refused(tmp_path):
    import h5py

    path = tmp_path / "a.h5"
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kernel"] = np.zeros(3)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"a"]
        group = file.create_group("a")
        group.attrs["weight_names"] = [b"kernel"]
        group["kernel"] = h5py.ExternalLink("other.h5", "kernel")
    with pytest.raises(InputError, match="points elsewhere"):
        weights.read(path, "vgg16")
