"""Classification as a task: what images become before a model sees them, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_jax.configuration.schema import (
    ClassificationConfig,
    ImageAugmentationConfig,
    ImageDataConfig,
)
from cnn_jax.errors import InputError
from cnn_jax.tasks import classification, model_config
from cnn_jax.tasks.classification import Classification, augment_images, mixup

KEYS = jax.random.split(jax.random.key(3), 24)

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Images:
    """So many images of noise with labels in turn, as a split of a set has them."""

    def __init__(self, count, shape, classes):
        rng = np.random.default_rng(count)
        self._images, self.labels = (
            rng.integers(0, 256, (count, *shape), np.uint8),
            np.arange(count, dtype=np.int32) % classes,
        )

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        return self._images[index], int(self.labels[index])

    def arrays(self, indices=None):
        indices = np.arange(len(self)) if indices is None else np.asarray(indices, int)
        return self._images[indices], self.labels[indices]


class Set:
    """A set of labelled images in memory."""

    def __init__(self, shape=(28, 28, 1), classes=3, counts=(9, 4, 5)):
        self.classes, self.channels, self.image_px = (
            tuple("abcdefghij"[:classes]),
            shape[2],
            shape[:2],
        )
        self.splits = {
            name: Images(count, shape, classes)
            for name, count in zip(("train", "validation", "test"), counts, strict=True)
        }
        self.fingerprint, self.dtype, self.greatest = "0" * 32, "uint8", 255.0
        self.notes = ()


def images(height, width, channels, count=24):
    return np.random.default_rng(0).integers(
        1, 256, (count, height, width, channels), np.uint8
    )  # nowhere black


def moved(image, down, right):
    """With zeros coming in, by slices."""
    height, width, _ = image.shape
    result = np.zeros_like(image)
    result[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = image[
        max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return result


def augmented(keys, given, **options):
    """`augment_images`, compiled: each of its operations by itself would be compiled, too."""
    config = ImageAugmentationConfig(**options)
    return np.asarray(jax.jit(lambda keys, given: augment_images(keys, given, config))(keys, given))


@pytest.mark.parametrize("channels", [1, 3])
def test_without_augmentation_images_are_only_scaled(channels):
    given = images(5, 7, channels)
    got = augment_images(KEYS, jnp.asarray(given), ImageAugmentationConfig())
    np.testing.assert_allclose(got, given.astype(np.float32) / 255, rtol=2e-7)


@pytest.mark.parametrize("size", [(6, 6), (5, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_shift_moves_the_whole_image_and_zeros_come_in(size, channels):
    given = images(*size, channels)
    got = augmented(KEYS, given, shift_px=2)
    shifts = set()
    for image, result in zip(given, got, strict=True):
        matches = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if np.array_equal(
                moved(image, down, right).astype(np.float32) * np.float32(1 / 255), result
            )
        ]
        assert len(matches) == 1
        shifts.update(matches)
    assert len(shifts) > 8  # of 25; all directions
    assert (
        {np.sign(down) for down, _ in shifts}
        == {np.sign(right) for _, right in shifts}
        == {-1, 0, 1}
    )


def test_flips_mirror_and_leave_nothing_out():
    given = images(6, 5, 3)
    got = augmented(KEYS, given, flip_horizontal_probability=0.5)
    scaled = given.astype(np.float32) * np.float32(1 / 255)
    mirrored = [
        bool(np.array_equal(result, image[:, ::-1]))
        for image, result in zip(scaled, got, strict=True)
    ]
    same = [bool(np.array_equal(result, image)) for image, result in zip(scaled, got, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 4 < sum(mirrored) < 20


def test_an_examples_augmentation_follows_its_key_alone():
    given, options = (
        images(6, 6, 1),
        {
            "shift_px": 2,
            "rotation_probability": 1.0,
            "brightness_probability": 1.0,
        },
    )
    whole = augmented(KEYS, given, **options)
    part = augmented(KEYS[5:9], given[5:9], **options)
    np.testing.assert_array_equal(whole[5:9], part)


def test_mixup_blends_pairs_and_their_labels_alike():
    x = jax.random.uniform(jax.random.key(1), (24, 3, 3, 1))
    labels = jax.nn.one_hot(jnp.arange(24) % 5, 5)
    blend = jax.jit(lambda keys: mixup(keys, x, labels, 0.4))
    blended, targets = blend(KEYS)
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    share = np.array(
        [float(t[i % 5]) if i % 5 != (23 - i) % 5 else np.nan for i, t in enumerate(targets)]
    )
    known = ~np.isnan(share)
    assert known.sum() > 10
    expected = share[:, None, None, None] * x + (1 - share[:, None, None, None]) * x[::-1]
    np.testing.assert_allclose(blended[known], expected[known], atol=1e-6)
    assert share[known].min() < 0.2
    assert share[known].max() > 0.8  # Beta(0.4, 0.4) lies at both ends
    again, _ = blend(KEYS)
    np.testing.assert_array_equal(blended, again)


def config(model="mlp", **sections):
    return ClassificationConfig(
        model=model_config(model), data=ImageDataConfig(source="mnist"), **sections
    )


def _with(section, **changes):
    given = config()
    for name, value in changes.items():
        setattr(getattr(given, section), name, value)
    return given


@pytest.mark.parametrize(
    ("given", "data", "sentence"),
    [
        (
            config("inception_v3"),
            Set(),
            "inception_v3 takes images of at least 75x75 px, and those of mnist are 28x28",
        ),
        (
            config("inception_v3"),
            Set(),
            "--data.image_px 75 75, or choose --model.stem small.",
        ),
        (
            _with("data", mean=(0.1, 0.2, 0.3)),
            Set(),
            "data.mean has 3 values, but the images of mnist have 1 channels",
        ),
        (
            _with("data", std=(0.1, 0.2)),
            Set((8, 8, 3)),
            "data.std has 2 values, but the images of mnist have 3 channels",
        ),
        (
            _with("augmentation", hue_probability=0.5),
            Set(),
            "augmentation.saturation_probability and augmentation.hue_probability need red, green"
            " and blue, and mnist is grey: set both to 0.",
        ),
        (
            _with("augmentation", quarter_turn_probability=0.5),
            Set((8, 9, 1)),
            "needs square images, not 8x9 px: set it to 0.",
        ),
        (
            _with("augmentation", brightness_delta=-1.0),
            Set(),
            "augmentation.brightness_delta is -1.0",
        ),
        (
            _with("evaluation", shifts_px=(2, 28)),
            Set(),
            "evaluation.shifts_px is (2, 28); images are only 28x28 px.",
        ),
        (
            _with("evaluation", weights="best"),
            Set(counts=(9, 0, 5)),
            "evaluation.weights is 'best', but there is no validation",
        ),
        (
            _with("training", patience=2),
            Set(counts=(9, 0, 5)),
            "training.patience is not 0, but there is no validation",
        ),
        (config(), Set(counts=(0, 4, 5)), "no images of mnist are left to train on"),
    ],
)
def test_what_does_not_fit_the_images_is_refused_in_a_sentence(given, data, sentence, monkeypatch):
    monkeypatch.setattr(classification, "open_images", lambda _: data)
    with pytest.raises(InputError) as caught:
        Classification().learner(given, Classification().dataset(given).info)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")


def test_class_weights_come_from_the_training_labels(monkeypatch):
    given = config()
    given.loss.class_weights = "inverse"
    data = Set(counts=(10, 4, 5))  # labels 0 1 2 in turn: 4, 3, 3
    logits, labels = jnp.zeros((1, 3)), jnp.eye(3)
    monkeypatch.setattr(classification, "open_images", lambda _: data)
    loss = Classification().learner(given, Classification().dataset(given).info).loss
    np.testing.assert_allclose(
        [loss(logits, labels[i : i + 1])[1] for i in range(3)], [10 / 12, 10 / 9, 10 / 9], rtol=1e-6
    )


def test_a_class_without_a_training_image_is_told(tmp_path, capsys):
    """Whichever images are held out: told by the names of those that are left."""
    for first, name, count in ((0, "gato", 6), (6, "perro", 1), (7, "zorro", 1)):
        (tmp_path / name).mkdir()
        for number in range(count):
            pixels = np.full((4, 4), first + number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    told = set()
    for seed in range(12):
        shares = {"test_share": 0.25, "validation_share": 0.25, "split_seed": seed}
        data = ImageDataConfig(source="folders", directory=str(tmp_path), **shares)
        config = ClassificationConfig(model=model_config("mlp"), data=data)
        train = Classification().dataset(config).images["train"]
        left = {train.name(index).split("/")[0] for index in range(len(train))}
        absent = sorted({"gato", "perro", "zorro"} - left)
        said = capsys.readouterr().out
        assert (
            said.startswith(f"note: no training image is of {', '.join(absent)}, ")
            if absent
            else not said
        )
        told.add(len(absent))
    assert told == {0, 1, 2}
