"""Folders of labelled images: layouts, names, and what is said of folders that can't be used."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from cnn_jax.configuration.schema import ImageDataConfig
from cnn_jax.data.images import open_images
from cnn_jax.errors import InputError
from tests.data.fake_images import encoded, picture, write_fingers, write_folder

CASES = (str.lower, str.upper)
IMAGE = picture(0, (4, 6, 3))


def open_set(directory, **options):
    return open_images(ImageDataConfig(source="folders", directory=str(directory), **options))


def refusal(directory, **options):
    with pytest.raises(InputError) as caught:
        open_set(directory, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sizes(opened):
    return {split: len(images) for split, images in opened.splits.items()}


def test_fingers(tmp_path):
    write_fingers(tmp_path)
    fingers = open_set(tmp_path, label_pattern=r"_(\d)[LR]", validation_share=0.25)
    assert fingers.classes == ("0", "1", "2", "3", "4", "5")
    assert (fingers.channels, fingers.image_px) == (1, (16, 16))
    assert sizes(fingers) == {"train": 18, "validation": 6, "test": 12}
    for images in fingers.splits.values():
        for index, (image, label) in enumerate(images):
            number = int(images.name(index).split("/")[-1].split("-")[0], 16)
            assert label == number % 6
            np.testing.assert_array_equal(image[..., 0], picture(number, (16, 16)))
    hands = open_set(tmp_path, label_pattern=r"_(\d[LR])\.")
    assert hands.classes == ("0L", "1R", "2L", "3R", "4L", "5R")


def test_labels_in_names_without_folders(tmp_path):
    write_folder(
        tmp_path, {f"{'cat' if i % 2 else 'dog'}.{i}.png": picture(i, (4, 6, 3)) for i in range(20)}
    )
    opened = open_set(tmp_path, label_pattern=r"^(cat|dog)\.")
    assert opened.classes == ("cat", "dog")
    assert sizes(opened) == {"train": 14, "validation": 2, "test": 4}


def test_a_folder_a_class(tmp_path):
    names = ("10", "9", "año", "Zebra", "class 2", "class 10")
    write_folder(tmp_path, {f"{name}/{i}.png": IMAGE for name in names for i in range(5)})
    opened = open_set(tmp_path)
    assert opened.classes == ("9", "10", "Zebra", "año", "class 2", "class 10")
    assert sizes(opened) == {"train": 22, "validation": 2, "test": 6}


@pytest.mark.parametrize("validation", ["validation", "val", "Valid"])
def test_published_splits(tmp_path, validation):
    for split, count in (("Train", 6), (validation, 3), ("test", 2)):
        write_folder(
            tmp_path, {f"{split}/{name}/{i}.png": IMAGE for name in "ab" for i in range(count)}
        )
    assert sizes(open_set(tmp_path)) == {"train": 12, "validation": 6, "test": 4}


def test_train_may_be_a_class(tmp_path):
    write_folder(
        tmp_path,
        {f"{name}/{i}.png": IMAGE for name in ("train", "plane", "ship") for i in range(4)},
    )
    assert open_set(tmp_path).classes == ("plane", "ship", "train")


def test_names_are_compared_as_they_read(tmp_path):
    decomposed, composed = (unicodedata.normalize(form, "niño") for form in ("NFD", "NFC"))
    assert decomposed != composed
    files = {f"train/{decomposed}/{i}.png": IMAGE for i in range(3)} | {
        f"train/ave/{i}.png": IMAGE for i in range(3)
    }
    write_folder(tmp_path / "one", files | {f"test/{composed}/0.png": IMAGE})
    one = open_set(tmp_path / "one")
    assert one.classes == ("ave", composed)
    assert one.splits["test"][0][1] == 1
    write_folder(
        tmp_path / "two",
        {name.replace(decomposed, composed): IMAGE for name in files}
        | {f"test/{decomposed}/0.png": IMAGE},
    )
    assert open_set(tmp_path / "two").fingerprint == one.fingerprint
    labelled = write_folder(
        tmp_path / "three",
        {f"{i} {name}.png": IMAGE for name in ("ave", decomposed) for i in range(4)},
    )
    assert open_set(labelled, label_pattern=f"(ave|{composed})").classes == ("ave", composed)


def test_classes_of_one_number_have_one_order(tmp_path):
    """Whatever order a set of them has in this process: a run that resumes would swap them."""
    names = ("0001", "001", "01", "1", "1a", "01b", "2")
    write_folder(tmp_path, {f"{name}/{i}.png": IMAGE for name in names for i in range(5)})
    assert open_set(tmp_path).classes == names


def test_hidden_files_and_other_files_are_passed_over(tmp_path):
    write_folder(tmp_path, {f"train/{name}/{i}.png": IMAGE for name in "ab" for i in range(3)})
    write_folder(tmp_path, {"train/a/deeper/more/3.PNG": IMAGE})
    for name in (
        ".DS_Store",
        "train/.ipynb_checkpoints/x.png",
        "train/a/._0.png",
        "train/b/Thumbs.db",
        "train/labels.csv",
        "LICENSE",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    opened = open_set(tmp_path)
    assert opened.classes == ("a", "b")
    assert sum(sizes(opened).values()) == 7


def test_images_that_no_class_holds_are_told(tmp_path):
    """They were passed over without a word."""
    held = {f"train/{name}/{i}.png": picture(i, (4, 6, 3)) for name in "ab" for i in range(9)}
    write_folder(tmp_path, {name: image + ("b" in name[6]) for name, image in held.items()})
    assert open_set(tmp_path).notes == ()
    others = ("train/0.jpg", "train/1.JPG", "extra/año/0.png", "0.gif", "train/._2.png")
    write_folder(tmp_path, dict.fromkeys(others, IMAGE))
    [note] = open_set(tmp_path).notes
    assert note.startswith("images outside the folders of classes are left out: 2 in train, 1 in ")
    assert "1 in extra/año" in note
    assert "1 in the folder itself" in note
    note, *_ = open_set(tmp_path, label_pattern=r"^(\d)").notes
    assert note.startswith("images outside the folders of splits are left out: 1 in ")
    assert " in train" not in note


def test_classes_that_differ_in_capitals_alone_are_told(tmp_path):
    held = {f"{n}/{i}.png": picture(i, (4, 6, 3)) for n in ("Cat", "dog") for i in range(9)}
    held |= {f"cat/{i}.png": picture(20 + i, (4, 6, 3)) for i in range(9)}
    write_folder(tmp_path, held)
    notes = open_set(tmp_path).notes
    assert (
        "the classes Cat and cat differ in capitals alone: if they are one, name them alike."
        in (notes)
    )


def test_images_that_links_lead_to_are_not_left_out(tmp_path):
    """As splits are made of one pool of files."""
    for split, numbers in (("train", range(12)), ("test", range(12, 16))):
        for i in numbers:
            write_folder(tmp_path, {f"pool/{i}.png": picture(i, (4, 6, 3))})
            link = tmp_path / split / "ab"[i % 2] / f"{i}.png"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(tmp_path / "pool" / link.name)
    assert open_set(tmp_path).notes == ()
    write_folder(tmp_path, {"pool/16.png": IMAGE})
    assert open_set(tmp_path).notes == (
        "images outside the folders of classes are left out: 1 in pool.",
    )


def test_formats_that_are_not_read_are_told(tmp_path):
    """A telephone's HEIC beside a few JPEG would be trained without, and nobody would know."""
    write_folder(tmp_path, {f"{n}/{i}.jpg": picture(i, (4, 6, 3)) for n in "ab" for i in range(9)})
    for name in ("a/0.HEIC", "a/1.heic", "b/2.avif", "a/._3.heic", "a/info.txt", "a/.x/4.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    note, *_ = open_set(tmp_path).notes
    assert note == (
        "images of formats that aren't read (.avif, .heic) are left out: 2 in a, 1 in b."
    )


def test_every_spelling_of_a_format_is_an_image(tmp_path):
    """Those that Pillow knows, in small and capital letters; .pfm holds floating point."""
    Image.init()
    formats = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
    known = [end for end, of in Image.registered_extensions().items() if of in formats]
    known = sorted({*known, ".jp2", ".j2k"} - {".pfm"})
    files = [tmp_path / f"{of}/0{case(end)}" for of in "ab" for end in known for case in CASES]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encoded(IMAGE))
    assert sum(sizes(open_set(tmp_path)).values()) == len(files) >= 60


# ---- what can't be used


def test_folders_that_are_not_there(tmp_path):
    assert "data.directory is empty" in refusal("")
    assert f"data.directory {tmp_path / 'año'} is not a folder" in refusal(tmp_path / "año")


def test_folders_without_classes(tmp_path):
    assert "has no images" in refusal(tmp_path)
    write_folder(tmp_path, {f"dataset/{name}/{i}.png": IMAGE for name in "ab" for i in range(3)})
    assert f"{tmp_path} has only the class dataset: give a folder" in refusal(tmp_path)
    write_fingers(tmp_path / "fingers")
    assert "has no folder a class" in refusal(tmp_path / "fingers")


def test_an_empty_class(tmp_path):
    write_folder(tmp_path, {f"train/{name}/{i}.png": IMAGE for name in "ab" for i in range(3)})
    (tmp_path / "train" / "ñandú").mkdir()
    assert f"{tmp_path / 'train' / 'ñandú'} holds no images" in refusal(tmp_path)


def test_a_class_of_test_that_train_has_not(tmp_path):
    write_folder(tmp_path, {f"train/{name}/{i}.png": IMAGE for name in "ab" for i in range(3)})
    write_folder(tmp_path, {"test/c/0.png": IMAGE})
    assert f"{tmp_path / 'test'} has the class c, which {tmp_path / 'train'} has not" in refusal(
        tmp_path
    )


def test_two_folders_of_one_split(tmp_path):
    write_folder(
        tmp_path,
        {f"{split}/{name}/0.png": IMAGE for split in ("train", "val", "valid") for name in "ab"},
    )
    assert "are both folders of validation" in refusal(tmp_path)


def test_patterns(tmp_path):
    write_fingers(tmp_path)
    assert "no regular expression" in refusal(tmp_path, label_pattern="_(")
    assert "has no group" in refusal(tmp_path, label_pattern=r"_\d[LR]")
    write_folder(tmp_path, {"train/odd.png": picture(0, (16, 16))})
    assert f"{tmp_path / 'train' / 'odd.png'} has no label in its name" in refusal(
        tmp_path, label_pattern=r"_(\d)[LR]"
    )


def test_unreadable_images_are_named(tmp_path):
    write_folder(
        tmp_path,
        {f"train/{name}/{i}.png": picture(i, (40, 60, 3)) for name in "ab" for i in range(3)},
    )
    path = tmp_path / "train" / "a" / "1.png"
    whole = encoded(picture(1, (40, 60, 3)))
    path.write_bytes(whole[: len(whole) // 2])  # its header is whole
    train = open_set(tmp_path, validation_share=0.0).splits["train"]
    with pytest.raises(
        InputError,
        match=r"train/a/1\.png can't be decoded, being damaged or no image: replace or remove it\.",
    ):
        train.arrays()
    path.write_text("no image")
    assert f"{path} is no JPEG" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("train", "test", "validation"),
    [
        ("Training", "Testing", "Validation"),
        ("Train", "Test", "Val"),
        ("TRAIN", "TEST", "VALID"),
        ("train_set", "test-set", "Validation Set"),
        ("train_images", "test_images", "dev"),
        ("entrenamiento", "prueba", "validación"),
        ("Entraînement", "tests", unicodedata.normalize("NFD", "Validación")),
        ("treino", "teste", "validação"),
    ],
)
def test_folders_of_splits_are_no_classes(train, test, validation, tmp_path):
    counts = {train: 5, test: 3, validation: 2}
    write_folder(
        tmp_path,
        {f"{s}/{c}/{i}.png": IMAGE for s, n in counts.items() for c in "ab" for i in range(n)},
    )
    opened = open_set(tmp_path)
    assert opened.classes == ("a", "b")
    assert sizes(opened) == {"train": 10, "validation": 4, "test": 6}


def test_a_test_folder_without_one_of_training_is_told(tmp_path):
    write_folder(
        tmp_path, {f"{s}/{c}/{i}.png": IMAGE for s in ("lern", "Test") for c in "ab" for i in "12"}
    )
    assert refusal(tmp_path).endswith(
        "Test is a folder of test, and beside it is none of training: call it train."
    )
    write_folder(tmp_path / "classes", {f"{c}/{i}.png": IMAGE for c in ("test", "x") for i in "12"})
    assert open_set(tmp_path / "classes").classes == ("test", "x")


def test_splits_below_the_classes_are_told(tmp_path):
    write_folder(
        tmp_path, {f"{c}/{s}/{i}.png": IMAGE for s in ("train", "Test") for c in "ab" for i in "12"}
    )
    assert "put train and test above the classes (train/a)" in refusal(tmp_path)
    own = {f"archive/{s}/{c}/1.png": IMAGE for s in ("train", "test") for c in "ab"}
    folder = write_folder(tmp_path / "unpacked", own)  # as an archive is, one folder too high
    assert refusal(folder).endswith(f"give {folder / 'archive'} as data.directory.")


def test_the_fingerprint_is_of_images_and_labels_and_not_of_how_they_are_filed(tmp_path):
    write_folder(
        tmp_path / "a",
        {
            f"{s}/{c}/ñ{i}.png": picture(i, (4, 6, 3))
            for s in ("train", "test")
            for c in "ab"
            for i in range(5)
        },
    )
    nfd = unicodedata.normalize("NFD", "ñ")
    write_folder(
        tmp_path / "b",
        {
            f"{s}/{c}/{nfd}{i}.PNG": picture(i, (4, 6, 3))
            for s in ("Training", "Testing")
            for c in "ab"
            for i in range(5)
        },
    )
    one = open_set(tmp_path / "a").fingerprint
    assert open_set(tmp_path / "b").fingerprint == one
    (tmp_path / "b" / "Testing" / "a" / f"{nfd}0.PNG").rename(
        tmp_path / "b" / "Testing" / "b" / "5.png"
    )
    assert open_set(tmp_path / "b").fingerprint != one
