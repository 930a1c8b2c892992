"""Configurations: the command line, records, digests, and the sentence that each mistake ends
in."""

import copy
import dataclasses
import hashlib
import json
import re
from typing import Literal, get_args

import pytest

import cnn_jax
from cnn_jax import tasks
from cnn_jax.configuration import command_line, documents, schema
from cnn_jax.configuration.documents import differences, digest
from cnn_jax.configuration.schema import (
    ClassificationConfig,
    SegmentationConfig,
    check_fields,
    leaves,
    setting,
)
from cnn_jax.errors import InputError
from cnn_jax.run import configured
from cnn_jax.tasks import build_model, check, config_from_dict, model_config


def default():
    """The first."""
    return SegmentationConfig(
        experiment="aerial", configuration="default", model=model_config("unet", base_width=16)
    )


def other():
    """Another seed.

    And a second paragraph."""
    config = default()
    config.configuration, config.seed = "other", 7
    return config


CONFIGURATIONS = {"default": default, "other": other}


def parse(*arguments):
    return configured("prog", CONFIGURATIONS, arguments)[0]


def get(config, path):
    for name in path.split("."):
        config = getattr(config, name)
    return config


def changed(config, path, value):
    """A copy with one field set."""
    config = copy.deepcopy(config)
    *sections, name = path.split(".")
    setattr(get(config, ".".join(sections)) if sections else config, name, value)
    return config


def another(option, value):
    """A value of the field's type that is allowed and differs."""
    if option.metadata["choices"]:
        if isinstance(value, tuple):
            return tuple(c for c in option.metadata["choices"] if c not in value)[:1]
        return next(
            (c for c in option.metadata["choices"] if c != value), value + "x"
        )  # where there is one, it can't be allowed
    if isinstance(value, tuple):
        return tuple(another(option, v) for v in value) or (get_args(option.type)[0]("8"),)
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, float) and option.metadata["unit"] == "0 to 1":
        return value / 3 + 0.2
    return value + type(value)(1)


# ---- the command line


def test_without_arguments_the_first_configuration_is_taken_as_it_is():
    assert parse() == default()
    check(parse())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config=other",),
        ("--config", "other"),
        ("--config=default", "--config=other"),
        ("--data.source=synthetic", "--config=other"),
    ],
)
def test_a_configuration_is_chosen_by_name(arguments):
    assert parse(*arguments) == other()


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        ("--seed=3", "seed", 3),
        ("--training.steps=1_000", "training.steps", 1000),
        ("--training.steps 60", "training.steps", 60),
        ("--optimizer.learning_rate=1e-4", "optimizer.learning_rate", 1e-4),
        ("--optimizer.learning-rate 1e-4", "optimizer.learning_rate", 1e-4),
        ("--optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
        ("--optimizer.name=sgd", "optimizer.name", "sgd"),
        ("--data.directory=/a_folder/ü", "data.directory", "/a_folder/ü"),
        ("--data.source=a=b", "data.source", "a=b"),
        ("--data.source=--b", "data.source", "--b"),
        ("--model.no-skips", "model.skips", False),
        ("--model.no_skips", "model.skips", False),
        ("--training.remat", "training.remat", True),
        ("--model.norm=group", "model.norm", "group"),
        ("--model.dropout=0.5", "model.dropout", 0.5),
        ("--data.crop_px 10 20", "data.crop_px", (10, 20)),
        ("--data.crop-px 10 20", "data.crop_px", (10, 20)),
        ("--data.crop-px=10 20", "data.crop_px", (10, 20)),
        ("--data.mean 0 1 0.5", "data.mean", (0.0, 1.0, 0.5)),
        ("--data.test_groups=8", "data.test_groups", ("8",)),
        ("--data.test_groups 8 7", "data.test_groups", ("8", "7")),
        ("--data.test_groups=north", "data.test_groups", ("north",)),
        ("--data.test_groups", "data.test_groups", ()),
        ("--data.test_groups=", "data.test_groups", ()),
        ("--data.test_groups=2_13", "data.test_groups", ("2_13",)),
        ("--data.test_groups 8.10 Tile_8", "data.test_groups", ("8.10", "Tile_8")),
    ],
)
def test_an_override_sets_one_field_with_its_type(arguments, path, value):
    config = parse(*arguments.split())
    assert get(config, path) == value
    assert type(get(config, path)) is type(value)
    if isinstance(value, tuple):
        assert [type(v) for v in get(config, path)] == [type(v) for v in value]
    assert config == changed(default(), path, value)


def test_a_value_may_hold_spaces():
    assert parse("--data.test_groups", "a", "b c").data.test_groups == ("a", "b c")
    assert parse("--data.directory", "/a folder/ü").data.directory == "/a folder/ü"


def test_a_value_may_follow_as_its_own_argument_and_the_last_one_counts():
    assert parse("--seed", "4").seed == 4
    assert parse("--seed=1", "--seed=2").seed == 2
    assert parse("--seed=1", "--config=other").seed == 1


def test_the_home_folder_may_be_called_by_its_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.json").write_text(documents.to_json(other()), encoding="utf-8")
    config, flags = configured(
        "prog",
        CONFIGURATIONS,
        ["--config=~/config.json", "--workdir=~/a b", "--data.directory", "~", "--data.source=~/x"],
    )
    assert (config.seed, flags.workdir) == (7, f"{tmp_path}/a b")
    assert (config.data.directory, config.data.source) == (f"{tmp_path}", f"{tmp_path}/x")
    assert parse("--data.directory=a~b").data.directory == "a~b"


def test_further_flags_are_given_back_and_have_defaults():
    def read(*arguments):
        return configured("prog", CONFIGURATIONS, arguments)[1].workdir

    assert read() == ""
    assert read("--workdir=a b", "--config=other") == "a b"
    assert read("--workdir", "x") == "x"


@dataclasses.dataclass
class Statistics:
    """A field of one type or another."""

    mean: tuple[float, ...] | Literal["auto"] = setting("auto", "one a channel, or auto")


def test_a_field_may_be_of_one_type_or_another():
    def read(*arguments):
        (held,), unknown = command_line.parse(arguments, Statistics())
        assert not unknown
        check_fields(held)
        return held.mean

    assert read() == read("--mean", "auto") == "auto"
    assert read("--mean", "0.5", "1") == (0.5, 1.0)
    with pytest.raises(InputError, match=r"^--mean takes a tuple of any .* or auto, not 'aut'\.$"):
        read("--mean", "aut")
    with pytest.raises(InputError, match=r"^mean takes a tuple of any .* or auto, not 'aut'\.$"):
        check_fields(Statistics("aut"))
    held = Statistics([1, 2])
    check_fields(held)
    assert held.mean == (1.0, 2.0)


def test_parsing_twice_starts_afresh():
    assert parse("--seed=5").seed == 5
    assert parse().seed == 0


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--sed=1", "--sed is no flag: did you mean --seed."),
        (
            "--learning_rate=1",
            "--learning_rate is no flag: did you mean --optimizer.learning_rate.",
        ),
        (
            "--training.batchsize=1",
            "--training.batchsize is no flag: did you mean --training.batch_size",
        ),
        ("--data=3", "--data is no flag"),
        ("--xyzzy=3", "--xyzzy is no flag: --help lists them all."),
        ("--model.no-skip", "--model.no-skip is no flag: did you mean --model.skips"),
        (
            "--model.name=unnet",
            "--model.name unnet is no architecture for segmentation: did you mean unet or"
            " upernet or linknet.",
        ),
        ("--task=classic", "--task can't be changed: choose another --config instead."),
        ("--configuration=x", "--configuration can't be changed: choose another --config instead."),
        ("--confg=other", "--confg is no flag: did you mean --config."),
        ("--wrkdir=1", "--wrkdir is no flag: did you mean --workdir."),
        (
            "--config=othr",
            (
                "--config othr is neither a configuration nor the path of a recorded config.json:"
                " did you mean other."
            ),
        ),
        ("--config", "--config needs a value"),
        ("--flagfile=flags.txt", "--flagfile is no flag"),
        ("-config=other", "-config is no flag: did you mean --config."),
        ("--config.seed=3", "--config.seed is no flag: did you mean --seed"),
        ("--seed=4294967296", "seed is 4294967296; it must be less than 2**32"),
        (
            "--model.dtype=float99",
            "model.dtype is 'float99': did you mean float32 or bfloat16",
        ),
        ("--model.base_width=0", "model.base_width is 0; it must be at least 1"),
        ("--model.dropout=1.5", "model.dropout is 1.5; it must lie between 0 and 1"),
        ("--config=missing.json", "missing.json can't be read (No such file or directory)"),
        ("x", "'x' is not understood: write values as --section.field VALUE"),
        ("--seed 3 x", "'x' is not understood: --seed takes one value."),
        ("--seed", "--seed needs a value: a whole number."),
        ("--seed=abc", "--seed takes a whole number, not 'abc'."),
        ("--seed=1.5", "--seed takes a whole number, not '1.5'."),
        ("--model.base_width=3.5", "--model.base_width takes a whole number, not '3.5'."),
        ("--model.skips=maybe", "'maybe' is not understood: write values as --section.field VALUE"),
        ("--optimizer.learning_rate=fast", "--optimizer.learning_rate takes a number, not 'fast'."),
        ("--data.crop_px=10", "--data.crop_px takes a tuple of 2, each a whole number, not '10'."),
        ("--data.crop_px 1 2 3", "--data.crop_px takes a tuple of 2, each a whole number"),
        ("--data.crop_px 1 2.5", "--data.crop_px takes a tuple of 2, each a whole number"),
        ("--optimizer.name=adam", "optimizer.name is 'adam': did you mean adamw."),
        (
            "--loss.class_weights=xyz",
            "loss.class_weights is 'xyz': it must be one of inverse, median, none.",
        ),
        ("--seed=-1", "seed is -1; it must be at least 0."),
        ("--training.steps=0", "training.steps is 0; it must be at least 1."),
        ("--data.crop_px 10 0", "data.crop_px is (10, 0); it must be at least 1."),
        ("--optimizer.learning_rate=nan", "optimizer.learning_rate is nan; it must be finite."),
        ("--optimizer.learning_rate=inf", "optimizer.learning_rate is inf; it must be finite."),
        ("--data.mean 0 nan 0", "data.mean is (0.0, nan, 0.0); it must be finite."),
        ("--loss.label_smoothing=1.5", "loss.label_smoothing is 1.5; it must lie between 0 and 1."),
        ("--data.std 0.2 0 0.2", "data.std is (0.2, 0.0, 0.2); every value must be above 0."),
        (
            "--training.accumulate=3",
            "training.batch_size is 4, which training.accumulate=3 does not divide",
        ),
        (
            "--evaluation.context_px=144",
            "evaluation.context_px is 144, which leaves nothing of a window of (288, 512)",
        ),
        (
            "--optimizer.warmup_steps=-1",
            "optimizer.warmup_steps is -1; it must be at least 0.",
        ),
    ],
)
def test_a_mistake_ends_in_one_sentence_that_names_it(argument, sentence):
    with pytest.raises(InputError) as caught:
        parse(*argument.split())
    message = str(caught.value)
    assert message.startswith(sentence)
    assert message.endswith(".")
    assert "\n" not in message


# ---- models


def test_a_model_section_has_the_modules_options_and_builds_it():
    section = model_config("unet", base_width=8, skips=False)
    names = [option.name for option in dataclasses.fields(section)]
    assert names == [
        "name",
        "base_width",
        "depth",
        "norm",
        "upsampling",
        "dropout",
        "skips",
        "dtype",
    ]
    assert all(option.metadata["help"] for option in dataclasses.fields(section))
    model = build_model(section, num_classes=5, axis_name="data")
    assert (model.num_classes, model.base_width, model.skips, model.axis_name) == (
        5,
        8,
        False,
        "data",
    )


def test_unknown_models_and_options_are_input_errors_with_the_nearest_names():
    with pytest.raises(
        InputError, match=r"^model\.name is 'u-net', which is no architecture: did you mean unet"
    ):
        model_config("u-net")
    with pytest.raises(
        InputError, match=r"^model\.base_with is no option of unet: did you mean base_width\.$"
    ):
        model_config("unet", base_with=8)
    with pytest.raises(InputError, match=r"^model\.num_classes is no option"):
        model_config("unet", num_classes=8)


def test_a_network_of_a_file_that_postpones_its_annotations_has_the_types_of_its_options(
    monkeypatch,
):
    names = {}
    exec(
        compile(
            "from __future__ import annotations\n"
            "from flax import linen as nn\n"
            "class Postponed(nn.Module):\n"
            "    num_classes: int\n"
            "    widths: tuple[int, ...] = (4, 8)\n"
            "    axis_name: str | None = None\n",
            "postponed.py",
            "exec",
        ),
        names,
    )
    monkeypatch.setitem(tasks.of("segmentation").models, "postponed", names["Postponed"])
    config = default()
    config.model = model_config("postponed", widths=[2])
    check(config)
    assert config.model.widths == (2,)
    config.model.widths = ("2",)
    with pytest.raises(InputError, match=r"^model\.widths takes a whole number, not '2'\.$"):
        check(config)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("seeds", 1, "unknown field 'seeds'; did you mean seed."),
        ("training.step", 9, "unknown field 'training.step'; did you mean steps."),
        ("model.base_with", 9, "unknown field 'model.base_with'; did you mean base_width."),
        ("training", {"steps": 9}, "training is {'steps': 9}; give a TrainingConfig."),
        ("data", None, "data is None; give a DataConfig."),
        ("data.source", default(), "data.source takes text, not a SegmentationConfig."),
        ("model", "unet", "model is a str; give what cnn_jax.model_config makes"),
        ("model", cnn_jax.MODELS["unet"](num_classes=2), "model is a UNet; give what"),
    ],
)
def test_what_python_sets_beside_the_fields_is_refused(path, value, said):
    """A misspelt field would be set, and the run would be another than the one that was meant."""
    config = changed(default(), path, value)
    with pytest.raises(InputError, match=f"^{re.escape(said)}"):
        check(config)


# ---- records


def record(config):
    return json.loads(documents.to_json(config))


def everything_changed():
    """A configuration in which no field that has a choice has its default, but for data.on_device,
    which pmap refuses, and for folds, which refuse groups (see `folded`)."""
    config = default()
    for path, option, value in list(leaves(config)):
        if path != "model.name" and len(option.metadata["choices"]) != 1:
            config = changed(config, path, another(option, value))
    config.training.batch_size, config.training.accumulate, config.evaluation.context_px = 6, 2, 33
    config.loss.further, config.loss.weights = ("dice",), (0.5, 2.0)
    config.optimizer.schedule, config.data.on_device = "drops", False
    config.data.folds = config.data.fold = config.data.split_seed = 0
    return config


def folded():
    config = default()
    config.data.source, config.data.folds, config.data.fold = "dubai", 5, 2
    config.data.split_seed = 3
    return config


@pytest.mark.parametrize("make", [default, other, everything_changed, folded])
def test_a_configuration_survives_its_record(make):
    config = make()
    again = config_from_dict(record(config))
    for path, _, value in leaves(config):
        assert get(again, path) == value, path
        assert type(get(again, path)) is type(value), path
    assert again == config
    assert documents.to_json(again) == documents.to_json(config)
    assert digest(again) == digest(config)


def test_everything_changed_is_really_changed():
    """Or the test above would say less than it seems to."""
    same = [
        path for path, _, value in leaves(everything_changed()) if get(default(), path) == value
    ]
    folds = ["data.folds", "data.fold", "data.split_seed"]
    assert same == ["task", "model.name", *folds, "data.on_device"]
    assert not set(folds) & {
        path for path, _, value in leaves(folded()) if get(default(), path) == value
    }


def test_a_recorded_file_is_a_configuration_and_takes_overrides(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(documents.to_json(everything_changed()), encoding="utf-8")
    assert parse(f"--config={path}") == everything_changed()
    assert parse(f"--config={path}", "--seed=9") == changed(everything_changed(), "seed", 9)


def _drop(section, name):
    def change(held):
        (held[section] if section else held).pop(name)

    return change


def _put(section, name, value):
    def change(held):
        (held[section] if section else held)[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            _put("training", "batchsize", 3),
            "config.json: training.batchsize is no field: did you mean batch_size.",
        ),
        (_put("", "trainin", {}), "config.json: trainin is no field: did you mean training."),
        (_drop("training", "steps"), "config.json: training.steps is missing; add it."),
        (_drop("", "data"), "config.json: data is missing; add it."),
        (_drop("model", "base_width"), "config.json: model.base_width is missing; add it."),
        (
            _put("model", "basewidth", 3),
            "config.json: model.basewidth is no field: did you mean base_width.",
        ),
        (_put("", "data", 3), "config.json: data must be an object."),
        (
            _put("", "model", None),
            "config.json: model must be an object with the architecture's name.",
        ),
        (
            _put("model", "name", "softmax_regresion"),
            (
                "model.name is 'softmax_regresion', which is no architecture: did you mean"
                " softmax_regression or logistic_regression."
            ),
        ),
        (_put("", "seed", "3"), "config.json: seed takes a whole number, not '3'."),
        (_put("", "seed", True), "config.json: seed takes a whole number, not True."),
        (_put("", "seed", 3.0), "config.json: seed takes a whole number, not 3.0."),
        (_put("", "seed", None), "config.json: seed takes a whole number, not None."),
        (_put("model", "skips", 1), "config.json: model.skips takes True or False, not 1."),
        (
            _put("data", "crop_px", [1]),
            "config.json: data.crop_px takes a tuple of 2, each a whole number, not [1].",
        ),
        (
            _put("data", "crop_px", "12"),
            "config.json: data.crop_px takes a tuple of 2, each a whole number, not '12'.",
        ),
        (
            _put("data", "crop_px", [1, "2"]),
            "config.json: data.crop_px takes a whole number, not '2'.",
        ),
        (_put("optimizer", "name", "adam"), "optimizer.name is 'adam': did you mean adamw."),
        (_put("training", "steps", 0), "training.steps is 0; it must be at least 1."),
    ],
)
def test_a_wrong_record_is_an_input_error_that_names_the_field(change, sentence):
    held = record(default())
    change(held)
    with pytest.raises(InputError) as caught:
        config_from_dict(held)
    assert str(caught.value) == sentence


def test_a_file_that_is_no_record_is_an_input_error(tmp_path):
    broken, listed = tmp_path / "broken.json", tmp_path / "list.json"
    broken.write_text("{", encoding="utf-8")
    listed.write_text("[1]", encoding="utf-8")
    with pytest.raises(InputError, match=r"broken\.json is not valid JSON"):
        tasks.read_config(broken)
    with pytest.raises(InputError, match=r"list\.json must hold an object"):
        tasks.read_config(listed)
    with pytest.raises(InputError, match="can't be read"):
        tasks.read_config(tmp_path)


def test_whole_numbers_pass_as_floats_and_lists_as_tuples():
    held = record(default())
    held["optimizer"]["learning_rate"], held["data"]["std"] = 1, [1, 1, 1]
    config = config_from_dict(held)
    assert type(config.optimizer.learning_rate) is float
    assert config.data.std == (1.0, 1.0, 1.0)


# ---- digests


def test_the_digest_is_sixteen_hexadecimal_digits():
    assert re.fullmatch("[0-9a-f]{16}", digest(default()))
    assert digest(default()) == digest(default())


NO_RESULT = {
    "initial",  # a path; what lies there is initial_digest
    "data.directory",
    "data.memory_budget_gib",
    "data.prefetch_batches",
    "data.on_device",
    "training.keep_checkpoints",
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.fold": 1}, "data.fold is of data.folds: give that too."),
        ({"data.folds": 2}, "data.folds is 2; it must be at least 3"),
        ({"data.folds": 3, "data.fold": 3}, "data.fold is 3; with data.folds=3"),
        ({"data.group_pattern": "x"}, "data.group_pattern is for data.source folders"),
        ({"data.test_share": 0.0}, "data.test_share is 0.0; it must be at least 0.001"),
        ({"optimizer.schedule": "drops"}, "optimizer.drops are of optimizer.schedule='drops'"),
        ({"optimizer.drops": (3,)}, "optimizer.drops are of optimizer.schedule='drops'"),
        (
            {"optimizer.schedule": "drops", "optimizer.drops": (5, 3)},
            "optimizer.drops is (5, 3): give steps that rise.",
        ),
    ],
)
def test_settings_of_images_that_make_no_sense_are_refused(changes, said):
    config = ClassificationConfig(model=model_config("cnn"))
    for path, value in changes.items():
        config = changed(config, path, value)
    with pytest.raises(InputError, match=f"^{re.escape(said)}"):
        check(config)


@pytest.mark.parametrize("path", [path for path, _, _ in leaves(default())])
def test_the_digest_changes_with_every_field_that_can_change_a_result_and_with_no_other(path):
    option = next(option for p, option, _ in leaves(default()) if p == path)
    varied = changed(default(), path, another(option, get(default(), path)))
    assert (digest(varied) == digest(default())) == (path in NO_RESULT)
    expected = (
        [] if path in NO_RESULT else [f"{path}: {get(default(), path)!r}, {get(varied, path)!r}"]
    )
    assert differences(default(), varied) == expected


def test_fields_younger_than_a_record_mean_what_runs_did_before():
    """A record without them is read, keeps its digest, and equals the present default."""
    old = record(default())
    of_loss = [
        "activation",
        "boundary_px",
        "boundary_weight",
        "focal_gamma",
        "further",
        "tversky_alpha",
        "tversky_beta",
        "weights",
    ]
    younger = [
        "task",
        "variant",
        "training.patience",
        "training.remat",
        "data.on_device",
        "data.unlabelled",
        "data.folds",
        "data.fold",
        "data.split_seed",
        "initial",
        "initial_part",
        "initial_digest",
        *(f"optimizer.{name}" for name in ("drops", "frozen", "groups", "group_factors")),
        "optimizer.unfreeze_every_steps",
        *(f"loss.{name}" for name in of_loss),
    ]
    for path in younger:
        section, _, name = path.rpartition(".")
        del (old[section] if section else old)[name]
    assert config_from_dict(old) == default()
    values = {
        path: value
        for path, option, value in leaves(default())
        if option.metadata["result"] and path not in younger
    }
    text = json.dumps(values, sort_keys=True)
    assert digest(default()) == hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--loss.name=dise"], ["loss.name is 'dise'", "did you mean dice"]),
        (
            ["--loss.further", "focal", "lovasz"],
            ["loss.further is 'lovasz'", "did you mean lovasz_softmax"],
        ),
        (
            ["--loss.further=dice", "--loss.weights=1.0"],
            ["loss.weights has 1 values for 2 losses"],
        ),
        (
            ["--loss.further=dice", "--loss.weights", "0", "0"],
            ["loss.weights is (0.0, 0.0)", "nothing to train on"],
        ),
        (
            [
                "--loss.name=tversky",
                "--loss.tversky_alpha=0",
                "--loss.tversky_beta=0",
            ],
            ["loss.tversky_alpha and loss.tversky_beta are both 0"],
        ),
        (["--loss.activation=tanh"], ["softmax", "sigmoid"]),
        (
            ["--model.name=deeplabv3", "--model.output_stride=4"],
            ["model.output_stride is 4", "16", "8"],
        ),
        (
            ["--model.name=deeplabv3", "--model.encoder=vgg16"],
            ["model.encoder is 'vgg16'"],
        ),
        (["--model.name=deeplab"], ["did you mean deeplabv3"]),
        (
            ["--model.name=encoder_unet", "--model.encoder=resnet-34"],
            ["did you mean resnet34"],
        ),
    ],
)
def test_unknown_losses_models_and_output_strides_are_refused_with_the_nearest(arguments, words):
    with pytest.raises(InputError) as refused:
        parse(*arguments)
    for word in words:
        assert word in str(refused.value)


def test_losses_of_pixels_and_one_logit_are_refused_for_images():
    config = ClassificationConfig(model=model_config("mlp"))
    tasks.check(config)
    with pytest.raises(InputError, match="'dice', which is of pixels"):
        tasks.check(changed(config, "loss.further", ("focal", "dice")))
    with pytest.raises(InputError, match=r"loss\.activation is 'sigmoid'"):
        tasks.check(changed(config, "loss.activation", "sigmoid"))


def test_another_model_brings_its_own_options():
    def classify():
        return ClassificationConfig(model=model_config("mlp"))

    def parsed(*arguments):
        return configured("prog", {"default": classify}, arguments)[0]

    assert parsed().model.name == "mlp"
    config = parsed("--model.widths=8", "--model.name=mlp")
    assert config.model == model_config("mlp", widths=(8,))
    config = parsed("--model.norm=batch", "--model.name", "vgg11")
    assert config.model == model_config("vgg11", norm="batch")
    with pytest.raises(InputError, match=r"^--model\.widths is no flag"):
        parsed("--model.name=vgg11", "--model.widths=8")
    with pytest.raises(
        InputError, match=r"^--model\.name vgg12 is no architecture .*did you mean vgg1"
    ):
        parsed("--model.name=vgg12")
    with pytest.raises(
        InputError, match=r"^--model\.name unet is no architecture for classification"
    ):
        parsed("--model.name=unet")


def test_differences_also_name_fields_that_one_side_lacks():
    varied = default()
    varied.model = dataclasses.make_dataclass("Other", [("name", str, schema.setting("mlp", ""))])()
    found = differences(default(), varied)
    assert "model.base_width: 16, None" in found
    assert "model.name: 'unet', 'mlp'" in found


# ---- help


def printed(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        configured("experiments.aerial", CONFIGURATIONS, arguments)
    assert not ended.value.code
    return capsys.readouterr().out


def test_help_lists_every_field_with_type_default_and_unit(capsys):
    text = printed(capsys, "--help")
    assert text.startswith("usage: python -m experiments.aerial ")
    assert "\n  default  The first.\n  other    Another seed.\n" in text
    # Without the frames, and without the breaks of lines.
    entries = re.split(r" (?=--[\w.-]+[ ,])", " ".join(re.sub("[│╭╮╰╯─]", " ", text).split()))
    assert any(entry.startswith("--workdir TEXT folder of the run;") for entry in entries)
    types = {int: "INT", float: "FLOAT", str: "TEXT"}
    for path, option, value in leaves(default()):
        if path in schema.FIXED:
            continue
        flag = f"--{path.replace('_', '-')}"
        [entry] = [e for e in entries if e.split()[0].rstrip(",") == flag]
        if option.metadata["unit"]:
            assert f" [{option.metadata['unit']}]" in entry
        words = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        more = entries[entries.index(entry) + 1] if option.type is bool else entry
        assert not words or f"(default: {words})" in more
        if option.type in types and not option.metadata["choices"]:
            assert entry.startswith(f"{flag} {types[option.type]} ")
        assert option.metadata["help"]
        assert option.metadata["help"] in more
        assert all(choice in entry.partition("}")[0] for choice in option.metadata["choices"])
    assert any(e.startswith("--data.crop-px INT INT height and width") for e in entries)
    assert any(e.startswith("--data.test-groups [TEXT ...] groups") for e in entries)


def test_completion_prints_a_script_that_knows_flags_and_choices(capsys):
    script = printed(capsys, "--tyro-print-completion", "bash")
    assert "--training.batch-size" in script
    assert "lovasz_softmax" in script


@pytest.mark.parametrize(
    ("section", "field", "value", "words"),
    [
        ("training", "steps", -1, "training.steps is -1; it must be at least 1"),
        ("model", "name", "unet", "model.name is 'unet', which is not for classification"),
        ("data", "std", (0.0,), "data.std"),
    ],
)
def test_a_configuration_that_was_changed_in_python_is_checked(
    section, field, value, words, tmp_path
):
    config = ClassificationConfig(model=model_config("softmax_regression"))
    config.data.source = "no set"
    setattr(getattr(config, section), field, value)
    with pytest.raises(InputError, match=re.escape(words)):
        cnn_jax.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
