"""What a user can get wrong with labelled images, their networks and classic methods: one sentence,
exit code 2, nothing left behind."""

import numpy as np
import pytest

from cnn_jax import study
from cnn_jax.reporting import classifier_pictures
from cnn_jax.run import main
from experiments import aerial_unet, classic, classify
from tests import running as commands
from tests.data import fake_images
from tests.running import Finished, assert_refused, given

TINY = (
    "--data.train_examples=0",
    "--training.steps=2",
    "--training.batch_size=4",
    "--optimizer.warmup_steps=1",
    "--model.widths=2",
    "--model.pool_after=1",
    "--model.dense=",
    "--model.norm=none",
    "--augmentation.flip_horizontal_probability=0",
)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder with a tiny Fashion-MNIST; no other set is prepared there."""
    folder = tmp_path_factory.mktemp("sets")
    fake_images.write_mnist(folder, "fashion_mnist")
    return folder


@pytest.fixture
def command(capsys, monkeypatch, quick_compilation):
    for name in ("draw", "prediction_pictures"):
        monkeypatch.setattr(classifier_pictures, name, lambda *arguments: None)

    def run(command, *arguments):
        capsys.readouterr()
        code = command(list(map(str, arguments)))
        return Finished(code, *capsys.readouterr())

    return run


def a_classifier(argv):
    return main("experiments.classify", classify.CONFIGURATIONS, argv)


def a_segmenter(argv):
    return main("experiments.aerial_unet", aerial_unet.CONFIGURATIONS, argv)


def classic_methods(argv):
    return study.main("experiments.classic", classic.STUDIES, None, argv)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.name=resnt20"], ["--model.name resnt20", "did you mean resnet20"]),
        (["model.name=unet"], ["unet", "no architecture for classification"]),
        (["model.name=knn"], ["knn", "no architecture for classification"]),
        (
            ["model.name=inception_v3"],
            ["inception_v3", "at least 75x75 px", "28x28", "--data.image_px", "75", "75"],
        ),
        (
            ["model.name=alexnet", "data.image_px=(8,8)"],
            ["alexnet", "at least", "8x8", "--model.stem small"],
        ),
        (["data.source=fashion_mnits"], ["'fashion_mnits'", "did you mean", "fashion_mnist"]),
        (
            ["data.source=kmnist"],
            ["kmnist is not in", "tfds build kmnist", "--data.directory"],
        ),
        (["data.source=folders"], ["fashion_mnist holds no images", "makes it a class"]),
        (
            ["data.directory=nowhere"],
            ["fashion_mnist is not in nowhere", "tfds build fashion_mnist"],
        ),
        (
            ["data.mean=(0.1,0.2,0.3)"],  # as weights of coloured images bring along
            ["data.mean has 3 values", "1 channels", "--data.channels 3"],
        ),
        (["data.std=(0.0,)"], ["data.std", "above 0"]),
        (["data.image_px=(32,0)"], ["data.image_px is (32, 0)", "(0,0)"]),
        (["data.image_px=(-32,32)"], ["data.image_px", "at least 0"]),
        (["data.image_px=(32,)"], ["data.image_px", "tuple of 2"]),
        (["data.image_px=(32,32)", "data.crop_share=0"], ["data.crop_share is 0", "above 0"]),
        (["data.train_examples=91"], ["data.train_examples is 91", "only 90"]),
        (["data.validation_share=1"], ["none to train on", "lower data.validation_share"]),
        (["data.validation_share=1.5"], ["data.validation_share", "between 0 and 1"]),
        (
            ["data.validation_share=0", "training.patience=3"],
            ["training.patience", "data.validation_share"],
        ),
        (
            ["data.validation_share=0", "evaluation.weights=best"],
            ["evaluation.weights", "data.validation_share"],
        ),
        (["evaluation.shifts_px=(2,28)"], ["evaluation.shifts_px is (2, 28)", "28x28"]),
        (["evaluation.shifts_px=(0,)"], ["evaluation.shifts_px", "at least 1"]),
        (["augmentation.shift_px=-1"], ["augmentation.shift_px", "at least 0"]),
        (["augmentation.hue_probability=1"], ["augmentation.saturation_probability", "grey"]),
        (["loss.label_smoothing=2"], ["loss.label_smoothing", "between 0 and 1"]),
        (["model.widths=(4,0)"], ["model.widths", "at least 1"]),
        (["model.pool_after=(3,)"], ["pool_after is (3,)", "1 convolutions"]),
        (["model.dropout=1.5"], ["model.dropout", "between 0 and 1"]),
    ],
)
def test_classifiers(arguments, words, sets, tmp_path, command):
    common = [
        a for a in TINY if not (a.startswith("--model.") and arguments[0].startswith("model.name"))
    ]
    common = [
        "--config=smoke",
        f"--data.directory={sets}",
        *common,
        *given(*arguments),
    ]
    assert_refused(command(a_classifier, *common, "--workdir", tmp_path / "run"), *words)
    assert not list(tmp_path.iterdir())


def test_a_classifier_is_no_segmenter(tmp_path, command):
    refused = command(
        a_segmenter, "--config=smoke", "--model.name=resnet20", "--workdir", tmp_path / "run"
    )
    assert_refused(refused, "resnet20", "no architecture for segmentation")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variant", "arguments", "words"),
    [
        ("svm_hog", ["selection.ks=(1,3)"], ["selection.ks", "knn on pixels alone"]),
        ("knn", ["data.train_examples=91"], ["data.train_examples is 91", "only 90"]),
        ("knn", ["model.name=resnet20"], ["resnet20", "no architecture for classic"]),
        ("svm_hog", ["model.features=hogs"], ["model.features", "did you mean hog"]),
        ("svm_hog", ["data.train_examples=1"], ["fashion_mnist", "all of one class"]),
        ("logistic_regression_pixels", ["data.train_examples=1"], ["all of one class"]),
        ("knn", ["data.mean=(0.1,0.2)"], ["data.mean has 2 values"]),
    ],
)
def test_classic_methods(variant, arguments, words, sets, tmp_path, command):
    common = [
        "--config=smoke",
        f"--data.directory={sets}",
        "--data.train_examples=0",
        f"--variants={variant}",
    ]
    refused = command(classic_methods, *common, *given(*arguments), "--workdir", tmp_path / "s")
    assert_refused(refused, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["selection.ks=()", "model.k=91"], ["model.k is 91", "90 training images"]),
        (["selection.ks=(1,90)"], ["selection.ks is (1, 90)", "there are 45 training images"]),
        (["selection.folds=91"], ["selection.folds is 91", "90 examples"]),
    ],
)
def test_what_a_method_refuses_once_it_has_the_images_leaves_its_folder_free(
    arguments, words, sets, tmp_path, command
):
    common = (
        "--config=smoke",
        f"--data.directory={sets}",
        "--data.train_examples=0",
        "--variants=knn",
    )
    common = (*common, "--workdir", tmp_path / "s")
    assert_refused(command(classic_methods, *common, *given(*arguments)), *words)
    mended = command(classic_methods, *common, "--selection.ks", "--model.k=3")
    assert mended.code == 0, mended.err
    assert commands.read(tmp_path / "s" / "knn-seed0" / "config.json")["model"]["k"] == 3


def test_the_folder_of_a_study_that_could_not_begin_is_not_left_behind(tmp_path, command):
    refused = command(
        classic_methods,
        "--config=smoke",
        "--data.directory=nowhere",
        "--workdir",
        tmp_path / "s",
    )
    assert_refused(refused, "fashion_mnist is not in nowhere")
    assert not list(tmp_path.iterdir())


# ---- folders of images


@pytest.fixture
def hands(tmp_path):
    """(Folder of hands, arguments of a run on it)."""
    folder = fake_images.write_fingers(tmp_path / "data")
    where = (
        f"--data.directory={folder}",
        "--data.image_px",
        "16",
        "16",
        "--workdir",
        tmp_path / "run",
    )
    return folder, ("--config=fingers", *TINY, *where)


def test_a_pattern_that_matches_nothing(hands, tmp_path, command):
    folder, arguments = hands
    refused = command(a_classifier, *arguments, r"--data.label_pattern=hand(\d)")
    assert_refused(refused, folder, r"hand(\\d)", "data.label_pattern")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_image(split, hands, tmp_path, command):
    """Whether it is met in training or only in the last evaluation."""
    folder, arguments = hands
    for path in sorted((folder / split).iterdir())[2:]:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    damaged = sorted((folder / split).iterdir())[2].name[:4]  # any of them may come first
    assert_refused(
        command(a_classifier, *arguments),
        folder / split / damaged,
        "can't be decoded",
        "replace or remove it",
    )
    assert not (tmp_path / "run" / "summary.json").exists()


def test_one_class_alone(tmp_path, command):
    fake_images.write_folder(
        tmp_path / "data", {f"train/cats/{i}.png": fake_images.picture(i, (8, 8)) for i in range(5)}
    )
    refused = command(
        a_classifier,
        "--config=smoke",
        *TINY,
        "--data.source=folders",
        f"--data.directory={tmp_path / 'data'}",
    )
    assert_refused(refused, "only the class cats", "two or more classes")


# ---- what is odd and yet no mistake


HELD_OUT = 0
"""A split_seed that holds the one image of `lonely` out for validation."""


def lonely(tmp_path):
    """Three classes, of which one has a single training image, and another none in test."""
    files = {
        f"train/{name}/{i}.png": fake_images.picture(i + 100 * n, (8, 8))
        for n, name in enumerate("ab")
        for i in range(6)
    }
    files |= {
        f"test/{name}/{i}.png": fake_images.picture(i, (8, 8)) for name in "ac" for i in range(2)
    }
    files["train/c/0.png"] = fake_images.picture(999, (8, 8))
    return fake_images.write_folder(tmp_path / "data", files)


def test_a_class_of_one_image_and_a_batch_larger_than_the_set(tmp_path, command):
    """The stream of batches goes round; the one image is held out for validation, and its class is
    counted all the same."""
    workdir = tmp_path / "run"
    finished = command(
        a_classifier,
        "--config=smoke",
        *TINY,
        "--data.source=folders",
        f"--data.directory={lonely(tmp_path)}",
        "--data.validation_share=0.5",
        f"--data.split_seed={HELD_OUT}",
        "--training.batch_size=32",
        "--loss.class_weights=inverse",
        "--workdir",
        workdir,
    )
    assert finished.code == 0, finished.err
    summary = commands.summary(workdir)
    assert summary["validation/images"] == 6
    assert np.array(summary["validation/confusion"]).sum(1)[2] == 1
    assert np.array(summary["test/confusion"]).sum(1).tolist() == [2, 0, 2]
    assert summary["test/class_accuracy/b"] is None


def test_classic_methods_keep_classes_apart_that_training_lacks(tmp_path, command):
    """Columns of scores are those of the classes in training; predictions are still numbered as the
    set numbers them."""
    folder = lonely(tmp_path)
    common = (
        "--config=smoke",
        "--data.source=folders",
        f"--data.directory={folder}",
        "--data.train_examples=5",
    )
    variants = (
        "--variants",
        "svm_hog",
        "random_forest_pixels",
        "logistic_regression_pixels",
        "k_means_hog",
    )
    finished = command(
        classic_methods,
        *common,
        *variants,
        "--data.image_px",
        "28",
        "28",
        "--workdir",
        tmp_path / "s",
    )
    assert finished.code == 0, finished.err
    for path in (tmp_path / "s").glob("*/summary.json"):
        assert np.array(commands.read(path)["test/confusion"]).shape == (3, 3)
