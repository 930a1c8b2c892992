"""The experiments on labelled images as a user runs them: every shipped configuration and study,
cut to two steps of a small network on tiny sets in their publishers' layouts, with complete
records, tables and pictures."""

import re
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import study, tasks
from cnn_jax.configuration import documents
from cnn_jax.run import main
from cnn_jax.tasks.classification import Classification
from experiments import classic, classify, dense_vs_convolutional, mnist, overfitting
from tests import running as commands
from tests.data import fake_images
from tests.running import Finished, given

RECORD = ("config.json", "environment.json", "metrics.jsonl", "summary.json")

CUT = {
    "data.train_examples": 0,
    "training.steps": 2,
    "training.batch_size": 8,
    "training.log_every_steps": 1,
    "training.validate_every_steps": 1,
    "optimizer.warmup_steps": 1,
    "evaluation.batch_size": 20,
    "evaluation.pictured_images": 4,
}
"""What makes any run of a network short."""

SMALL = {
    "model.widths": "(4,)",
    "model.pool_after": "(1,)",
    "model.dense": "()",
    "model.norm": "none",
}
"""What makes a network small; a perceptron has widths alone."""

PICTURES = {"learning_curves.png", "confusion_matrix.png", "misclassified.png"}
LOOKED_INTO = {"filters.png", "feature_maps.png", "grad_cam.png"}


def flags(values) -> list[str]:
    return given(*(f"{path}={value}" for path, value in values.items()))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder with tiny sets as TFDS prepares them, and one of hands."""
    folder = tmp_path_factory.mktemp("sets")
    fake_images.write_mnist(folder, "mnist")
    fake_images.write_mnist(folder, "fashion_mnist")
    fake_images.write_cifar10(folder)
    fake_images.write_cifar100(folder)
    fake_images.write_imagenet2012(folder)
    fake_images.write_fingers(folder / "hands")
    return folder


def directory(sets, config):
    return sets / "hands" if config.data.source == "folders" else sets


@pytest.fixture
def command(capsys, quick_compilation):
    def run(command, *arguments):
        capsys.readouterr()
        code = command([*map(str, arguments)])
        return Finished(code, *capsys.readouterr())

    return run


def drawn(workdir):
    """The names of the pictures in a folder of a run or study, each of which is one."""
    pictures = list((workdir / "figures").glob("*"))
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    return {path.name for path in pictures}


def assert_complete(workdir, pictures=frozenset()):
    """The record of a run is whole, and its figures are those of its confusion matrices. Returns
    configuration and summary."""
    assert drawn(workdir) == pictures
    config, environment, summary = (
        commands.read(workdir / name) for name in (RECORD[0], RECORD[1], RECORD[3])
    )
    assert re.fullmatch("[0-9a-f]{16}", environment["digest"])
    assert (
        environment["digest"]
        == summary["digest"]
        == documents.digest(tasks.config_from_dict(config))
    )
    assert re.fullmatch("[0-9a-f]{32,}", environment["data_fingerprint"])
    for name in ("experiment", "configuration", "seed"):
        assert summary[name] == config[name]
    assert summary["wall_time_s"] > 0
    for split in ("validation", "test"):
        confusion = np.array(summary[f"{split}/confusion"])
        assert confusion.sum() == summary[f"{split}/images"] > 0
        assert summary[f"{split}/accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
        recalls = [summary[key] for key in summary if key.startswith(f"{split}/class_accuracy/")]
        assert len(recalls) == len(confusion)
    assert [path.name for path in workdir.glob("*.partial")] == []
    if config["task"] == "classification":
        lines = commands.metrics(workdir)
        assert config["training"]["steps"] == summary["steps"] == lines[-1]["step"]
        assert summary["evaluated_step"] in commands.saved_steps(workdir)
        assert [line["step"] for line in lines if "train/loss" in line] == [1, 2]
        assert (
            lines[-1]["validation/accuracy"] == summary["validation/accuracy"]
            or summary["evaluated_step"] == 1
        )
        assert summary["parameters"] > 0
        assert [path for path in (workdir / "tensorboard").iterdir() if path.stat().st_size > 100]
    return config, summary


# ---- experiments.classify


@pytest.mark.parametrize("name", classify.CONFIGURATIONS)
def test_shipped_model_takes_the_images_of_its_set(name, sets):
    """As shipped, but for where the data lie and how many there are: traced, not compiled."""
    config = classify.CONFIGURATIONS[name]()
    config.data.directory, config.data.train_examples = str(directory(sets, config)), 0
    tasks.check(config)
    info = Classification().dataset(config).info
    learner = Classification().learner(config, info)
    assert {(config.experiment, config.configuration)} == {("classify", name)}
    x = jax.ShapeDtypeStruct((2, *learner.example_px), jnp.float32)
    logits, variables = jax.eval_shape(
        lambda x: learner.module().init_with_output(jax.random.key(0), x, train=False), x
    )
    assert (logits.shape, logits.dtype) == ((2, len(info.classes)), jnp.float32)
    assert variables["params"]
    examples = {
        "image": jax.ShapeDtypeStruct(x.shape, jnp.uint8),
        "label": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    images, labels = jax.eval_shape(
        lambda e: learner.prepare(jax.random.split(jax.random.key(0), 2), e), examples
    )
    assert images.shape == x.shape
    assert labels.shape == logits.shape


@pytest.mark.parametrize(
    ("name", "changes", "images"),
    [
        ("default", SMALL | {"model.norm": "batch"}, (10, 40)),
        ("cifar10", {"model.name": "cnn", **SMALL}, (4, 20)),
        pytest.param(
            *("cifar100", {"model.name": "cnn", **SMALL}, (11, 20)), marks=pytest.mark.long
        ),
        pytest.param(
            "imagenet2012",
            {
                "model.name": "cnn",
                **SMALL,
                "data.image_px": "(32,32)",
                "data.validation_share": 0.2,
            },
            (4, 9),
            marks=pytest.mark.long,
        ),
        ("fingers", {**SMALL, "data.image_px": "(16,16)"}, (2, 12)),
    ],
)
def test_shipped_configuration_runs(name, changes, images, sets, tmp_path, command, request):
    if name != "default":
        request.getfixturevalue("few_pictures")
    shipped = classify.CONFIGURATIONS[name]()
    where = f"--data.directory={directory(sets, shipped)}"
    arguments = (f"--config={name}", where, *flags(CUT | changes), "--workdir", tmp_path / "run")
    finished = command(
        lambda argv: main("experiments.classify", classify.CONFIGURATIONS, argv), *arguments
    )
    assert finished.code == 0, finished.err
    config, summary = assert_complete(
        tmp_path / "run", PICTURES | LOOKED_INTO if name == "default" else set()
    )
    assert (summary["validation/images"], summary["test/images"]) == images
    assert tasks.config_from_dict(config).augmentation == shipped.augmentation
    assert ("test/top5_accuracy" in summary) == (name == "cifar100")
    assert re.search(r"^accuracy +0\.\d{4}$", finished.out, re.MULTILINE)


# ---- studies


def study_command(module, pictures=None):
    return lambda argv: study.main(module.__name__, module.STUDIES, pictures, argv)


STUDIES = {
    "mnist": mnist,
    "dense_vs_convolutional": dense_vs_convolutional,
    "overfitting": overfitting,
    "classic": classic,
}


@pytest.mark.parametrize("which", ["default", "smoke"])
@pytest.mark.parametrize("name", STUDIES)
def test_shipped_studies_fit_their_set(name, which, sets):
    """Every variant, as shipped but for the number of images: its digest is its own, and its
    network takes the images."""
    made = STUDIES[name].STUDIES[which]()
    digests = set()
    for variant, config in made.variants.items():
        config.variant, config.configuration, config.data.directory = variant, which, str(sets)
        tasks.check(config)
        assert config.experiment == name
        digests.add(documents.digest(config))
        assert tasks.config_from_dict(documents.to_dict(config)) == config
        config.data.train_examples = 0
        if config.task == "classification":
            learner = Classification().learner(config, Classification().dataset(config).info)
            module = learner.module()
            logits = jax.eval_shape(
                lambda x, module=module: module.init_with_output(jax.random.key(0), x, train=False)[
                    0
                ],
                jnp.zeros((2, 28, 28, 1)),
            )
            assert logits.shape == (2, 10)
    assert len(digests) == len(made.variants)


def run_study(name, command, sets, workdir, *arguments, pictures=None, changes=CUT | SMALL):
    module = STUDIES[name]
    where = (
        "--config=smoke",
        f"--data.directory={sets}",
        *flags(changes),
        *arguments,
        "--workdir",
        workdir,
    )
    finished = command(study_command(module, pictures), *where)
    assert finished.code == 0, finished.err
    return finished


def rows(finished, count):
    """The first words of the last table's rows."""
    table = finished.out[finished.out.rindex("\nvariant ") + 1 :].splitlines()
    return [line.split()[0] for line in table[1 : count + 1]]


def test_mnist(sets, tmp_path, command, request):
    run_study("mnist", command, sets, tmp_path / "s", "--variants=softmax", changes=CUT)
    request.getfixturevalue("few_pictures")
    finished = run_study("mnist", command, sets, tmp_path / "s")
    for variant in ("softmax", "mlp", "cnn"):
        # The weights of a softmax regression are pictures, but it has no maps.
        pictures = PICTURES | {"filters.png"} if variant == "softmax" else set()
        config, summary = assert_complete(tmp_path / "s" / f"{variant}-seed0", pictures)
        assert config["variant"] == summary["variant"] == variant
        assert config["data"]["source"] == "mnist"
    assert sorted(rows(finished, 3)) == ["cnn", "mlp", "softmax"]


def test_dense_vs_convolutional(sets, tmp_path, command, few_pictures):
    pictures = dense_vs_convolutional.pictures
    finished = run_study(
        "dense_vs_convolutional", command, sets, tmp_path / "s", "--seeds=0", pictures=pictures
    )
    variants = ("mlp", "cnn", "mlp_permuted", "cnn_permuted")
    for variant in variants:
        config, summary = assert_complete(tmp_path / "s" / f"{variant}-seed0")
        assert config["data"]["permuted"] == variant.endswith("_permuted")
        moved = [key for key in summary if "shifted" in key]
        assert moved == ([] if config["data"]["permuted"] else ["test/shifted_accuracy/1"])
    assert drawn(tmp_path / "s") == {"accuracy_by_seed.png", "accuracy_against_shift.png"}
    assert sorted(rows(finished, 4)) == sorted(variants)


def test_overfitting(sets, tmp_path, command, few_pictures):
    finished = run_study(
        "overfitting",
        command,
        sets,
        tmp_path / "s",
        "--variants",
        "none",
        "early_stopping",
        "all",
        pictures=overfitting.pictures,
    )
    for variant in ("none", "early_stopping", "all"):
        config, _ = assert_complete(tmp_path / "s" / f"{variant}-seed0")
        assert (config["training"]["patience"] > 0) == (variant == "early_stopping")
        assert (config["augmentation"]["mixup_alpha"] > 0) == (variant == "all")
    assert drawn(tmp_path / "s") == {"curves-seed0.png"}
    assert sorted(rows(finished, 3)) == ["all", "early_stopping", "none"]
    # Finished runs are shown, and what they show together is made again; here without the one that
    # the others are held against.
    shutil.copytree(tmp_path / "s" / "all-seed0", tmp_path / "t" / "all-seed0")
    again = run_study(
        "overfitting",
        command,
        sets,
        tmp_path / "t",
        "--variants=all",
        pictures=overfitting.pictures,
    )
    assert again.out.count("holds this run, finished") == 1
    assert drawn(tmp_path / "t") == {"curves-seed0.png"}
    pictures = [(tmp_path / study / "figures" / "curves-seed0.png").read_bytes() for study in "st"]
    assert pictures[0] != pictures[1]


def record_of(variant, seed, sections, **summary):
    config = {"variant": variant, "seed": seed, **sections}
    return types.SimpleNamespace(config=config, summary=summary, metrics=[])


def test_pictures_of_studies_do_without_figures_that_were_not_counted(tmp_path):
    """Without evaluation.train, or where a later seed was moved by other amounts."""
    runs = [record_of("none", 0, {}, **{"test/accuracy": 0.5})]
    overfitting.pictures(tmp_path, runs)
    seen = {0: (1, 2), 1: (1,)}
    runs = [
        record_of(
            "cnn",
            seed,
            {"data": {"permuted": False}, "evaluation": {"shifts_px": sizes}},
            **{"test/accuracy": 0.5},
            **{f"test/shifted_accuracy/{size}": 0.4 for size in sizes},
        )
        for seed, sizes in seen.items()
    ]
    dense_vs_convolutional.pictures(tmp_path, runs)
    assert {path.name for path in tmp_path.iterdir()} == {
        "accuracy_against_shift.png",
        "accuracy_by_seed.png",
        "curves-seed0.png",
    }


def test_every_regularisation_is_in_one_variant_and_in_all():
    variants = overfitting.default().variants
    base = documents.to_dict(variants["none"])
    changed = {
        name: set(documents.differences(variants["none"], config))
        for name, config in variants.items()
        if name != "none"
    }
    assert base == documents.to_dict(overfitting.default().variants["none"])
    alone = [changes for name, changes in changed.items() if name not in ("all", "early_stopping")]
    assert all(alone)
    assert sum(map(len, alone)) == len(set().union(*alone))  # no two change the same
    assert changed["all"] == set().union(*alone)


def test_classic(sets, tmp_path, command, request):
    run_study(
        "classic",
        command,
        sets,
        tmp_path / "s",
        "--variants=knn",
        changes={"data.train_examples": 0},
    )
    request.getfixturevalue("few_pictures")
    finished = run_study("classic", command, sets, tmp_path / "s")
    variants = list(classic.default().variants)
    for variant in variants:
        if variant == "cnn":
            assert_complete(tmp_path / "s" / f"{variant}-seed0")
            continue
        pictures = (
            {"confusion_matrix.png", "misclassified.png", "cross_validation.png"}
            if variant == "knn"
            else set()
        )
        _, summary = assert_complete(tmp_path / "s" / f"{variant}-seed0", pictures)
        assert (tmp_path / "s" / f"{variant}-seed0" / "metrics.jsonl").read_bytes() == b""
        assert summary["test/images_per_second"] > 0
        if variant == "knn":
            chosen = summary["cross_validation"]["chosen"]
            assert chosen["k"] in (1, 5)
            accuracies = {
                d: np.mean(a, axis=1) for d, a in summary["cross_validation"]["accuracy"].items()
            }
            best = max(max(values) for values in accuracies.values())
            assert accuracies[chosen["distance"]][(1, 5).index(chosen["k"])] == best
    assert sorted(rows(finished, 8)) == sorted(variants)
