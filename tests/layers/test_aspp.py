"""ASPP: torchvision's parameter count, its branches against SciPy, rates by hand, and batches of
one image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from cnn_jax.layers.aspp import ASPP, rates_for

pytestmark = pytest.mark.usefixtures("quick_compilation")

FEATURES = 32  # two groups of 16 for the norm of the image's mean


def filled(model, x):
    """Variables without zeros and ones; variances are positive."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        positive = path[-1].key in ("var", "scale")
        value = rng.uniform(0.5, 1.5, leaf.shape) if positive else rng.normal(0, 0.3, leaf.shape)
        return value.astype(np.float32)

    return jax.tree.map_with_path(fill, shapes)


def maps(batch=2):
    return np.random.default_rng(1).normal(0.3, 1, (batch, 7, 9, 3)).astype(np.float32)


def test_parameters_are_torchvisions():
    x = jnp.zeros((1, 2, 2, 2048))
    shapes = jax.eval_shape(lambda: ASPP(256, (12, 24, 36)).init(jax.random.key(0), x, train=False))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 15_535_104


@pytest.mark.parametrize(
    ("map_px", "rates"),
    [
        ((33, 33), (6, 12, 18)),
        ((9, 16), (2, 4, 6)),
        ((16, 9), (2, 4, 6)),
        ((65, 65), (12, 24, 36)),
        ((1, 1), (1, 2, 3)),
    ],
)
def test_rates_are_to_a_map_what_the_papers_are_to_its_own(map_px, rates):
    assert rates_for(map_px) == rates


def test_values_are_scipys():
    """Kernels with zeros between their taps, correlated channel by channel in float64; the norms by
    their formulas."""
    model, x = ASPP(FEATURES, (2, 5)), maps()
    variables = filled(model, x)
    params, statistics = jax.tree.map(np.float64, (variables["params"], variables["batch_stats"]))

    def convolution(x, layer, rate=1):
        kernel = layer["convolution"]["kernel"]
        size = (len(kernel) - 1) * rate + 1
        sparse = np.zeros((size, size, *kernel.shape[2:]))
        sparse[::rate, ::rate] = kernel
        return np.stack(
            [
                np.stack(
                    [
                        sum(
                            correlate2d(image[..., c], sparse[..., c, f], mode="same")
                            for c in range(image.shape[-1])
                        )
                        for f in range(kernel.shape[-1])
                    ],
                    axis=-1,
                )
                for image in x
            ]
        )

    def block(x, name, rate=1):
        norm, moving = params[name]["norm"], statistics[name]["norm"]
        y = (convolution(x, params[name], rate) - moving["mean"]) / np.sqrt(moving["var"] + 1e-5)
        return np.maximum(y * norm["scale"] + norm["bias"], 0)

    x = x.astype(np.float64)
    mean = convolution(x.mean((1, 2), keepdims=True), params["image_pooling"]).reshape(
        2, 2, 16
    )  # image, group, channel
    mean = (mean - mean.mean(-1, keepdims=True)) / np.sqrt(mean.var(-1, keepdims=True) + 1e-5)
    norm = params["image_pooling"]["norm"]["norm"]
    mean = np.maximum(mean.reshape(2, 1, 1, FEATURES) * norm["scale"] + norm["bias"], 0)
    branches = [
        block(x, "convolution_1x1"),
        block(x, "convolution_rate_1", 2),
        block(x, "convolution_rate_2", 5),
    ]
    joined = np.concatenate([*branches, np.broadcast_to(mean, branches[0].shape)], axis=-1)
    expected = block(joined, "projection")

    got = jax.jit(lambda variables: model.apply(variables, maps(), train=False))(variables)
    assert got.shape == (2, 7, 9, FEATURES)
    assert expected.std() > 0.5
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_separable_convolutions_are_plain_ones_whose_kernels_are_products():
    """Depthwise taps times pointwise weights; the norm between the two is left out."""
    x = maps()
    separable, plain = ASPP(FEATURES, (2,), separable=True), ASPP(FEATURES, (2,))
    variables = filled(separable, x)
    branch = variables["params"]["convolution_rate_1"]
    kernel = (
        branch["depthwise_kernel"][:, :, 0, :, None] * branch["pointwise"]["convolution"]["kernel"]
    )
    joined = {"convolution": {"kernel": kernel}, "norm": branch["pointwise"]["norm"]}
    statistics = variables["batch_stats"]
    product = {
        "params": variables["params"] | {"convolution_rate_1": joined},
        "batch_stats": (
            statistics | {"convolution_rate_1": statistics["convolution_rate_1"]["pointwise"]}
        ),
    }
    one, other = jax.jit(
        lambda *both: [
            m.apply(v, x, train=False) for m, v in zip((separable, plain), both, strict=True)
        ]
    )(variables, product)
    assert float(one.std()) > 0.1
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_batches_of_one_image_leave_the_mean_informative_and_evaluation_sane():
    """Over a batch of one, BatchNorm of a mean would leave its offset alone, and a running variance
    that goes to 0."""
    model = ASPP(FEATURES, (1, 2))
    images = np.random.default_rng(2).normal(
        np.linspace(-1, 1, 12)[:, None, None, None, None], 1, (12, 1, 4, 5, 6)
    )
    images = images.astype(np.float32)
    variables = filled(model, images[0])
    assert "image_pooling" not in variables["batch_stats"]

    @jax.jit
    def train(variables, x):
        y, new = model.apply(
            variables,
            x,
            train=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda m, _: m.name == "image_pooling",
        )
        (pooled,) = new["intermediates"]["image_pooling"]["__call__"]
        return y, pooled, variables | {"batch_stats": new["batch_stats"]}

    outputs, pooled = [], []
    for x in images:
        y, mean, variables = train(variables, x)
        outputs.append(y)
        pooled.append(mean)
    assert np.isfinite(outputs).all()
    assert np.std(pooled, axis=0).max() > 0.1, (
        "what the mean's branch gives doesn't depend on the image"
    )
    variances = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(variables["batch_stats"])
        if path[-1].key == "var"
    ]
    assert min(float(leaf.min()) for leaf in variances) > 0.01
    evaluated = jax.jit(
        lambda variables: [model.apply(variables, x, train=False) for x in images[-3:]]
    )(variables)
    assert np.isfinite(evaluated).all()
    assert 0.1 < np.std(evaluated) / np.std(outputs[-3:]) < 10
