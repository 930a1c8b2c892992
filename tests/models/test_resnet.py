"""ResNet: published parameter counts, the paper's sizes, Keras's outputs, and dilation that
computes the same values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.models import CLASSIFIERS
from cnn_jax.models.resnet import CifarResNet, ResidualBlock, ResNet
from tests.models.shapes import KEY, count, maps, shallow

pytestmark = pytest.mark.usefixtures("quick_compilation")


def shapes(model, px=32):
    return jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, px, px, 3)), train=False))


def filled(variables, seed=0):
    """Values for these shapes: He-like kernels, and norms away from where they start."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        if path[-1].key in ("scale", "var"):
            return jnp.float32(rng.uniform(0.5, 1.0, leaf.shape))
        std = (2 / np.prod(leaf.shape[:-1])) ** 0.5 if leaf.ndim > 1 else 0.1
        return jnp.float32(rng.normal(0, std, leaf.shape))

    return jax.tree.map_with_path(fill, variables)


# ---- counts


@pytest.mark.parametrize(
    ("name", "trainable", "total"),
    [
        ("resnet18", 11_689_512, None),  # torchvision's; Keras has none
        ("resnet34", 21_797_672, None),
        ("resnet50", 25_557_032, 25_636_712),
        ("resnet101", 44_549_160, 44_707_176),
        ("resnet152", 60_192_808, 60_419_944),
    ],
)
def test_trainable_parameters_are_torchvisions_and_all_are_kerass(name, trainable, total):
    """Keras counts moving statistics, a mean and a variance a channel, and has a bias before every
    norm."""
    variables = shapes(CLASSIFIERS[name](num_classes=1000))
    assert count(variables["params"]) == trainable
    if total:
        biases = count(variables["batch_stats"]) // 2
        assert count(variables) + biases == total


def test_squeeze_and_excitation_adds_two_dense_layers_a_block():
    """Trainable; 2 c^2 / 16 weights and c / 16 + c biases for a block of c channels."""
    added = sum(
        blocks * (2 * c * c // 16 + c // 16 + c)
        for blocks, c in [(3, 256), (4, 512), (6, 1024), (3, 2048)]
    )
    assert added == 2_530_992
    assert (
        count(shapes(CLASSIFIERS["se_resnet50"](num_classes=1000))["params"]) == 25_557_032 + added
    )


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85"), (110, "1.7")]
)
def test_cifar_parameters_are_the_papers(depth, millions):
    """Trainable, with the norms' scales and biases. Shortcuts have none, so only convolutions,
    norms and the head count."""
    n = (depth - 2) // 6
    kernels = (
        3 * 16
        + 2 * n * 16 * 16
        + (16 * 32 + (2 * n - 1) * 32 * 32)
        + (32 * 64 + (2 * n - 1) * 64 * 64)
    )
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    trainable = count(shapes(CLASSIFIERS[f"resnet{depth}"](num_classes=10))["params"])
    assert trainable == 9 * kernels + norms + (64 * 10 + 10)
    assert f"{trainable / 1e6:.{len(millions) - 2}f}" == millions  # the paper's table 6


def test_resnet20_has_269722_trainable_parameters():
    assert (
        count(shapes(CifarResNet(10, depth=20))["params"]) == 269_722
    )  # 272,474 with projections for its two shortcuts


# ---- sizes


@pytest.mark.parametrize(("name", "widest"), [("resnet18", 512), ("resnet50", 2048)])
def test_stages_have_the_papers_sizes(name, widest):
    assert maps(CLASSIFIERS[name](num_classes=5), 224, 224)[0] == {
        2: (112, 112, 64),
        4: (56, 56, widest // 8),
        8: (28, 28, widest // 4),
        16: (14, 14, widest // 2),
        32: (7, 7, widest),
    }


def test_cifar_stages_have_the_papers_sizes():
    assert maps(CifarResNet(10), 32, 32)[0] == {1: (32, 32, 16), 2: (16, 16, 32), 4: (8, 8, 64)}


def test_the_small_stem_keeps_a_map_of_4_for_32_px():
    assert maps(ResNet(5, stem="small"), 32, 32)[0] == {
        1: (32, 32, 256),
        2: (16, 16, 512),
        4: (8, 8, 1024),
        8: (4, 4, 2048),
    }


@pytest.mark.parametrize(
    "model",
    [ResNet(5), ResNet(5, stem="small"), CifarResNet(5)],
    ids=["imagenet", "small", "cifar"],
)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 47)])
def test_maps_have_the_images_size_divided_and_rounded_up(model, height, width):
    made, variables = maps(model, height, width)
    for stride, shape in made.items():
        assert shape[:2] == (-(-height // stride), -(-width // stride))
    whole = shapes(model)
    assert set(whole["params"]) - set(variables["params"]) == {"head"}
    assert variables["batch_stats"] == whole["batch_stats"]


# ---- output stride


@pytest.mark.parametrize(
    ("output_stride", "sides"),
    [(16, {2: 33, 4: 17, 8: 9, 16: 5, 32: 5}), (8, {2: 33, 4: 17, 8: 9, 16: 9, 32: 9})],
)
def test_output_stride_ends_the_halving_and_keeps_keys_and_parameters(output_stride, sides):
    """Each stage's map keeps its channels and the key that it has without."""
    with shallow():
        made, variables = maps(ResNet(5, output_stride=output_stride), 65, 65)
        assert variables == maps(ResNet(5), 65, 65)[1]
    channels = {2: 64, 4: 256, 8: 512, 16: 1024, 32: 2048}
    assert made == {key: (side, side, channels[key]) for key, side in sides.items()}


@pytest.mark.parametrize(
    "options", [{"depth": 18}, {"depth": 50}, {"depth": 50, "downsample_in": "1x1"}]
)
def test_dilated_stages_compute_what_strided_ones_do_and_the_values_between(options):
    """With the same weights, every 16 / 32nd and 8 / 32nd position of the dilated networks' maps is
    the strided network's."""
    x = jax.random.normal(KEY, (1, 64, 97, 3))  # maps of even and of odd sizes
    options |= {"width": 0.25}

    with shallow():
        variables = filled(shapes(ResNet(5, **options)))

        @jax.jit
        def last_maps(variables):
            networks = [ResNet(5, **options, output_stride=stride) for stride in (32, 16, 8)]
            return [
                network.apply(variables, x, train=False, feature_maps=True)[32]
                for network in networks
            ]

        at_32, at_16, at_8 = last_maps(variables)
    assert (at_32.shape[1:3], at_16.shape[1:3], at_8.shape[1:3]) == ((2, 4), (4, 7), (8, 13))
    assert float(at_32.std()) > 0.1
    tolerance = 1e-4 * float(at_32.std())
    np.testing.assert_allclose(at_16[:, ::2, ::2], at_32, rtol=1e-4, atol=tolerance)
    np.testing.assert_allclose(at_8[:, ::4, ::4], at_32, rtol=1e-4, atol=tolerance)


# ---- blocks


def test_a_block_whose_branch_is_zero_passes_its_input_on():
    """What the paper is about: the identity costs a block nothing. Option A then subsamples and
    adds empty channels."""

    class Zero:
        def __init__(self, features, kernel_px, stride, dilation, **_):
            self.features, self.stride = features, stride

        def __call__(self, x, train):
            return jnp.zeros((*x[:, :: self.stride, :: self.stride, 0].shape, self.features))

    x = jax.random.uniform(KEY, (2, 5, 6, 3))
    block = functools.partial(ResidualBlock, convolution=Zero, projection=False)
    np.testing.assert_array_equal(block(3).apply({}, x, train=False), x)
    y = np.asarray(block(7, stride=2).apply({}, x, train=False))
    np.testing.assert_array_equal(y[..., :3], x[:, ::2, ::2])
    assert y.shape == (2, 3, 3, 7)
    assert not y[..., 3:].any()


def test_group_norm_has_no_moving_statistics():
    variables = shapes(ResNet(1000, norm="group"))
    assert set(variables) == {"params"}
    assert count(variables) == 25_557_032


# ---- Keras


@pytest.mark.long
def test_resnet50_computes_what_kerass_does():
    """Keras's has the paper's strides, in the first 1x1 convolution, and an epsilon of 1.001e-5."""
    from tests.models import keras_weights

    theirs = keras_weights.untrained("ResNet50", px=64, classes=5)
    images = jax.random.normal(KEY, (2, 64, 64, 3))
    expected = keras_weights.random_logits(theirs, images)
    params, statistics = (
        {"head": keras_weights.kernel_and_bias(theirs.get_layer("predictions"))},
        {},
    )

    def carry(name):
        return keras_weights.convolution_and_norm(
            theirs.get_layer(f"{name}_conv"), theirs.get_layer(f"{name}_bn")
        )

    params["stem"], statistics["stem"] = carry("conv1")
    parts = {"shortcut": 0, "convolution_1": 1, "convolution_2": 2, "convolution_3": 3}
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(1, blocks + 1):
            carried = {
                part: carry(f"conv{stage + 1}_block{block}_{number}")
                for part, number in parts.items()
                if block == 1 or part != "shortcut"
            }
            name = f"stage_{stage}_block_{block}"
            params[name] = {part: value for part, (value, _) in carried.items()}
            statistics[name] = {part: value for part, (_, value) in carried.items()}
    ours = ResNet(5, downsample_in="1x1")
    keras_weights.assert_same_logits(
        ours, {"params": params, "batch_stats": statistics}, images, expected
    )
