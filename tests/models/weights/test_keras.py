"""Files that Keras writes, and what its networks compute with them."""

import jax
import numpy as np
import pytest

from cnn_jax.errors import InputError
from cnn_jax.models import weights
from cnn_jax.models.weights import published

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


@pytest.mark.filterwarnings(
    "ignore:You are saving your model as an HDF5 file",
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
)
def test_each_of_keras_formats_holds_the_same_network(tmp_path, monkeypatch):
    from tests.models import keras_weights

    monkeypatch.setattr(published, "CLASSIFIERS", ())  # tracing them all takes long

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

    for file in ("published.h5", "model.keras"):
        whole = (tmp_path / file).read_bytes()
        for share in (0.1, 0.5, 0.99):
            path = tmp_path / f"cut-{file}"
            path.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(InputError, match=r"damaged|no file"):
                weights.read(path, "mobilenet")
    with pytest.raises(InputError, match="layers with weights, and Keras's network"):
        weights.read(tmp_path / "published.h5", "mobilenet_v2")


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
