"""Splits, sizes, channels and memory of labelled images; batches made of them. On folders, which
need nothing installed."""

import threading

import numpy as np
import pytest
from PIL import Image

from cnn_jax.configuration.schema import ImageDataConfig
from cnn_jax.data import images as images_module
from cnn_jax.data import stored_images
from cnn_jax.data.images import ImageSource, LabelledImages, open_images
from cnn_jax.data.pipeline import read_ahead, training_batches
from cnn_jax.errors import InputError
from cnn_jax.tasks.classification import check_splits
from tests.data.fake_images import picture, write_folder


def open_set(directory, **options):
    return open_images(ImageDataConfig(source="folders", directory=str(directory), **options))


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory):
    """100 images of train and 10 of test in colour, 4x6: image i is picture(i), of class i % 2."""
    files = {f"train/{'ab'[i % 2]}/{i:03d}.png": picture(i, (4, 6, 3)) for i in range(100)}
    files |= {f"test/{'ab'[i % 2]}/{i:03d}.png": picture(i, (4, 6, 3)) for i in range(100, 110)}
    return write_folder(tmp_path_factory.mktemp("two_classes"), files)


def number(images, index):
    return int(images.name(index).split("/")[-1].removesuffix(".png"))


def numbers(images):
    return {number(images, index) for index in range(len(images))}


def test_splits_share_no_image_and_cover_the_set(two_classes):
    splits = open_set(two_classes).splits
    assert list(splits) == ["train", "validation", "test"]
    train, validation, test = (numbers(images) for images in splits.values())
    assert (len(train), len(validation)) == (90, 10)
    assert test == set(range(100, 110))
    assert train | validation == set(range(100))


def test_the_split_seed_alone_chooses_what_is_held_out(two_classes):
    held = [
        numbers(open_set(two_classes, split_seed=seed).splits["validation"]) for seed in (0, 0, 1)
    ]
    assert held[0] == held[1] != held[2]
    fewer = open_set(two_classes, train_examples=30)
    least = open_set(two_classes, train_examples=10)
    assert numbers(fewer.splits["validation"]) == held[0]
    assert len(fewer.splits["train"]) == 30
    assert (
        numbers(least.splits["train"]) < numbers(fewer.splits["train"]) < set(range(100)) - held[0]
    )
    other = [
        numbers(open_set(two_classes, split_seed=seed, train_examples=30).splits["train"])
        for seed in (0, 1)
    ]
    assert other[0] != other[1]


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """40 images of 10 patients, of one to seven images each, and a test of two more patients."""
    folder, rng = tmp_path_factory.mktemp("patients"), np.random.default_rng(3)
    owners = [*range(10), *rng.integers(0, 10, 30)]
    files = {
        f"train/{'ab'[i % 2]}/patient{owner}_{i:03d}.png": picture(i, (4, 6, 3))
        for i, owner in enumerate(owners)
    }
    files |= {
        f"test/{'ab'[i % 2]}/patient{i}_{i:03d}.png": picture(i, (4, 6, 3)) for i in (100, 101)
    }
    return write_folder(folder, files)


PATIENT = r"/patient(\d+)_"


def owners(images):
    return {images.name(i).split("/patient")[1].split("_")[0] for i in range(len(images))}


def apart(splits):
    """Whether no patient lies in two splits, and the patients of each."""
    held = {split: owners(images) for split, images in splits.items()}
    return sum(map(len, held.values())) == len(set.union(*held.values())), held


@pytest.mark.parametrize("seed", range(4))
def test_what_is_held_out_parts_no_group(patients, seed):
    splits = open_set(patients, group_pattern=PATIENT, validation_share=0.3, split_seed=seed).splits
    is_apart, held = apart(splits)
    assert is_apart
    assert held["test"] == {"100", "101"}
    assert len(splits["train"]) + len(splits["validation"]) == 40
    assert 12 <= len(splits["validation"]) <= 12 + 7
    alone = open_set(patients, validation_share=0.3, split_seed=seed).splits
    assert not apart(alone)[0]


@pytest.mark.parametrize("pattern", ["", PATIENT])
def test_folds_deal_all_images_and_test_each_once(patients, pattern):
    tested, before = [], None
    for fold in range(4):
        opened = open_set(patients, group_pattern=pattern, folds=4, fold=fold)
        splits = {
            split: [of.name(i) for i in range(len(of))] for split, of in opened.splits.items()
        }
        assert len({name for names in splits.values() for name in names}) == 42
        assert sum(map(len, splits.values())) == 42
        assert all(splits.values())
        if pattern:
            assert apart(opened.splits)[0]
        else:
            assert {len(splits[split]) for split in ("validation", "test")} <= {10, 11}
        if before is not None:
            assert splits["test"] == before
        before = splits["validation"]
        tested += splits["test"]
    assert len(set(tested)) == len(tested) == 42
    one, other = (
        open_set(patients, group_pattern=pattern, folds=4, split_seed=seed) for seed in (0, 1)
    )
    assert one.fingerprint != other.fingerprint
    for images in one.splits.values():  # pictures and labels are still those of the names
        pixels, labels = images.arrays()
        for i in range(len(images)):
            name = images.name(i)
            number = int(name[-7:-4])
            assert labels[i] == images[i][1] == number % 2
            np.testing.assert_array_equal(pixels[i], picture(number, (4, 6, 3)))
    np.testing.assert_array_equal(one.splits["train"].labels, one.splits["train"].arrays()[1])


def test_groups_that_cannot_be_kept_together_are_refused(tmp_path, patients):
    def refused(folder=patients, **options):
        with pytest.raises(InputError) as refusal:
            open_set(folder, **options)
        return str(refusal.value)

    assert "has 12 groups: ask for no more" in refused(group_pattern=PATIENT, folds=13)
    assert "has no group in its path" in refused(group_pattern=r"(client\d)")
    assert "data.group_pattern '/patient' has no group" in refused(group_pattern="/patient")
    one = {f"{label}/x1_{label}.png": picture(0, (4, 6, 3)) for label in "ab"}
    alone = write_folder(tmp_path / "one", one)
    assert "leaves none to train on" in refused(alone, group_pattern=r"x(\d)")
    twice = {f"{split}/{name}": image for split in ("train", "test") for name, image in one.items()}
    both = write_folder(tmp_path / "both", twice)
    assert "group '1' by data.group_pattern lies in train and in test" in refused(
        both, group_pattern=r"x(\d)"
    )


def test_a_share_of_test_is_held_out_where_none_is_published(tmp_path):
    write_folder(tmp_path, {f"{'ab'[i % 2]}/{i:03d}.png": picture(i, (4, 6, 3)) for i in range(50)})
    assert len(open_set(tmp_path, test_share=0.4).splits["test"]) == 20


def test_without_a_test_split_a_fifth_of_train_is(tmp_path):
    write_folder(tmp_path, {f"{'ab'[i % 2]}/{i:03d}.png": picture(i, (4, 6, 3)) for i in range(50)})
    splits = open_set(tmp_path).splits
    parts = [numbers(images) for images in splits.values()]
    assert [len(part) for part in parts] == [36, 4, 10]
    assert set.union(*parts) == set(range(50))
    assert numbers(open_set(tmp_path, validation_share=0.5).splits["test"]) == parts[2]


def test_shares_at_their_ends(two_classes):
    assert len(open_set(two_classes, validation_share=0.0).splits["validation"]) == 0
    assert len(open_set(two_classes, validation_share=0.001).splits["validation"]) == 1
    with pytest.raises(InputError, match=r"lower data\.validation_share"):
        open_set(two_classes, validation_share=1.0)
    with pytest.raises(InputError, match=r"data\.train_examples is 91, but folders has only 90"):
        open_set(two_classes, train_examples=91)


def test_what_an_element_is(two_classes):
    train = open_set(two_classes).splits["train"]
    for index in (0, 41, -1):
        image, label = train[index]
        shown = number(train, index)
        np.testing.assert_array_equal(image, picture(shown, (4, 6, 3)))
        assert (label, image.dtype) == (shown % 2, np.uint8)
    with pytest.raises(IndexError):
        train[90]
    all_images, all_labels = train.arrays()
    assert (all_images.shape, all_images.dtype, all_labels.dtype) == (
        (90, 4, 6, 3),
        np.uint8,
        np.int32,
    )
    np.testing.assert_array_equal(all_labels, train.labels)
    np.testing.assert_array_equal(all_images, np.stack([image for image, _ in train]))
    some, some_labels = train.arrays([7, 3, 7])
    np.testing.assert_array_equal(some, all_images[[7, 3, 7]])
    np.testing.assert_array_equal(some_labels, all_labels[[7, 3, 7]])


class Counted:
    """Examples that count how often each is read; example i is the byte i, its label i + 1."""

    mend = "replace it"

    def __init__(self, count):
        self.reads = np.zeros(count, int)

    def __len__(self):
        return len(self.reads)

    def read(self, indices):
        np.add.at(self.reads, list(indices), 1)
        return [(bytes([index]), index + 1) for index in indices]

    def labels(self, indices):
        return np.array([index + 1 for index in indices], np.int32)


def filled(data):
    return np.full((2, 3, 1), data[0], np.uint8)


def test_kept_images_are_decoded_once_and_the_others_each_time():
    examples = Counted(10)
    images = LabelledImages(examples, np.arange(10), filled, (2, 3, 1), 4)
    for _ in range(3):
        for index in range(10):
            assert (images[index][0] == index).all()
            assert images[index][1] == index + 1
    np.testing.assert_array_equal(examples.reads, [1] * 4 + [6] * 6)
    images.arrays()
    np.testing.assert_array_equal(examples.reads, [1] * 4 + [7] * 6)
    np.testing.assert_array_equal(images.labels, np.arange(10) + 1)
    with pytest.raises(ValueError, match="read-only"):
        images[0][0][0, 0, 0] = 9


def test_the_budget_is_shared_among_splits(two_classes):
    half = 55 * 4 * 6 * 3 / 2**30  # bytes of half of 110 images
    for budget, kept in ((0.0, [0, 0, 0]), (half, [45, 5, 5]), (1.0, [90, 10, 10])):
        splits = open_set(two_classes, memory_budget_gib=budget).splits
        assert [len(images._kept) for images in splits.values()] == kept
    halved, whole = (
        open_set(two_classes, memory_budget_gib=budget).splits["train"] for budget in (half, 1.0)
    )
    for _ in range(2):
        np.testing.assert_array_equal(halved.arrays()[0], whole.arrays()[0])


def test_threads_read_the_same():
    images = LabelledImages(Counted(200), np.arange(200), filled, (2, 3, 1), 100)
    wrong = []

    def read(seed):
        for index in np.random.default_rng(seed).permutation(200):
            image, label = images[index]
            if not (image == index).all() or label != index + 1:
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_batches_hold_each_image_once_an_epoch(two_classes):
    train = open_set(two_classes).splits["train"]
    batches = training_batches(ImageSource(train), seed=0, batch_size=30)
    epoch = [
        batch
        for _, batch in zip(range(3), read_ahead(batches, 0, lambda batch: batch, 2), strict=False)
    ]
    assert epoch[0]["image"].shape == (30, 4, 6, 3)
    assert (epoch[0]["image"].dtype, epoch[0]["label"].dtype, epoch[0]["label"].shape) == (
        np.uint8,
        np.int32,
        (30,),
    )
    seen = {
        (image.tobytes(), int(label))
        for batch in epoch
        for image, label in zip(batch["image"], batch["label"], strict=True)
    }
    assert seen == {(image.tobytes(), label) for image, label in train}


# ---- resizing


def test_without_resizing_sizes_must_agree(tmp_path):
    files = {f"train/{'ab'[i % 2]}/{i}.png": picture(i, (4, 6, 3)) for i in range(6)}
    write_folder(tmp_path, files | {"train/a/odd.png": picture(9, (5, 6, 3))})
    with pytest.raises(InputError, match=r"images of folders differ in size: .* data\.image_px"):
        open_set(tmp_path)
    assert open_set(tmp_path, image_px=(8, 8)).splits["train"].arrays()[0].shape[1:] == (8, 8, 3)
    with pytest.raises(InputError, match=r"data\.image_px is \(0, 8\)"):
        open_set(tmp_path, image_px=(0, 8))
    with pytest.raises(InputError, match=r"data\.crop_share is 0\.0"):
        open_set(tmp_path, image_px=(8, 8), crop_share=0.0)


def test_an_odd_size_that_no_header_told_is_named(tmp_path, monkeypatch):
    from cnn_jax.data import image_folders

    monkeypatch.setattr(image_folders, "HEADERS_READ", 2)
    files = {f"train/{'ab'[i // 3]}/{i}.png": picture(i, (4, 6, 3)) for i in range(6)}
    write_folder(tmp_path, {**files, "train/a/2.png": picture(2, (5, 6, 3))})
    with pytest.raises(
        InputError, match=r"train/a/2\.png is 5 x 6 px where others are 4 x 6 px: .* data\.image_px"
    ):
        open_set(tmp_path, validation_share=0.0).splits["train"].arrays()


def resized(tmp_path, array, **options):
    """An image as it comes out of a set."""
    write_folder(
        tmp_path, {f"train/{name}/0.png": array for name in "ab"} | {"test/a/0.png": array}
    )
    return open_set(tmp_path, validation_share=0.0, **options).splits["test"][0][0]


def test_resizing_by_whole_numbers_keeps_areas_apart(tmp_path):
    # Blocks of 8x8 px, each of one colour: in the middle of a new pixel's area nothing of its
    # neighbours is left but a little.
    blocks = np.kron(picture(0, (6, 6, 1)).squeeze() // 2, np.ones((64, 64), np.uint8))[
        ..., None
    ].repeat(3, -1)
    small = resized(tmp_path, blocks, image_px=(48, 48))
    np.testing.assert_array_equal(small[4::8, 4::8], blocks[32::64, 32::64])


def test_resizing_averages_what_it_leaves_out(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resized(tmp_path, stripes, image_px=(8, 8))
    assert (
        np.abs(small.astype(int) - 127.5).max() < 10
    )  # taking every eighth pixel would give 0 or 255


@pytest.mark.parametrize(
    ("size", "image_px", "crop_share", "window"),
    [
        ((60, 40), (20, 20), 1.0, (10, 0, 40, 40)),  # the shorter side is the width
        ((40, 60), (20, 20), 0.5, (10, 20, 20, 20)),
        ((40, 60), (10, 30), 1.0, (10, 0, 20, 60)),
        ((30, 30), (30, 30), 1.0, (0, 0, 30, 30)),
    ],
)
def test_the_crop_is_central(tmp_path, size, image_px, crop_share, window):
    rows, columns = np.mgrid[: size[0], : size[1]]
    array = np.stack([4 * rows, 4 * columns, 0 * rows], -1).astype(
        np.uint8
    )  # red tells the row, green the column
    result = resized(tmp_path, array, image_px=image_px, crop_share=crop_share)
    assert result.shape == (*image_px, 3)
    top, left, height, width = window
    middles = [
        start + length * (np.arange(count) + 0.5) / count - 0.5
        for start, length, count in zip((top, left), (height, width), image_px, strict=True)
    ]
    inside = slice(1, -1)  # at a rim, interpolation has one neighbour less
    np.testing.assert_allclose(
        result[inside, inside, 0],
        np.broadcast_to(4 * middles[0][inside, None], (image_px[0] - 2, image_px[1] - 2)),
        atol=1,
    )
    np.testing.assert_allclose(
        result[inside, inside, 1],
        np.broadcast_to(4 * middles[1][inside], (image_px[0] - 2, image_px[1] - 2)),
        atol=1,
    )


def test_the_usual_imagenet_evaluation(tmp_path):
    """Against resizing the shorter side to 256 and cutting out 224, as published: the same but for
    rounding of the sides."""
    smooth = np.kron(picture(3, (6, 10, 3)), np.ones((64, 50, 1))).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(smooth).resize((500, 384), Image.Resampling.BICUBIC))
    ours = resized(tmp_path, smooth, image_px=(224, 224), crop_share=0.875)
    usual = Image.fromarray(smooth).resize((round(500 * 256 / 384), 256), Image.Resampling.BILINEAR)
    left, top = (usual.width - 224) / 2, 16
    usual = np.asarray(usual)[top : top + 224, int(left) : int(left) + 224]
    assert np.abs(ours.astype(int) - usual.astype(int)).mean() < 2


def test_permuted_images_hold_the_same_pixels_in_one_other_order(two_classes):
    plain, permuted = (open_set(two_classes, permuted=flag) for flag in (False, True))
    before, after = (
        images.splits["train"].arrays()[0].reshape(90, 24, 3) for images in (plain, permuted)
    )
    order = [
        int(np.flatnonzero((before == after[:, [pixel]]).all(axis=(0, 2)))[0])
        for pixel in range(24)
    ]
    assert sorted(order) == list(range(24)) != order
    np.testing.assert_array_equal(
        permuted.splits["test"].arrays()[0].reshape(10, 24, 3)[0],
        plain.splits["test"].arrays()[0].reshape(10, 24, 3)[0][order],
    )


def test_images_of_training_that_other_splits_have_too_are_told(tmp_path, capsys):
    """By their bytes, whatever they are called."""
    files = {f"train/{'ab'[i % 2]}/{i}.png": picture(i, (4, 6)) for i in range(10)}
    files |= {f"test/{'ab'[i % 2]}/other{i}.png": picture(i, (4, 6)) for i in range(8, 14)}
    write_folder(tmp_path, files)
    said = "2 images of test are images of train too: part them."
    check_splits(ImageDataConfig(), opened := open_set(tmp_path, validation_share=0.0))
    assert opened.notes == (said,)
    assert capsys.readouterr().out == f"note: {said}\n"
    for fold in range(3):
        opened = open_set(tmp_path, folds=3, fold=fold)
        arrays = {s: {i.tobytes() for i in of.arrays()[0]} for s, of in opened.splits.items()}
        counts = {s: len(arrays["train"] & arrays[s]) for s in ("validation", "test")}
        assert len(opened.notes) == sum(count > 0 for count in counts.values())
        assert all(
            f"{count} images of {s} are images of train too: part them." in opened.notes
            for s, count in counts.items()
            if count
        )


# ---- channels


def test_kinds_of_files_as_colour_and_as_grey(tmp_path):
    grey, color = picture(1, (4, 6)), picture(2, (4, 6, 3))
    palette = Image.fromarray(color).quantize(64)
    luma = np.asarray(Image.fromarray(color).convert("L"))
    kinds = {
        "grey.png": (Image.fromarray(grey), grey),
        "grey_alpha.png": (Image.fromarray(np.stack([grey, 255 - grey], -1), "LA"), grey),
        "sixteen.png": (Image.fromarray(grey.astype(np.uint16) * 257), grey),
        "bits.png": (Image.fromarray(grey > 127), np.where(grey > 127, 255, 0).astype(np.uint8)),
        "color.png": (Image.fromarray(color), color),
        "alpha.png": (Image.fromarray(np.dstack([color, grey])), color),
        "color.tiff": (Image.fromarray(color), color),
        "palette.png": (palette, np.asarray(palette.convert("RGB"))),
        "palette.gif": (palette, np.asarray(palette.convert("RGB"))),
        "transparent.png": (palette, np.asarray(palette.convert("RGB"))),
    }
    for folder in ("a", "b"):
        (tmp_path / "train" / folder).mkdir(parents=True)
        for name, (stored, _) in kinds.items():
            stored.save(
                tmp_path / "train" / folder / name,
                **({"transparency": bytes(range(64))} if "transp" in name else {}),
            )
    opened = open_set(tmp_path, validation_share=0.0)
    assert opened.channels == 3
    train = opened.splits["train"]
    for index in range(len(train)):
        expected = kinds[train.name(index).split("/")[-1]][1]
        expected = expected if expected.ndim == 3 else expected[..., None].repeat(3, -1)
        np.testing.assert_array_equal(train[index][0], expected, err_msg=train.name(index))
    only_grey = write_folder(
        tmp_path / "grey",
        {f"train/{c}/{i}.png": picture(i, (4, 6)) for c in "ab" for i in range(3)},
    )
    assert open_set(only_grey).channels == 1
    np.testing.assert_array_equal(images_module._with_channels(color, 1)[..., 0], luma)
    red_green_blue = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    as_grey = images_module._with_channels(red_green_blue, 1)
    np.testing.assert_allclose(as_grey[0, :, 0], [0.299 * 255, 0.587 * 255, 0.114 * 255], atol=1)


def test_netpbm_of_16_bits(tmp_path):
    """Written as Netpbm's pages say: the higher byte first. What would lose bits is refused."""
    colors = np.arange(2 * 3 * 3, dtype=np.uint16).reshape(2, 3, 3) * 3600 + 7
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(2):
            file = tmp_path / label / f"{number}.ppm"
            file.write_bytes(b"P6\n# from a scanner\n3 2\n65535\n" + colors.astype(">u2").tobytes())
    options = {"validation_share": 0.25, "test_share": 0.25}
    opened = open_set(tmp_path, **options)
    assert (opened.dtype, opened.channels) == ("uint16", 3)
    np.testing.assert_array_equal(opened.splits["train"][0][0], colors)
    for text in (
        b"P6\n3 2\n4095\n" + np.minimum(colors, 4095).astype(">u2").tobytes(),
        b"P3\n3 2\n65535\n" + " ".join(map(str, colors.ravel())).encode(),
    ):
        file.write_bytes(text)
        with pytest.raises(InputError, match=r"b/1\.ppm is a PPM of 16 bits.*save it as PNG\."):
            open_set(tmp_path, **options)
    for kind in (b"P3\n3 2\n255\n" + b" 9" * 18, b"P6\n3 2\n255\n" + b"\t" * 18):
        for file in tmp_path.glob("*/*.ppm"):
            file.write_bytes(kind)
        opened = open_set(tmp_path, **options)
        assert (opened.dtype, int(opened.splits["test"][0][0].max())) == ("uint8", 9)


def test_cmyk(tmp_path):
    color = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(color).convert("CMYK").save(
            tmp_path / "train" / name / "0.jpg", quality=100
        )
    train = open_set(tmp_path, validation_share=0.0).splits["train"]
    np.testing.assert_allclose(train.arrays()[0].mean(axis=(0, 1, 2)), (200, 100, 50), atol=3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
def test_exif_orientation_turns_images_upright(tmp_path, suffix):
    upright = np.zeros((16, 8, 3), np.uint8)
    upright[:8] = 255  # white above, black below
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    files = {f"train/{name}/0.{suffix}": np.rot90(upright).copy() for name in "ab"}
    write_folder(tmp_path, files, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    opened = open_set(tmp_path, validation_share=0.0)
    assert opened.image_px == (16, 8)
    np.testing.assert_allclose(opened.splits["train"][0][0], upright, atol=3)


def test_numbers_beyond_8_bits_stay_as_they_are(tmp_path):
    for name, array in (
        ("float", np.linspace(-3, 700, 24, dtype=np.float32).reshape(4, 6)),
        ("deep", np.full((4, 6), 70000, np.int32)),
        ("sixteen", np.arange(24, dtype=np.uint16).reshape(4, 6) * 2000),
    ):
        files = {f"train/{label}/{i}.tiff": array for label in "ab" for i in range(2)}
        opened = open_set(write_folder(tmp_path / name, files), validation_share=0.0)
        assert (opened.channels, opened.dtype) == (1, array.dtype.name)
        np.testing.assert_array_equal(opened.splits["train"][0][0][..., 0], array)


def test_kinds_that_cannot_be_one_set_are_refused(tmp_path):
    files = {f"train/a/{i}.tiff": np.zeros((4, 6), np.float32) for i in range(2)}
    files |= {f"train/b/{i}.tiff": np.zeros((4, 6), np.uint8) for i in range(2)}
    with pytest.raises(InputError, match="1 bands of float32, 1 bands of uint8: save all alike"):
        open_set(write_folder(tmp_path, files))


# ---- fingerprint


def test_fingerprint_follows_content_splits_and_delivery(two_classes, tmp_path):
    def fingerprint(**options):
        return open_set(two_classes, **options).fingerprint

    plain = fingerprint()
    assert (
        fingerprint() == fingerprint(memory_budget_gib=0.0, crop_share=0.5) == plain
    )  # without resizing there is no crop
    changed = [
        fingerprint(split_seed=1),
        fingerprint(validation_share=0.2),
        fingerprint(train_examples=50),
        fingerprint(permuted=True),
        fingerprint(image_px=(4, 4)),
        fingerprint(image_px=(4, 4), crop_share=0.5),
    ]
    files = {
        path.relative_to(two_classes): np.asarray(Image.open(path))
        for path in two_classes.rglob("*.png")
    }
    assert open_set(write_folder(tmp_path / "copy", files)).fingerprint == plain
    first = min(files)
    another = {**files, first: 255 - files[first]}
    changed.append(open_set(write_folder(tmp_path / "another_image", another)).fingerprint)
    renamed = {str(name).replace("/b/", "/c/"): array for name, array in files.items()}
    changed.append(open_set(write_folder(tmp_path / "another_class", renamed)).fingerprint)
    moved = {str(name).replace("a/000", "b/000"): array for name, array in files.items()}
    changed.append(open_set(write_folder(tmp_path / "another_label", moved)).fingerprint)
    assert len({plain, *changed}) == 1 + len(changed)


def test_large_sets_are_known_by_sizes(two_classes, monkeypatch):
    monkeypatch.setattr(stored_images, "HASHED_BYTES", 1000)
    files = sorted(two_classes.rglob("*.png"))
    assert stored_images.file_digests(files) == [str(path.stat().st_size) for path in files]
