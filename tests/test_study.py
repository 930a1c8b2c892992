"""Studies: every variant with every seed, each a record of its own; what the command line changes,
and what it refuses."""

import copy
import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from cnn_jax import run, study
from cnn_jax.configuration.schema import (
    ClassicConfig,
    ClassificationConfig,
    ImageDataConfig,
    OptimizerConfig,
    TrainingConfig,
)
from cnn_jax.errors import InputError
from cnn_jax.records.run_record import records_in, study_groups
from cnn_jax.study import Study
from cnn_jax.tasks import model_config
from tests import running as commands
from tests.reporting.fake_records import write_run
from tests.running import Finished

MODULE = "experiments.example"


def config(model) -> ClassificationConfig:
    return ClassificationConfig(
        experiment="example",
        model=model,
        data=ImageDataConfig(source="folders", validation_share=0.25),
        training=TrainingConfig(steps=4, batch_size=4, validate_every_steps=2, log_every_steps=1),
        optimizer=OptimizerConfig(warmup_steps=1),
    )


def default() -> Study:
    """Two models, two seeds."""
    return Study(
        {
            "softmax": config(model_config("softmax_regression")),
            "mlp": config(model_config("mlp", widths=(4,))),
        },
        seeds=(0, 1),
    )


STUDIES = {"default": default}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Dark and bright images of 6x6, in a folder a class."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name, low in (("día", 128), ("noche", 0)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(low, low + 128, (6, 6), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture
def command(capsys, images, quick_compilation, few_pictures):
    def run(*arguments, pictures=None, directory=True, studies=STUDIES):
        capsys.readouterr()
        where = [f"--data.directory={images}"] if directory else []
        code = study.main(MODULE, studies, pictures, [*where, *map(str, arguments)])
        return Finished(code, *capsys.readouterr())

    return run


def test_every_variant_and_seed_is_a_record_and_a_second_call_runs_nothing(command, tmp_path):
    drawn = []
    finished = command(
        "--workdir",
        tmp_path / "s",
        pictures=lambda folder, records: drawn.append((folder, records)),
    )
    assert finished.code == 0, finished.err
    names = ["softmax-seed0", "softmax-seed1", "mlp-seed0", "mlp-seed1"]
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == sorted([*names, "figures"])
    for name in names:
        recorded = commands.read(tmp_path / "s" / name / "config.json")
        assert (recorded["configuration"], f"{recorded['variant']}-seed{recorded['seed']}") == (
            "default",
            name,
        )
        summary = commands.read(tmp_path / "s" / name / "summary.json")
        assert summary["test/images"] == 8
        assert np.array(summary["test/confusion"]).sum() == 8
    [(folder, records)] = drawn
    assert folder == tmp_path / "s" / "figures"
    assert [record.folder.name for record in records] == names
    assert [line["step"] for line in records[0].metrics if "validation/accuracy" in line] == [2, 4]
    table = finished.out[finished.out.rindex("variant ") :]
    assert {line.split()[0] for line in table.splitlines()[1:3]} == {"softmax", "mlp"}
    assert "±" in table

    before = {path: path.read_bytes() for path in (tmp_path / "s").rglob("*.json*")}
    again = command("--workdir", tmp_path / "s")
    assert again.code == 0
    assert again.out.count("holds this run, finished") == 4
    assert {path: path.read_bytes() for path in (tmp_path / "s").rglob("*.json*")} == before


def test_variants_and_seeds_are_chosen(command, tmp_path):
    assert command("--workdir", tmp_path / "s", "--variants", "mlp", "--seeds=1").code == 0
    assert [path.name for path in (tmp_path / "s").glob("*/summary.json")] == ["summary.json"]
    assert (tmp_path / "s" / "mlp-seed1" / "summary.json").exists()


def test_a_study_of_one_variant_and_seed_goes_on_as_the_whole(command, tmp_path):
    assert command("--workdir", tmp_path / "s", "--variants=mlp", "--seeds=1").code == 0
    assert command("--workdir", tmp_path / "s", "--seeds=1").code == 0
    assert command("--workdir", tmp_path / "t", "--seeds=1").code == 0
    for name in ("mlp-seed1", "softmax-seed1"):
        assert commands.summary(tmp_path / "s" / name) == commands.summary(tmp_path / "t" / name)


def test_changes_reach_every_variant_that_has_the_field(command, tmp_path):
    finished = command(
        "--workdir",
        tmp_path,
        "--model.widths",
        "3",
        "--training.steps",
        "2",
        "--seeds=5",
    )
    assert finished.code == 0, finished.err
    softmax, mlp = (
        commands.read(tmp_path / name / "config.json") for name in ("softmax-seed5", "mlp-seed5")
    )
    assert mlp["model"]["widths"] == [3]
    assert softmax["training"]["steps"] == mlp["training"]["steps"] == 2
    assert softmax["seed"] == mlp["seed"] == 5


def test_a_runs_own_configuration_repeats_it(command, tmp_path):
    command("--workdir", tmp_path / "s", "--variants=softmax", "--seeds", "0", "1")
    path = tmp_path / "s" / "softmax-seed1"
    again = command(
        "--config", path / "config.json", "--workdir", tmp_path / "again", directory=False
    )
    assert again.code == 0, again.err
    assert commands.summary(tmp_path / "again") == commands.summary(path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--variants=mpl"], ["names 'mpl'", "did you mean mlp"]),
        (["--seeds", "1", "x"], ["--seeds takes", "each a whole number, not '1 x'"]),
        (["--seed=3"], ["--seed is no flag", "did you mean --seeds"]),
        (["--config=defualt"], ["--config defualt", "did you mean default"]),
        (
            ["--model.width", "3"],
            [
                "--model.width is no flag",
                "did you mean --model.widths",
            ],
        ),
        (["--training.stepz=3"], ["did you mean --training.steps"]),
        (["--model.name="], ["model.name is ''"]),
        (["--model.name=unet"], ["no architecture for classification"]),
        (["--model.name=mlp"], ["--model.name mlp would be the network of softmax, mlp alike"]),
        (["--data.std"], ["data.mean and data.std need one value, or one a channel"]),
        (["--sedes=1"], ["--sedes is no flag", "--seeds"]),
        (["--training.steps=x"], ["takes a whole number"]),
        (["--difference", "0.05"], ["--difference is of --plan"]),
    ],
)
def test_mistakes_end_in_one_sentence_before_anything_runs(
    command, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    commands.assert_refused(command(*arguments), *words)
    assert not list(tmp_path.iterdir())


def test_a_seed_counts_once_however_often_it_is_named(command, tmp_path):
    drawn = []
    command("--workdir", tmp_path, "--variants=mlp", "--seeds=0")
    finished = command(
        "--workdir",
        tmp_path,
        "--variants",
        "mlp",
        "mlp",
        "--seeds",
        "0",
        "1",
        "0",
        pictures=lambda _, records: drawn.extend(records),
    )
    assert finished.code == 0, finished.err
    assert "run 2 of 2" in finished.out
    assert [record.folder.name for record in drawn] == ["mlp-seed0", "mlp-seed1"]


def test_only_the_chosen_variants_must_take_what_is_changed(command, tmp_path):
    finished = command(
        "--workdir",
        tmp_path,
        "--variants=mlp",
        "--seeds=0",
        "--model.name=cnn",
        "--model.pool_after",
        "1",
        "--model.widths",
        "2",
        "--model.no-global_average",
    )
    assert finished.code == 0, finished.err
    assert commands.read(tmp_path / "mlp-seed0" / "config.json")["model"]["name"] == "cnn"


def test_a_command_that_was_refused_late_leaves_the_folder_to_the_next(command, tmp_path):
    wrong = command(
        "--workdir",
        tmp_path,
        "--variants=mlp",
        "--seeds=0",
        "--model.name=cnn",
        "--model.padding=SAME",
        "--model.pool_after",
        "9",
    )
    commands.assert_refused(wrong, "pool_after is (9,)")
    assert command("--workdir", tmp_path, "--variants=mlp", "--seeds=0").code == 0


def test_other_seeds_of_another_budget_are_refused_before_anything_runs(command, tmp_path):
    assert command("--workdir", tmp_path, "--variants=mlp", "--seeds=0").code == 0
    held = sorted(tmp_path.rglob("*"))
    refused = command("--workdir", tmp_path, "--seeds=1", "--training.steps=6")
    commands.assert_refused(
        refused, "mlp-seed0 is mlp of another configuration (there, here): training.steps: 4, 6"
    )
    assert "run 1" not in refused.out
    assert sorted(tmp_path.rglob("*")) == held
    assert command("--workdir", tmp_path, "--variants=mlp", "--seeds=1").code == 0


def test_another_variant_of_another_budget_is_refused_before_anything_runs(command, tmp_path):
    assert command("--workdir", tmp_path, "--variants=softmax", "--seeds=0").code == 0
    held = sorted(tmp_path.rglob("*"))
    more = ("--workdir", tmp_path, "--variants=mlp", "--seeds=0")
    for words, said in (
        (["--training.steps=6"], "training.steps: 4, 6"),
        (["--training.batch-size=8"], "training.batch_size: 4, 8"),
        (["--data.image-px", "4", "4"], "data.image_px: [0, 0], [4, 4]"),
    ):
        refused = command(*more, *words)
        commands.assert_refused(
            refused, f"softmax-seed0 can't be compared with mlp (there, here): {said};"
        )
        assert "run 1" not in refused.out
    assert sorted(tmp_path.rglob("*")) == held
    # What a variant may have of its own.
    assert command(*more, "--optimizer.learning-rate=0.1").code == 0


def test_variants_that_the_study_gives_other_budgets_are_no_others(command, tmp_path):
    def made() -> Study:
        study = default()
        study.variants["mlp"].training.steps = 2
        return study

    for variant in ("softmax", "mlp"):
        words = ("--workdir", tmp_path, "--seeds=0", "--variants", variant)
        finished = command(*words, studies={"default": made})
        assert finished.code == 0, finished.err


def test_a_later_run_of_another_configuration_is_refused_before_anything_runs(command, tmp_path):
    assert command("--workdir", tmp_path, "--variants=mlp", "--seeds=0").code == 0
    held = sorted(tmp_path.rglob("*"))
    refused = command("--workdir", tmp_path, "--seeds=0", "--optimizer.learning-rate=0.5")
    said = "mlp-seed0 is mlp of another configuration (there, here): optimizer.learning_rate: "
    commands.assert_refused(refused, said)
    assert "run 1" not in refused.out
    assert sorted(tmp_path.rglob("*")) == held


def test_studies_that_run_the_same_share_their_runs(command, tmp_path):
    studies = {"default": default, "other": default}
    words = ("--workdir", tmp_path)
    assert command(*words, "--variants=mlp", "--seeds=0", studies=studies).code == 0
    other = command(*words, "--config=other", studies=studies)
    assert other.code == 0, other.err
    assert other.out.count("holds this run, finished") == 1
    table = other.out[other.out.rindex("variant ") :].splitlines()[1:3]
    assert sorted(line.split()[:2] for line in table) == [["mlp", "2"], ["softmax", "2"]]
    # What is resumed has checkpoints of its own study.
    (tmp_path / "mlp-seed0" / "summary.json").unlink()
    refused = command(*words, "--config=other", studies=studies)
    said = (
        "mlp-seed0 is mlp of another configuration (there, here): configuration: 'default', 'other'"
    )
    commands.assert_refused(refused, said)
    assert "run 1" not in refused.out


def test_a_renamed_run_is_refused_before_its_seed_is_run_again(command, tmp_path):
    words = ("--workdir", tmp_path, "--variants=mlp")
    assert command(*words, "--seeds=0").code == 0
    own, kept = tmp_path / "mlp-seed0", tmp_path / "the best"
    own.rename(kept)
    said = f"{own} and {kept} would both be mlp with seed 0: move one of them out of {tmp_path}."
    refused = command(*words, "--seeds=0")
    commands.assert_refused(refused, said)
    assert "run 1" not in refused.out
    shutil.copytree(kept, own)
    commands.assert_refused(command(*words, "--seeds=1"), "would both be mlp with seed 0")
    shutil.rmtree(kept)
    assert command(*words, "--seeds=0").code == 0


def test_a_study_that_was_stopped_has_its_groups(command, tmp_path, monkeypatch):
    grouped = {"default": lambda: dataclasses.replace(default(), groups={"g": ("softmax", "mlp")})}
    trained, train = [], run.train_and_evaluate

    def once(*arguments, **options):
        if trained:
            raise KeyboardInterrupt
        trained.append(train(*arguments, **options))

    monkeypatch.setattr(run, "train_and_evaluate", once)
    assert command("--workdir", tmp_path, studies=grouped).code == 130
    assert study_groups(records_in([tmp_path])) == {"g": ["softmax", "mlp"]}


def test_a_study_that_is_refused_leaves_no_folder(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begun = {"begun": lambda: dataclasses.replace(default(), begins={"mlp": ""})}
    commands.assert_refused(command(studies=begun), "--initial is missing")
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("example-")]


def test_weights_that_do_not_fit_a_later_variant_are_refused_before_anything_runs(
    command, tmp_path
):
    assert command("--workdir", tmp_path / "given", "--variants=mlp", "--seeds=0").code == 0

    def begun() -> Study:
        variants = {
            "scratch": config(model_config("mlp", widths=(4,))),
            "fits": config(model_config("mlp", widths=(4,))),
            "wide": config(model_config("mlp", widths=(5,))),
        }
        return Study(variants, begins={"scratch": ""})

    def run(*arguments):
        given = tmp_path / "given" / "mlp-seed0"
        where = ("--workdir", tmp_path / "s", "--initial", given)
        return command(*where, *arguments, studies={"begun": begun})

    refused = run()
    commands.assert_refused(refused, "mlp-seed0 doesn't fit the network", "[5] in the network")
    assert "run 1" not in refused.out
    assert not (tmp_path / "s").exists()
    finished = run("--variants", "scratch", "fits")
    assert finished.code == 0, finished.err
    assert finished.out.count("begins with the whole network") == 1
    more = run("--variants", "scratch", "fits", "--seeds", 0, 1)
    assert more.code == 0, more.err
    assert more.out.count("holds this run, finished") == 2


def test_help_names_variants_seeds_and_fields(command):
    finished = command("--help", directory=False)
    assert finished.code == 0
    assert "variants softmax, mlp; seeds 0, 1" in finished.out
    assert finished.out.count("--training.patience INT") == 1
    assert "--model.widths [INT ...]" in finished.out
    for word in (
        "--variants",
        "--seeds",
        "--workdir",
        "training.patience",
        "augmentation.mixup-alpha",
        "Two models, two seeds.",
    ):
        assert word in finished.out, word


def test_a_file_of_somebodys_is_not_replaced_by_the_groups(command, tmp_path):
    grouped = {"default": lambda: dataclasses.replace(default(), groups={"g": ("softmax", "mlp")})}
    notes = tmp_path / "study.json"
    notes.write_text("notes", encoding="utf-8")
    refused = command("--workdir", tmp_path, studies=grouped)
    commands.assert_refused(refused, f"{notes} wasn't written by this command", "--workdir")
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["notes"]
    notes.unlink()
    for _ in range(2):  # its own is
        arguments = ["--workdir", tmp_path, "--training.steps=2", "--variants=softmax"]
        assert command(*arguments, "--seeds=0", studies=grouped).code == 0
    assert '"groups"' in notes.read_text(encoding="utf-8")


def test_studies_are_made_anew(command, tmp_path):
    """A change on one command line stays out of the next."""
    before = copy.deepcopy(default().variants)
    command("--workdir", tmp_path, "--training.steps=2", "--variants=softmax", "--seeds=0")
    assert default().variants == before


def test_a_plan_runs_nothing(command, tmp_path):
    for variant, scores in {"softmax": (0.5, 0.52), "mlp": (0.7, 0.73)}.items():
        for seed, score in enumerate(scores):
            config = {"task": "classification", "configuration": "default"}
            folder = tmp_path / "s" / f"{variant}-seed{seed}"
            write_run(folder, variant, seed, {"test/accuracy": score}, config=config)
    before = sorted(tmp_path.rglob("*"))
    finished = command("--plan", "--difference", 0.1, "--workdir", tmp_path / "s")
    assert finished.code == 0
    assert "tell a difference of 0.1 accuracy with power 0.8" in finished.out
    assert "All variants: 2 variants, 1 pair" in finished.out
    assert "seeds: 2 a variant" in finished.out
    assert "these records are of dubai" in finished.out
    assert sorted(tmp_path.rglob("*")) == before
    missing = command("--plan", "--workdir", tmp_path / "nowhere")
    assert missing.code == 2
    assert "has no records to plan from" in missing.err


def test_a_plan_is_of_the_variants_and_seeds_asked_for(command, tmp_path):
    for variant in ("softmax", "mlp", "peer"):  # which another command made in the same folder
        for seed, score in enumerate((0.5, 0.52, 0.53)):
            config = {"task": "classification", "configuration": "default"}
            folder = tmp_path / "s" / f"{variant}-seed{seed}"
            write_run(folder, variant, seed, {"test/accuracy": score}, config=config)
    plan = ["--plan", "--workdir", tmp_path / "s"]
    assert "All variants: 3 variants, 3 pairs" in command(*plan).out
    asked = command(*plan, "--variants", "softmax", "mlp", "--seeds", 0, 2).out
    assert "Seen so far: 2 variants" in asked
    assert "2 seeds a variant" in asked
    assert "All variants: 2 variants, 1 pair" in asked
    commands.assert_refused(command(*plan, "--seeds", 3), "there is no record to compare")
    config |= {"training": {"steps": 3000, "batch_size": 8}}
    write_run(tmp_path / "s" / "long", "long", 0, {"test/accuracy": 0.6}, config=config)
    commands.assert_refused(
        command(*plan), "training.steps is 3000 in s/long, 1500 in", "choose", "--variants"
    )
    assert command(*plan, "--variants", "softmax", "mlp").code == 0


def test_a_plan_of_methods_that_take_no_steps_speaks_of_seeds_alone(command, tmp_path):
    methods = {"forest": "random_forest", "svm": "svm"}
    made = Study({n: ClassicConfig(model=model_config(m)) for n, m in methods.items()})
    for variant, scores in {"forest": (0.5, 0.52), "svm": (0.7, 0.73)}.items():
        for seed, score in enumerate(scores):
            config = {"task": "classic", "configuration": "default", "training": {}}
            folder = tmp_path / "s" / f"{variant}-seed{seed}"
            write_run(folder, variant, seed, {"test/accuracy": score}, config=config)
    finished = command(
        "--plan", "--workdir", tmp_path / "s", directory=False, studies={"default": lambda: made}
    )
    assert finished.code == 0, finished.err
    assert "2 variants, 1 pair\n  seeds: 4 a variant" in finished.out
    assert "steps" not in finished.out


def test_folds_are_studies_of_their_own_and_a_page(command, tmp_path):
    folder = tmp_path / "s"
    words = ("--workdir", folder, "--folds=3", "--seeds=0")
    finished = command(*words)
    assert finished.code == 0, finished.err
    tests = []
    for fold in range(3):
        for variant in ("softmax", "mlp"):
            record = folder / f"fold{fold}" / f"{variant}-seed0"
            data = commands.read(record / "config.json")["data"]
            assert (data["folds"], data["fold"]) == (3, fold)
        tests.append(commands.read(record / "environment.json")["data_fingerprint"])
    assert len(set(tests)) == 3
    text = (folder / "folds.md").read_text(encoding="utf-8")
    assert text.startswith("# 2 variants, 3 folds\n")
    assert text in finished.out
    with pytest.raises(InputError, match=r"holds studies \(fold0, fold1, fold2\)"):
        records_in([folder])
    finished = command("--workdir", folder, "--folds=4", "--seeds=0")
    assert finished.code == 2
    said = "fold0/mlp-seed0 is mlp of another configuration (there, here): data.folds: 3, 4;"
    assert said in finished.err
    (folder / "folds.md").write_bytes(b"\xff mine")
    finished = command(*words)
    assert finished.code == 2
    assert "folds.md wasn't written by this command" in finished.err
    assert (folder / "folds.md").read_bytes() == b"\xff mine"


def test_folds_of_one_variant_are_shown_again(command, tmp_path):
    words = ("--workdir", tmp_path, "--folds=3", "--seeds=0", "--variants=softmax")
    assert command(*words).code == 0
    text = (tmp_path / "folds.md").read_text(encoding="utf-8")
    assert text.startswith("# 1 variant, 3 folds\n")
    again = command(*words)
    assert again.code == 0, again.err
    assert again.out.count("holds this run, finished") == 3
    assert (tmp_path / "folds.md").read_text(encoding="utf-8") == text


def test_folds_that_the_data_cannot_have_are_refused_before_anything_runs(command, tmp_path):
    for words, said in (
        (("--folds=2",), "at least 3"),
        (("--folds=3", "--data.fold=1"), "data.fold"),
        (("--folds=3", "--data.folds=3"), "leave these out"),
    ):
        finished = command("--workdir", tmp_path / "s", *words)
        assert finished.code == 2
        assert said in finished.err
        assert not (tmp_path / "s").exists()
