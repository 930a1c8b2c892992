"""The table of layers against published figures, XLA's own count, and fields measured by changing
pixels."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax.analysis.layer_table import TRAINING, layer_table, summarize
from cnn_jax.analysis.receptive_field import ALL, Field
from cnn_jax.layers.convolution import ConvolutionNormActivation
from cnn_jax.layers.pooling import average_pool, max_pool
from cnn_jax.layers.squeeze_excitation import SqueezeExcitation
from cnn_jax.layers.upsampling import BilinearUpsampling, TransposedUpsampling, bilinear_resize
from cnn_jax.models import MODELS
from cnn_jax.models.unet import UNet


class Model(nn.Module):
    """A function of `(x, train)` as a module."""

    function: Callable

    @nn.compact
    def __call__(self, x, *, train: bool):
        return self.function(x, train)


def rows(function, input_px):
    return summarize(Model(function), input_px).layers


@pytest.mark.parametrize(
    ("name", "options", "field_px", "multiply_adds", "parameters"),
    [
        # Fields: Araujo, Norris and Sim (2019). Multiply-adds: torchvision, and 569 M and 300 M in
        # the papers of the MobileNets.
        ("alexnet", {}, 195, 714_188_480, 61_100_840),
        ("vgg16", {}, 212, 15_470_264_320, 138_357_544),
        ("resnet50", {"downsample_in": "1x1"}, 483, None, 25_557_032),
        (
            "resnet50",
            {},
            427,
            4_089_184_256,
            25_557_032,
        ),  # 7, 11, then 2 jumps of 4, 8, 16, 32 for each 3x3 on a map of that stride
        ("mobilenet", {}, 315, 568_740_352, 4_231_976),
        ("mobilenet_v2", {}, None, 300_774_272, 3_504_872),
        ("inception_v3", {}, 1311, None, None),
    ],
)
def test_published_figures(name, options, field_px, multiply_adds, parameters):
    model = MODELS[name](num_classes=1000, **options)
    summary = summarize(model, model.paper_px)
    assert field_px in (
        None,
        max(layer.field_px[0] for layer in summary.layers if layer.field_px[0] != ALL),
    )
    assert summary.layers[-1].field_px == (ALL, ALL)
    assert summary.parameters == sum(layer.parameters for layer in summary.layers)
    assert parameters in (None, summary.parameters)
    assert multiply_adds in (None, summary.multiply_adds)


def test_vgg16_by_hand():
    layers = summarize(MODELS["vgg16"](num_classes=1000), (224, 224, 3)).layers
    kinds = [layer.kind for layer in layers]
    assert (
        kinds.count("convolution"),
        kinds.count("max pooling"),
        kinds.count("dense"),
        len(kinds),
    ) == (13, 5, 3, 22)
    # Fields after each block's convolutions and pooling: a 3x3 convolution adds 2 jumps, a pooling
    # 1, and doubles the jump.
    fields = [layer.field_px for layer in layers[:-3]]
    expected = [3, 5, 6, 10, 14, 16, 24, 32, 40, 44, 60, 76, 92, 100, 132, 164, 196, 212, 212]
    assert fields == [(px, px) for px in expected]
    second = layers[1]
    assert (second.name, second.output) == ("block_1_convolution_2", (224, 224, 64))
    assert (second.kernel, second.stride, second.padding) == ((3, 3), (1, 1), ((1, 1), (1, 1)))
    assert (second.parameters, second.multiply_adds) == (9 * 64 * 64 + 64, 224 * 224 * 64 * 9 * 64)
    assert (layers[-3].parameters, layers[-3].multiply_adds) == (25088 * 4096 + 4096, 25088 * 4096)


@pytest.mark.parametrize("name", ["lenet5", "course_cnn_dense", "resnet20"])
def test_multiply_adds_are_half_of_what_xla_counts(name):
    """XLA counts biases, norms and activations too, and leaves out products with the zeros of the
    padding: 10% either way."""
    model = MODELS[name](num_classes=10)
    image = jax.ShapeDtypeStruct((1, *model.paper_px), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    lowered = jax.jit(lambda variables, x: model.apply(variables, x, train=False)).lower(
        variables, image
    )
    count = summarize(model, model.paper_px).multiply_adds
    assert count == pytest.approx(lowered.cost_analysis()["flops"] / 2, rel=0.1)


# ---- receptive fields, measured: with positive weights everywhere, a value grows with every pixel
# that it depends on


def convolution(x, kernel=3, **options):
    return nn.Conv(2, (kernel, 2), **options)(x)


def chain(x, train):
    x = convolution(x, 5, strides=2, padding="VALID")
    x = max_pool(x)
    x = convolution(x, kernel_dilation=2)
    x = max_pool(x, 3, stride=2, padding=1)
    return average_pool(convolution(x, padding="VALID"), 2, padding="VALID")


def branches(x, train):
    narrow, wide = convolution(x, 1, strides=2), convolution(convolution(x, 5), strides=2)
    return (
        convolution(jnp.concatenate([narrow, wide, average_pool(x, 3, stride=2)], axis=-1)) + narrow
    )


def shortcut(x, train):
    return convolution(x, 3, strides=2, padding=((1, 1), (0, 0))) + jnp.pad(
        x[:, ::2, ::2, :1], ((0, 0), (0, 0), (0, 0), (0, 1))
    )


def transposed(x, train):
    down = max_pool(convolution(x))
    up = TransposedUpsampling(2)(convolution(down, 5))[:, : x.shape[1], : x.shape[2]]
    return convolution(jnp.concatenate([up, x], axis=-1))


def flax_transposed(x, train):
    return nn.ConvTranspose(2, (4, 4), strides=(2, 2))(average_pool(convolution(x)))


def bilinear(x, train):
    return BilinearUpsampling(2)(convolution(x, 3, strides=2))


def four_times(x, train):
    return bilinear_resize(
        convolution(x, 3, strides=4), 4 * -(-x.shape[1] // 4), 4 * -(-x.shape[2] // 4)
    )


def normalised(x, train):
    """Of these only BatchNorm, in prediction, sees one place; see the docstring of `Layer`."""
    x = ConvolutionNormActivation(2, 3, stride=2)(x, train=train)
    return nn.relu(nn.BatchNorm(use_running_average=not train)(convolution(x, 3)))


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    "function",
    [chain, branches, shortcut, transposed, flax_transposed, bilinear, four_times, normalised],
    ids=lambda function: function.__name__,
)
def test_receptive_fields_are_the_rows_whose_change_reaches_a_value(function):
    model = Model(function)
    last = summarize(model, (101, 24, 3)).layers[-1]
    assert (last.least_field_px[0], last.field_px[0]) == rows_reached(model, 101)


def rows_reached(model, side):
    """Of the rows of the result whose view ends within the image: the least and the greatest number
    of rows, from the first whose change reaches it to the last."""
    image = jnp.ones((1, side, 24, 3))
    variables = jax.tree.map(
        lambda leaf: jnp.ones(leaf.shape),
        jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False)),
    )
    changed = image + 1000 * jnp.eye(side)[:, :, None, None]
    values = np.asarray(jax.jit(lambda x: model.apply(variables, x, train=False))(changed))
    # [row of the image, row of the result]; most rows of the image don't reach one of the result
    reached = (values > (1 + 1e-6) * values.min(0)).any((2, 3))
    spans = [np.flatnonzero(column) for column in reached.T]
    measured = [
        span.max() - span.min() + 1
        for span in spans
        if len(span) and span.min() > 0 and span.max() < side - 1
    ]
    assert max(measured) > 1
    return min(measured), max(measured)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
@pytest.mark.parametrize(("depth", "side"), [(1, 64), (2, 160), (3, 288)])
def test_places_of_a_u_net_see_what_is_measured(depth, side, upsampling):
    model = UNet(2, base_width=1, depth=depth, norm="none", upsampling=upsampling)
    last = summarize(model, (side, 24, 3)).layers[-1]
    assert (last.least_field_px[0], last.field_px[0]) == rows_reached(model, side)


def test_rows_of_the_papers_u_net_see_188_or_204_px():
    last = summarize(UNet(2), (256, 256, 3)).layers[-1]
    assert (last.least_field_px, last.field_px) == ((188, 188), (204, 204))
    assert layer_table(summarize(UNet(2), (256, 256, 3))).split("\n\n")[0].endswith("188-204")


@pytest.mark.parametrize("seed", range(40))
def test_spans_are_those_of_every_place(seed):
    """Any chain of windows, steps, growths and resizings, against sets of pixels kept for each
    place."""
    rng = np.random.default_rng(seed)
    field, seen = Field(), {place: {place} for place in range(-300, 300)}
    for _ in range(rng.integers(1, 5)):
        if rng.random() < 0.25:
            old = int(rng.integers(2, 7))
            new = int(rng.integers(2, 7))
            field = field.resized(0, old, new)
            step, reach = old / new, max(1, old / new)
            if old != new:
                middle = {p: (p + 0.5) * step - 0.5 for p in range(-300, 300)}
                reads = {
                    p: [q for q in range(int(m) - 5, int(m) + 6) if abs(q - m) < reach - 1e-9]
                    for p, m in middle.items()
                }
            else:
                reads = {p: [p] for p in range(-300, 300)}
        else:
            taps, stride, dilation, growth = (int(rng.integers(1, most)) for most in (5, 4, 4, 4))
            before = int(rng.integers(-3, 4))
            field = field.window(0, taps, stride, dilation, before, growth)
            reads = {
                p: [
                    (p * stride - before + tap * dilation) // growth
                    for tap in range(taps)
                    if (p * stride - before + tap * dilation) % growth == 0
                ]
                for p in range(-300, 300)
            }
        seen = {
            p: set().union(*(seen[q] for q in places))
            for p, places in reads.items()
            if all(q in seen for q in places)
        }
    assert seen
    for place, pixels in seen.items():
        first, last = field.spans[0].at(place)
        assert (first, last) == ((min(pixels), max(pixels)) if pixels else (np.inf, -np.inf))
        wide = field.spans[0].alike().at(place)
        assert not pixels or wide[0] <= first <= last <= wide[1]
    period = len(field.spans[0].spans)
    middle = [seen[p] for p in range(-period, period) if p in seen]
    if len(middle) == 2 * period:
        widths = [max(pixels) - min(pixels) + 1 for pixels in middle if pixels] or [0]
        assert field.spans[0].px == (min(widths), max(widths))


def test_what_sees_the_whole_map_sees_the_whole_image():
    def squeezed(x, train):
        return convolution(SqueezeExcitation()(convolution(x)))

    def flattened(x, train):
        return nn.Dense(2)(nn.relu(x.reshape(x.shape[0], -1)))

    assert [layer.field_px[0] for layer in rows(squeezed, (8, 8, 3))] == [3, ALL, ALL, ALL, ALL]
    assert [layer.field_px[0] for layer in rows(flattened, (8, 8, 3))] == [1, ALL]
    assert [
        layer.field_px[0] for layer in rows(lambda x, train: nn.Dense(2)(x).mean((1, 2)), (8, 8, 3))
    ] == [1, ALL]


def test_an_operation_without_a_rule_is_taken_to_see_everything():
    def reversed_rows(x, train):
        return convolution(convolution(x)[:, ::-1])

    assert [layer.field_px[0] for layer in rows(reversed_rows, (8, 8, 3))] == [3, ALL]


# ---- rows


def test_kinds_kernels_strides_and_padding():
    def model(x, train):
        x = ConvolutionNormActivation(4, (1, 7), stride=2, name="first")(x, train=train)
        x = ConvolutionNormActivation(
            4, 3, groups=4, dilation=2, padding="VALID", norm="group", name="second"
        )(x, train=train)
        x = nn.Conv(4, (3, 3), feature_group_count=2, name="third")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.ConvTranspose(3, (2, 2), strides=(2, 2), name="fourth")(x)
        return max_pool(max_pool(average_pool(x, 3, stride=1), 2), 3, 2, padding=1)

    first, second, third, norm, fourth, average, largest, overlapping = rows(model, (19, 16, 3))
    assert (first.name, first.kind, first.output) == (
        "first",
        "convolution, batch norm",
        (10, 8, 4),
    )
    assert (first.kernel, first.stride, first.padding) == ((1, 7), (2, 2), ((0, 0), (2, 3)))
    assert (first.parameters, first.multiply_adds, first.field_px) == (
        7 * 3 * 4 + 2 * 4,
        10 * 8 * 4 * 7 * 3,
        (1, 7),
    )
    assert (second.kind, second.output) == (
        "depthwise convolution, dilation 2, group norm",
        (6, 4, 4),
    )
    assert (second.parameters, second.multiply_adds, second.field_px) == (
        9 * 4 + 2 * 4,
        6 * 4 * 4 * 9,
        (9, 15),
    )
    assert (third.kind, third.parameters, third.multiply_adds) == (
        "convolution, 2 groups",
        9 * 2 * 4 + 4,
        6 * 4 * 4 * 9 * 2,
    )
    assert (norm.name, norm.kind, norm.parameters, norm.field_px) == (
        "norm",
        "batch norm",
        8,
        third.field_px,
    )
    assert (fourth.kind, fourth.output, fourth.stride) == (
        "transposed convolution",
        (12, 8, 3),
        (0.5, 0.5),
    )
    assert (fourth.parameters, fourth.multiply_adds) == (4 * 4 * 3 + 3, 6 * 4 * 4 * 4 * 3)
    assert (average.kind, average.name, average.padding) == (
        "average pooling",
        "average_pool",
        ((1, 1), (1, 1)),
    )
    assert (largest.kind, largest.output, largest.stride, largest.padding) == (
        "max pooling",
        (6, 4, 3),
        (2, 2),
        ((0, 0), (0, 0)),
    )
    assert (overlapping.kind, overlapping.output, overlapping.kernel) == (
        "max pooling",
        (3, 2, 3),
        (3, 3),
    )
    assert (overlapping.stride, overlapping.padding) == ((2, 2), ((1, 1), (1, 1)))


def test_an_upsampling_is_the_transposed_convolution_that_it_computes():
    (ours,) = rows(lambda x, train: TransposedUpsampling(5, name="up")(x), (6, 4, 3))
    (flax,) = rows(
        lambda x, train: nn.ConvTranspose(5, (2, 2), strides=(2, 2), name="up")(x), (6, 4, 3)
    )
    assert (ours.output, ours.kernel, ours.multiply_adds) == ((12, 8, 5), (2, 2), 6 * 4 * 3 * 4 * 5)
    assert replace(ours, padding=flax.padding) == flax


def test_a_module_used_twice_has_its_parameters_once_and_one_without_a_row_of_its_own_gets_one():
    class Scale(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x * self.param("scale", nn.initializers.ones, (3,))

    def model(x, train):
        twice = nn.Dense(3, name="twice")
        return Scale(name="scale")(twice(twice(x)))

    summary = summarize(Model(model), (2, 2, 3))
    assert [(layer.name, layer.parameters) for layer in summary.layers] == [
        ("twice", 12),
        ("twice", 0),
        ("scale", 3),
    ]
    assert summary.parameters == 15
    assert summary.multiply_adds == 2 * 2 * 2 * 3 * 3


def test_a_layer_of_training_alone_has_a_row_that_says_so():
    def model(x, train):
        head, auxiliary = nn.Dense(2, name="head"), nn.Dense(2, name="auxiliary")
        if train or auxiliary.is_initializing():
            auxiliary(x)
        return head(x)

    summary = summarize(Model(model), (2, 2, 3))
    assert [(layer.name, layer.kind, layer.parameters) for layer in summary.layers] == [
        ("head", "dense", 8),
        ("auxiliary", TRAINING, 8),
    ]
    assert summary.layers[-1].field_px is None
    assert "parameters: 8 + 8 = 16\nin training alone, of these: 8\n" in layer_table(summary)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
def test_rows_of_a_u_net_add_up(norm, upsampling):
    summary = summarize(
        UNet(2, base_width=4, depth=2, norm=norm, upsampling=upsampling), (33, 20, 3)
    )
    assert summary.parameters == sum(layer.parameters for layer in summary.layers)
    assert summary.moving_statistics == (2 * 2 * (4 + 8 + 16 + 8 + 4) if norm == "batch" else 0)
    assert summary.layers[-1].output == (33, 20, 2)
    # 3, 5 | 6, 10, 14 | 16, 24, 32; what comes then is measured above.
    last, measured = summary.layers[-1], {"transposed": (44, 44), "bilinear": (48, 52)}
    assert (last.least_field_px[0], last.field_px[0]) == measured[upsampling]
    assert all(layer.field_px[0] < ALL for layer in summary.layers), (
        "a norm counts as seeing one place"
    )


def test_the_table_shows_the_sum_of_few_counts_alone():
    few = summarize(MODELS["course_cnn"](num_classes=10), (28, 28, 1))
    assert (
        "\nparameters: 640 + 432,650 = 433,290\nmultiply-adds for one image: 822,016"
        in layer_table(few)
    )
    many = summarize(MODELS["resnet20"](num_classes=10), (32, 32, 3))
    assert "\nparameters: 269,722\nmoving statistics, not trained: 1,376\n" in layer_table(many)


def test_the_table_is_aligned_and_says_what_differs_by_side():
    header, rule, *lines = layer_table(
        summarize(UNet(2, base_width=4, depth=1), (5, 4, 3))
    ).splitlines()
    pooling = next(line for line in lines if line.startswith("max_pool"))
    assert pooling.split() == ["max_pool", "max", "pooling", "3x2x4", "2x2", "2", "0+1x0", "6"]
    assert header.split()[-2:] == ["field,", "px"]
    assert len(pooling) == len(header) == len(rule)
