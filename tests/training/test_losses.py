"""Losses against hand-worked sums, scikit-learn, optax and plain NumPy in float64; class weights
against scikit-learn."""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage, special
from sklearn.metrics import f1_score, jaccard_score, log_loss
from sklearn.utils.class_weight import compute_class_weight

from cnn_jax.configuration import schema
from cnn_jax.configuration.schema import LossConfig
from cnn_jax.data.scenes import IGNORED
from cnn_jax.training import losses
from cnn_jax.training.losses import LOSSES, class_weights, cross_entropy, focal, hits

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def example():
    """Logits [2, 5, 7, 4] and labels with some ignored."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 5, 7, 4)).astype(np.float32)
    labels = rng.choice([0, 1, 2, 3, IGNORED], (2, 5, 7)).astype(np.int32)
    return logits, labels


def test_by_hand_with_an_ignored_pixel():
    """Probabilities 1/2 1/4 1/4 with truth 0, then 1/10 1/10 8/10 with truth 1, then a pixel that
    is ignored."""
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]])) + jnp.array(
        [[5.0], [-3.0], [0.0]]
    )
    total, count = cross_entropy(logits, jnp.array([0, 1, IGNORED]))
    assert float(total) == pytest.approx(math.log(2) + math.log(10), rel=1e-5)
    assert float(count) == 2


def test_weights_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]))
    total, count = cross_entropy(
        logits, jnp.array([0, 1, IGNORED]), class_weights=np.array([3.0, 0.5])
    )
    assert float(total) == pytest.approx(3 * math.log(2) + 0.5 * math.log(4 / 3), rel=1e-5)
    assert float(count) == 3.5


def test_smoothing_by_hand_weighs_the_whole_pixel_by_its_class():
    """Truth 0, smoothing 0.2, two classes: the target is 0.9 and 0.1."""
    logits = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]]))
    total, count = cross_entropy(
        logits, jnp.array([0, 0]), class_weights=np.array([2.0, 5.0]), label_smoothing=0.2
    )
    by_hand = math.log(2) + 0.9 * math.log(4) + 0.1 * math.log(4 / 3)
    assert float(total) == pytest.approx(2 * by_hand, rel=1e-5)
    assert float(count) == 4


def test_is_scikit_learns_log_loss(example):
    logits, labels = example
    kept = labels != IGNORED
    probabilities = np.asarray(jax.nn.softmax(logits.astype(np.float64)))[kept].astype(np.float64)
    probabilities /= probabilities.sum(-1, keepdims=True)
    weights = np.array([0.5, 1, 2, 4], np.float32)
    for class_weight in (None, weights):
        total, count = cross_entropy(logits, labels, class_weights=class_weight)
        sample_weight = None if class_weight is None else weights[labels[kept]]
        mean = log_loss(labels[kept], probabilities, sample_weight=sample_weight, labels=range(4))
        assert float(total) / float(count) == pytest.approx(mean, rel=1e-5)
    assert float(count) == pytest.approx(weights[labels[kept]].sum())


def test_is_optax_integer_and_smoothed_cross_entropy(example):
    logits, labels = example
    labels = np.where(labels == IGNORED, 0, labels)
    total, count = cross_entropy(logits, labels)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()
    np.testing.assert_allclose([total, count], [expected, labels.size], rtol=1e-5)
    total, _ = cross_entropy(logits, labels, label_smoothing=0.3)
    smoothed = optax.smooth_labels(jax.nn.one_hot(labels, 4), 0.3)
    np.testing.assert_allclose(
        total, optax.softmax_cross_entropy(logits, smoothed).sum(), rtol=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_ignored_pixels_get_no_gradient_and_all_ignored_is_zero_of_zero(example, smoothing):
    logits, labels = example
    loss = functools.partial(cross_entropy, class_weights=np.ones(4), label_smoothing=smoothing)
    gradient, count = jax.grad(loss, has_aux=True)(logits, labels)
    assert float(count) == (labels != IGNORED).sum()
    np.testing.assert_array_equal(np.abs(gradient).max(-1) > 0, labels != IGNORED)
    nothing = np.full_like(labels, IGNORED)
    assert [float(value) for value in loss(logits, nothing)] == [0, 0]
    gradient, _ = jax.grad(loss, has_aux=True)(logits, nothing)
    np.testing.assert_array_equal(gradient, 0)


def test_gradient_is_probability_minus_target(example):
    logits, labels = example
    labels = np.where(labels == IGNORED, 2, labels)
    gradient = jax.grad(lambda x: cross_entropy(x, labels)[0])(logits)
    np.testing.assert_allclose(
        gradient, np.asarray(jax.nn.softmax(logits)) - np.eye(4)[labels], atol=1e-5
    )


@pytest.mark.parametrize("weights", [None, np.array([0.5, 1, 2, 4], np.float32)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_hot_probabilities_are_integers(example, smoothing, weights):
    """All zero where ignored: nothing is counted there, and no gradient comes from it."""
    logits, labels = example
    one_hot = np.asarray(labels[..., None] == np.arange(4), np.float32)
    loss = functools.partial(cross_entropy, class_weights=weights, label_smoothing=smoothing)
    (total, gradient), (expected, its_gradient) = (
        jax.value_and_grad(loss, has_aux=True)(logits, given) for given in (one_hot, labels)
    )
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, its_gradient, atol=1e-5)
    assert hits(logits, one_hot) == hits(logits, labels)


def test_blended_labels_by_hand():
    """Half and half of classes 0 and 1: each part's loss by its share, and of the weights 2 and 4
    their mean."""
    logits, labels = jnp.log(jnp.array([[0.5, 0.25, 0.25]])), jnp.array([[0.5, 0.5, 0.0]])
    total, count = cross_entropy(logits, labels, class_weights=np.array([2.0, 4.0, 9.0]))
    assert float(total) == pytest.approx(3 * (0.5 * math.log(2) + 0.5 * math.log(4)), rel=1e-5)
    assert float(count) == 3


def test_hits_by_hand():
    """Right, wrong, ignored; of blended labels the greater share is what is right."""
    logits = jnp.array([[3.0, 1.0], [3.0, 1.0], [0.0, 1.0]])
    assert [float(value) for value in hits(logits, jnp.array([0, 1, IGNORED]))] == [1, 2]
    labels = jnp.array([[0.6, 0.4], [0.4, 0.6], [0.0, 0.0]])
    assert [float(value) for value in hits(logits, labels)] == [1, 2]


def test_extreme_and_bfloat16_logits_stay_finite():
    logits = jnp.array([[1e4, -1e4], [-1e4, 1e4]], jnp.bfloat16)
    total, count = cross_entropy(logits, jnp.array([0, 0]))
    assert total.dtype == count.dtype == jnp.float32
    assert float(total) == pytest.approx(2e4, rel=0.01)


def test_inverse_weights_are_scikit_learns_balanced():
    counts = np.array([10, 1, 289, 100])
    labels = np.repeat(np.arange(4), counts)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    np.testing.assert_allclose(class_weights(counts, "inverse"), expected, rtol=1e-6)


def test_median_weights_by_hand():
    """Median of 2, 4, 10 is 4; the class without pixels is left out of it and weighs nothing."""
    weights = class_weights(np.array([2, 0, 4, 10]), "median")
    np.testing.assert_allclose(weights, [2, 0, 1, 0.4])
    assert weights.dtype == np.float32


def test_an_absent_class_weighs_nothing_in_inverse_weights():
    np.testing.assert_allclose(
        class_weights(np.array([30, 0, 10]), "inverse"), [40 / 90, 0, 40 / 30], rtol=1e-6
    )


def test_no_weights_are_none_and_counts_may_be_large():
    assert class_weights(np.array([1, 2]), "none") is None
    np.testing.assert_allclose(
        class_weights(np.array([2**40, 2**41], np.int64), "inverse"), [1.5, 0.75]
    )


# Losses beside cross-entropy. Of each, the loss of one image in float64, from the pixels that are
# counted and in another form.

REGIONS = ("dice", "jaccard", "tversky", "lovasz_softmax")
WEIGHTS = np.array([0.5, 1, 2, 4], np.float32)


def near_by_numpy(labels, distance_px):
    """One distance transform a class."""
    near = np.zeros(labels.shape, bool)
    for k in set(np.unique(labels)) - {IGNORED}:
        others = (labels != k) & (labels != IGNORED)
        near |= (
            (labels == k)
            & (ndimage.distance_transform_cdt(~others, "chessboard") <= distance_px)
            & others.any()
        )
    return near


def lovasz_by_paper(truth, probability):
    """The published algorithm: differences of the Jaccard loss along sorted errors."""
    order = np.argsort(-np.abs(truth - probability), kind="stable")
    truth, errors = truth[order].astype(float), np.abs(truth - probability)[order]
    loss = 1 - (truth.sum() - truth.cumsum()) / (truth.sum() + (1 - truth).cumsum())
    return np.dot(errors, np.diff(loss, prepend=0))


def by_numpy(name, logits, labels, weights):
    """The loss of one image, [height, width, classes]."""
    kept = labels != IGNORED
    probabilities, truth = special.softmax(logits.astype(np.float64), -1)[kept], labels[kept]
    of_pixel = weights[truth].astype(float)
    right = probabilities[np.arange(len(truth)), truth]
    if name == "cross_entropy":
        return np.average(-np.log(right), weights=of_pixel)
    if name == "focal":
        return np.average(-np.log(right) * (1 - right) ** 2, weights=of_pixel)
    if name == "boundary":
        return np.average(
            -np.log(right), weights=of_pixel * np.where(near_by_numpy(labels, 3)[kept], 5, 1)
        )
    values, shares = [], []
    for k in np.unique(truth):
        p, t = probabilities[:, k], truth == k
        both, only_p, only_t = (p * t).sum(), p.sum() - (p * t).sum(), t.sum() - (p * t).sum()
        values.append(
            {
                "dice": 1 - 2 * both / (p.sum() + t.sum()),
                "jaccard": 1 - both / (p.sum() + t.sum() - both),
                "tversky": 1 - both / (both + 0.3 * only_p + 0.7 * only_t),
                "lovasz_softmax": lovasz_by_paper(t, p),
            }[name]
        )
        shares.append(weights[k])
    return np.average(values, weights=shares)


def sum_by_numpy(name, logits, labels, weights):
    """Over images: each enters as often as it has counted pixels, or with their weights."""
    counts = [weights[truth[truth != IGNORED]].sum(dtype=float) for truth in labels]
    return sum(
        n * by_numpy(name, x, truth, weights)
        for n, x, truth in zip(counts, logits, labels, strict=True)
    ), sum(counts)


@pytest.fixture(scope="module")
def scenes():
    """Logits [2, 9, 16, 4], labels in patches with some ignored; the first image lacks class 3,
    which is predicted all the same."""
    rng = np.random.default_rng(1)
    labels = rng.choice(4, (2, 3, 4)).repeat(3, 1).repeat(4, 2).astype(np.int32)
    labels[0][labels[0] == 3] = 1
    labels[rng.random(labels.shape) < 0.15] = IGNORED
    return rng.normal(0, 2, (*labels.shape, 4)).astype(np.float32), labels


@functools.cache
def compiled(name, weighted=False):
    """(logits, labels) -> ((sum, count), gradient)."""
    return jax.jit(
        jax.value_and_grad(
            functools.partial(LOSSES[name], class_weights=WEIGHTS if weighted else None),
            has_aux=True,
        )
    )


def value(name, logits, labels, **options):
    """(sum, count), computed as one program, which compiles faster than many."""
    return jax.jit(functools.partial(LOSSES[name], **options))(logits, labels)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_slopes_are_numpys(scenes, name, weighted):
    """Slopes against differences of the values in float64, at a few logits."""
    logits, labels = scenes
    weights = WEIGHTS if weighted else np.ones(4)
    (total, count), gradient = compiled(name, weighted)(logits, labels)
    assert total.dtype == count.dtype == gradient.dtype == jnp.float32
    np.testing.assert_allclose(
        [total, count], sum_by_numpy(name, logits, labels, weights), rtol=2e-5
    )
    for place in [(0, 1, 2, 0), (0, 4, 4, 3), (1, 5, 9, 1), (1, 8, 13, 2), (1, 0, 0, 3)]:
        step = np.zeros(logits.shape)
        step[place] = 1e-5
        high, low = (
            sum_by_numpy(name, logits.astype(float) + sign * step, labels, weights)[0]
            for sign in (1, -1)
        )
        assert gradient[place] == pytest.approx((high - low) / 2e-5, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_have_no_effect_and_no_slope(scenes, name):
    logits, labels = scenes
    changed = np.where((labels == IGNORED)[..., None], 7 - 3 * logits, logits)
    (total, count), gradient = compiled(name)(logits, labels)
    (other, _), _ = compiled(name)(changed, labels)
    assert float(total) == pytest.approx(float(other), rel=1e-6)
    assert float(count) == (labels != IGNORED).sum()
    np.testing.assert_array_equal(np.abs(gradient).max(-1) > 0, labels != IGNORED)


@pytest.mark.parametrize("name", LOSSES)
def test_sums_over_parts_are_those_of_the_whole(scenes, name):
    """One image at a time, without an axis of images, and mapped over them as evaluation does."""
    logits, labels = scenes
    loss = functools.partial(LOSSES[name], class_weights=WEIGHTS)
    parts = jax.jit(jax.vmap(loss))(logits, labels)
    (total, count), _ = compiled(name, True)(logits, labels)
    np.testing.assert_allclose([x.sum() for x in parts], [total, count], rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_counted_and_certainty_are_finite(scenes, name):
    """All ignored: zero of zero. Logits of a thousand, right everywhere: no loss. Wrong everywhere:
    a loss. Slopes are numbers."""
    logits, labels = scenes
    (total, count), gradient = compiled(name)(logits, np.full_like(labels, IGNORED))
    assert float(total) == float(count) == np.abs(gradient).max() == 0
    target = labels[..., None] == np.arange(4)
    for sign, worst in ((1, 0), (-1, 1)):
        (total, count), gradient = compiled(name)(
            np.where(target, 1e3 * sign, -1e3 * sign).astype(np.float32), labels
        )
        assert np.isfinite(gradient).all()
        mean = float(total) / float(count)
        assert mean == 0 if worst == 0 else mean >= 0.99


@pytest.mark.parametrize("name", ["focal", "dice", "boundary"])
def test_bfloat16_logits_are_computed_in_float32(scenes, name):
    logits, labels = jnp.asarray(scenes[0], jnp.bfloat16), scenes[1]
    values = value(name, logits, labels)
    assert {x.dtype for x in values} == {jnp.dtype("float32")}
    np.testing.assert_allclose(
        values, compiled(name)(logits.astype(jnp.float32), labels)[0], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "expected"), [("dice", 0.5), ("jaccard", 2 / 3), ("tversky", 0.5)]
)
def test_overlap_by_hand(name, expected):
    """Two pixels, one of each class, both undecided: TP, FP and FN of each class are 1/2."""
    total, count = value(name, np.zeros((1, 2, 2)), np.array([[0, 1]]))
    assert float(total) / float(count) == pytest.approx(expected)
    assert float(count) == 2


def test_lovasz_by_hand():
    """Class 0 alone is present, of two pixels, with errors 0.8 and 0.4: 0.8 (1 - 1/2) + 0.4 (1 - 0
    - 1/2) = 0.6."""
    probabilities = np.array([[[0.2, 0.8], [0.6, 0.4]]])
    total, count = value("lovasz_softmax", np.log(probabilities), np.array([[0, 0]]))
    assert float(total) / float(count) == pytest.approx(0.6, rel=1e-5)


@pytest.mark.parametrize("name", ["dice", "jaccard", "lovasz_softmax"])
def test_of_certain_predictions_is_scikit_learns(scenes, name):
    """1 - F1 or 1 - IoU, the mean over the classes present in an image's truth."""
    logits, labels = scenes
    guess = np.where(
        np.random.default_rng(2).random(labels.shape) < 0.7, labels % IGNORED, logits.argmax(-1)
    )
    (total, _), _ = compiled(name)(
        np.where(guess[..., None] == np.arange(4), 100, 0).astype(np.float32), labels
    )
    score = f1_score if name == "dice" else jaccard_score
    expected = 0
    for truth, prediction in zip(labels, guess, strict=True):
        kept = truth != IGNORED
        values = score(truth[kept], prediction[kept], labels=np.unique(truth[kept]), average=None)
        expected += kept.sum() * (1 - values.mean())
    assert float(total) == pytest.approx(expected, rel=1e-5)


def test_lovasz_of_a_large_image_is_the_papers_in_float64():
    """600 x 500 pixels, beyond those whose sorted numbers keep all their bits."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, IGNORED], (1, 600, 500), p=[0.7, 0.2, 0.1]).astype(np.int32)
    logits = rng.normal(0, 2, (1, 600, 500, 2)).astype(np.float32)
    (total, count), gradient = compiled("lovasz_softmax")(logits, labels)
    expected, _ = sum_by_numpy("lovasz_softmax", logits, labels, np.ones(2))
    assert float(total) == pytest.approx(expected, rel=1e-5)
    # Errors' slopes are those of the Jaccard loss, so the mean's gradient follows from the order
    # alone.
    kept, p = labels != IGNORED, special.softmax(logits.astype(np.float64), -1)
    slope = np.zeros(labels.shape)
    for k in (0, 1):
        truth = labels[kept] == k
        errors = np.abs(truth - p[kept][:, k])
        order = np.argsort(-errors)
        sorted_truth = truth[order].astype(float)
        loss = 1 - (truth.sum() - sorted_truth.cumsum()) / (
            truth.sum() + (1 - sorted_truth).cumsum()
        )
        of_pixel = np.empty(len(order))
        of_pixel[order] = np.diff(loss, prepend=0)
        slope[kept] += (
            np.where(truth, -1, 1) * of_pixel * (1 if k else -1) / 2
        )  # by the probability of class 1
    np.testing.assert_allclose(gradient[..., 1] / count, slope * p[..., 0] * p[..., 1], atol=2e-9)


def test_focal_by_hand():
    """Probability 1/4 of the truth, gamma 2: (3/4)^2 log 4. The weight of its class multiplies loss
    and count."""
    logits = np.log([[0.25, 0.75], [0.5, 0.5]])
    total, count = value(
        "focal", logits, np.array([0, IGNORED]), class_weights=np.array([3.0, 1.0])
    )
    assert float(total) == pytest.approx(3 * 0.75**2 * math.log(4), rel=1e-5)
    assert float(count) == 3


def test_focal_of_gamma_zero_is_cross_entropy(example):
    """Of indices and of probabilities."""
    logits, labels = example
    for given in (labels, np.asarray(labels[..., None] == np.arange(4), np.float32)):
        options = {"label_smoothing": 0.2, "class_weights": WEIGHTS}
        got, expected = (
            value("focal", logits, given, gamma=0.0, **options),
            value("cross_entropy", logits, given, **options),
        )
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_focal_of_a_spread_target_by_hand():
    """Half and half of probabilities 1/2 and 1/8: cross-entropy log 4, so p is 1/4."""
    total, _ = value("focal", np.log([[0.5, 0.125, 0.375]]), np.array([[0.5, 0.5, 0.0]]), gamma=3.0)
    assert float(total) == pytest.approx(0.75**3 * math.log(4), rel=1e-5)


def test_focal_of_a_root_has_a_slope_at_certainty():
    gradient = jax.jit(jax.grad(lambda x: focal(x, jnp.array([0]), gamma=0.5)[0]))(
        np.array([[100.0, -100.0]])
    )
    np.testing.assert_array_equal(gradient, 0)


def test_boundary_by_hand():
    """A row of classes 0 0 0 0 1: the last two are within a pixel of the other class, so weights
    are 1 1 1 3 3, of mean 9/5."""
    p = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    logits = np.log([[[q, 1 - q] for q in p]])
    total, count = value("boundary", logits, np.array([[0, 0, 0, 0, 1]]), distance_px=1, weight=3.0)
    assert float(total) == pytest.approx(-np.dot(np.log(p), [1, 1, 1, 3, 3]) / (9 / 5), rel=1e-5)
    assert float(count) == 5


def test_boundary_without_a_border_or_an_extra_weight_is_cross_entropy(scenes):
    logits, labels = scenes
    one_class = np.where(labels == IGNORED, IGNORED, 2)
    for labels_, weight in ((one_class, 5.0), (labels, 1.0)):
        options = {"label_smoothing": 0.1, "class_weights": WEIGHTS}
        got, expected = (
            value("boundary", logits, labels_, weight=weight, **options),
            value("cross_entropy", logits, labels_, **options),
        )
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("distance_px", [1, 5])
def test_pixels_near_another_class_are_those_of_a_distance_transform(scenes, distance_px):
    got = jax.jit(losses.near_another_class, static_argnums=1)(scenes[1], distance_px)
    for near, labels in zip(got, scenes[1], strict=True):
        np.testing.assert_array_equal(near, near_by_numpy(labels, distance_px))


# One logit.


@pytest.fixture(scope="module")
def foreground(scenes):
    """Logits [2, 9, 16, 1] and labels 0, 1 and ignored."""
    return scenes[0][..., :1], np.where(scenes[1] == IGNORED, IGNORED, scenes[1] % 2)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "boundary"])
def test_one_logit_is_two_in_losses_of_pixels(foreground, name):
    logits, labels = foreground
    two = np.concatenate([np.zeros_like(logits), logits], -1)
    loss = functools.partial(LOSSES[name], class_weights=np.array([1, 3.0]), label_smoothing=0.1)
    (got, gradient), (expected, of_two) = (
        jax.jit(jax.value_and_grad(loss, has_aux=True))(x, labels) for x in (logits, two)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, of_two[..., 1:], rtol=1e-6)
    if name == "cross_entropy":
        kept = labels != IGNORED
        binary = optax.sigmoid_binary_cross_entropy(logits[kept][:, 0], labels[kept])
        np.testing.assert_allclose(value(name, logits, labels)[0], binary.sum(), rtol=1e-5)
        assert [float(x) for x in hits(logits, labels)] == [
            ((logits[..., 0] > 0) == labels).sum(),
            kept.sum(),
        ]


@pytest.mark.parametrize("name", REGIONS)
def test_of_one_logit_regions_look_at_the_foreground_alone(foreground, name):
    """As two logits with no weight on the background; the count is that of all pixels, each by its
    class."""
    logits, labels = foreground
    two = np.concatenate([np.zeros_like(logits), logits], -1)
    expected, _ = sum_by_numpy(name, two, labels, np.array([1e-12, 1]))
    share = sum(
        by_numpy(name, x, t, np.array([1e-12, 1])) * (t != IGNORED).sum()
        for x, t in zip(two, labels, strict=True)
    )
    (total, count), gradient = compiled(name)(logits, labels)
    np.testing.assert_allclose([total, count], [share, (labels != IGNORED).sum()], rtol=1e-5)
    np.testing.assert_array_equal(gradient[labels == IGNORED], 0)
    if name == "dice":
        weighted, count = value(name, logits, labels, class_weights=np.array([0.0, 2.0]))
        np.testing.assert_allclose(
            [weighted, count], [2 * expected, 2 * (labels == 1).sum()], rtol=1e-5
        )


@pytest.mark.parametrize("name", REGIONS)
def test_without_foreground_the_loss_is_its_mean_probability(foreground, name):
    logits, labels = foreground
    labels = np.where(labels == 1, 0, labels)
    kept = labels != IGNORED
    (total, count), gradient = compiled(name)(logits, labels)
    p = special.expit(logits[..., 0])
    np.testing.assert_allclose([total, count], [p[kept].sum(), kept.sum()], rtol=1e-5)
    np.testing.assert_allclose(gradient[..., 0], p * (1 - p) * kept, rtol=1e-4, atol=1e-7)
    (total, _), gradient = compiled(name)(np.full_like(logits, -1e3), labels)
    assert float(total) == np.abs(gradient).max() == 0
    (total, count), gradient = compiled(name)(logits, np.full_like(labels, IGNORED))
    assert float(total) == float(count) == np.abs(gradient).max() == 0


# Weighted sums.


def test_names_are_those_that_a_configuration_may_give():
    assert tuple(LOSSES) == (
        "cross_entropy",
        "focal",
        "dice",
        "jaccard",
        "tversky",
        "lovasz_softmax",
        "boundary",
    )
    assert set(LOSSES) == set(schema.LOSSES)


def test_a_sum_of_losses_adds_weighted_sums_and_keeps_the_count(scenes):
    config = LossConfig(name="cross_entropy", further=("dice", "boundary"), weights=(0.5, 2.0, 0.0))
    total, count = jax.jit(losses.of(config, WEIGHTS))(*scenes)
    (first, expected_count), (second, _) = (
        compiled(name, True)(*scenes)[0] for name in ("cross_entropy", "dice")
    )
    np.testing.assert_allclose(
        [total, count], [0.5 * first + 2 * second, expected_count], rtol=1e-5
    )
    total, _ = jax.jit(losses.of(LossConfig(name="dice", further=("cross_entropy",)), WEIGHTS))(
        *scenes
    )
    assert float(total) == pytest.approx(float(first + second), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "fields", "options"),
    [
        ("cross_entropy", {"label_smoothing": 0.3}, {"label_smoothing": 0.3}),
        (
            "focal",
            {"label_smoothing": 0.3, "focal_gamma": 1.5},
            {"label_smoothing": 0.3, "gamma": 1.5},
        ),
        ("tversky", {"tversky_alpha": 0.9, "tversky_beta": 0.2}, {"alpha": 0.9, "beta": 0.2}),
        (
            "boundary",
            {"label_smoothing": 0.3, "boundary_px": 1, "boundary_weight": 9.0},
            {"label_smoothing": 0.3, "distance_px": 1, "weight": 9.0},
        ),
    ],
)
def test_options_of_a_configuration_reach_the_loss(monkeypatch, name, fields, options):
    given = {}
    monkeypatch.setitem(
        LOSSES, name, lambda logits, labels, **options: (given.update(options) or 0.0, 1.0)
    )
    losses.of(LossConfig(name=name, **fields), WEIGHTS)(None, None)
    assert given.pop("class_weights") is WEIGHTS
    assert given == options
    assert set(options) < set(inspect.signature(getattr(losses, name)).parameters)


@pytest.mark.parametrize("name", LOSSES)
def test_smoothing_that_changes_nothing_is_told(scenes, capsys, name):
    logits, labels = scenes
    plain, smoothed = (LossConfig(name=name, label_smoothing=share) for share in (0.0, 0.2))
    same = losses.of(plain)(logits, labels)[0] == losses.of(smoothed)(logits, labels)[0]
    losses.tell_of_smoothing(smoothed)
    assert ("changes nothing" in capsys.readouterr().out) == bool(same)
    losses.tell_of_smoothing(plain)
    losses.tell_of_smoothing(LossConfig(name=name, label_smoothing=0.2, further=("focal",)))
    losses.tell_of_smoothing(schema.DetectionLossConfig())
    assert capsys.readouterr().out == ""


def test_cross_entropy_alone_is_itself_to_the_bit(scenes):
    configured = jax.jit(jax.value_and_grad(losses.of(LossConfig(), WEIGHTS), has_aux=True))(
        *scenes
    )
    for got, expected in zip(
        jax.tree.leaves(configured),
        jax.tree.leaves(compiled("cross_entropy", True)(*scenes)),
        strict=True,
    ):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("one", [False, True], ids=["classes", "one logit"])
@pytest.mark.parametrize("name", LOSSES)
def test_labels_that_are_no_classes_are_refused(name, one):
    """Values where they are known, shapes and types also while a program is traced."""
    loss, classes = LOSSES[name], 2 if one else 3
    logits = jnp.zeros((2, 4, 4, 1 if one else 3))
    good = np.random.default_rng(0).choice([*range(classes), IGNORED], (2, 4, 4))
    for dtype in (np.uint8, np.int16, np.int32):
        loss(logits, good.astype(dtype))
    for value in (-1, classes, 17, 254, 256, 1000):
        bad = good.astype(np.int32)
        bad[1, 2, 3] = value
        with pytest.raises(ValueError, match=rf"labels have {value}, which is neither a class"):
            loss(logits, bad)
    soft = np.eye(classes, dtype=np.float32)[np.where(good == IGNORED, 0, good)]
    spread = name in ("cross_entropy", "focal")
    wrong = {
        "whole numbers as floating-point ones": good.astype(np.float32),
        "an axis too many": good[..., None],
        "an axis too few": good[0],
        "another size": good[:, :3],
        "whole numbers of every class": soft.astype(np.int32),
        **({} if spread else {"probabilities": soft}),
    }
    for bad in wrong.values():
        for call in (loss, jax.jit(loss)):
            with pytest.raises(ValueError, match=r"labels are .* of shape"):
                call(logits, bad)
    if spread:
        loss(logits, soft)
        loss(logits, np.zeros_like(soft))
        for bad in (soft * 2, soft - 0.5, soft * np.nan):
            with pytest.raises(ValueError, match="labels have probabilities"):
                loss(logits, bad)


def test_whole_numbers_cannot_stand_for_more_classes_than_255():
    with pytest.raises(ValueError, match="1000 classes can't be whole numbers"):
        cross_entropy(jnp.zeros((2, 1000)), jnp.zeros(2, jnp.int32))
    cross_entropy(jnp.zeros((2, 1000)), jax.nn.one_hot(jnp.array([255, 999]), 1000))
