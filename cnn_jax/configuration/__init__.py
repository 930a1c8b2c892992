"""Typed configurations: what a run is made of, read from the command line or from a record.

A configuration is a tree of dataclasses. Every field is a `setting`, which knows its meaning, its
unit, the values it allows and whether it can change a result; the command line, `--help`, the
checks and the digest are all read off those.
"""

# Field types are read at run time by ml_collections, so annotations must stay real types here.

import copy
import dataclasses
import difflib
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from cnn_jax.configuration import strict_json
from cnn_jax.errors import InputError

MOST = {"px": 2**16, "model": 2**14, "whole": 2**31 - 1}
"""The greatest value of a length in px, of any number of a model's, and of other whole numbers."""


def setting(
    default,
    help,
    *,
    unit="",
    choices=(),
    at_least=None,
    at_most=None,
    result=True,
    absent=dataclasses.MISSING,
):
    """A configuration field.

    Args:
        default: its default value, or a dataclass type for a section.
        help: what it means, for `--help`.
        unit: the unit of its value, for `--help`.
        choices: the values allowed, where there are few.
        at_least: the least value allowed (of every element, for a tuple).
        at_most: the greatest; None is what `MOST` says, beyond which array sizes and step counts
            would overflow.
        result: whether it can change what a run computes. Fields that can't (where the data lie,
            how much memory is used) may differ between a run and its repetition, and stay out of
            the digest.
        absent: of a field younger than the first records, the value that means what runs did
            before; a record without the field is read as having it, and it stays out of the digest,
            so that old records keep theirs.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "choices": tuple(choices),
        "result": result,
        "absent": absent,
    }
    metadata |= {"at_least": at_least, "at_most": at_most}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class DataConfig:
    """Segmentation: which scenes, and how they become training crops."""

    source: str = setting(
        "synthetic",
        "synthetic, the name of a built-in description, or the path of a TOML description",
    )
    directory: str = setting(
        "", "folder that holds the photographs; not used by synthetic", result=False
    )
    test_groups: tuple[str, ...] = setting(
        (), "groups (tiles, sequences) for test; empty: the description's"
    )
    validation_groups: tuple[str, ...] = setting(
        (), "groups (tiles, sequences) for validation; empty: the description's"
    )
    unknown_colors: str = setting(
        "error", "what to do with a mask value outside the palette", choices=("error", "ignore")
    )
    unlabelled: str = setting(
        "error",
        "what to do with images without a mask; ignore: leave them out",
        choices=("error", "ignore"),
        absent="error",
    )
    crop_px: tuple[int, int] = setting(
        (144, 256), "height and width of a training crop", unit="px", at_least=1
    )
    mean: tuple[float, ...] | Literal["auto"] = setting(
        (0.5,),
        "subtracted from each channel, or from all, once the greatest value is 1; auto: the"
        " training data's",
    )
    std: tuple[float, ...] | Literal["auto"] = setting(
        (0.25,), "then divided by; auto: the training data's"
    )
    memory_budget_gib: float = setting(
        4.0,
        "decoded scenes kept in memory up to this; others are read again",
        unit="GiB",
        at_least=0,
        result=False,
    )
    on_device: bool = setting(
        False,
        "keep the training set whole on each device, within memory_budget_gib; the same results",
        result=False,
        absent=False,
    )
    prefetch_batches: int = setting(
        4, "batches read ahead of the device", unit="batches", at_least=1, result=False
    )
    scene_px: tuple[int, int] = setting(
        (288, 512), "synthetic only: height and width of a scene", unit="px", at_least=32
    )
    scene_counts: tuple[int, int, int] = setting(
        (24, 4, 8), "synthetic only: training, validation and test scenes", at_least=1
    )


@dataclass
class ImageDataConfig:
    """Classification: which labelled images, how they are split, and how they reach the model."""

    source: str = setting(
        "mnist",
        "a TFDS set of images and labels, such as mnist, cifar10 or imagenet2012; or folders",
    )
    directory: str = setting(
        "",
        "where TFDS sets are prepared (empty: $TFDS_DATA_DIR or ~/tensorflow_datasets), or the"
        " folder of images",
        result=False,
    )
    label_pattern: str = setting(
        "",
        "folders only: regular expression whose group is the label in a file's name; empty: one"
        " folder a class",
    )
    validation_share: float = setting(
        0.1, "of the training images, held out for validation", unit="0 to 1", at_least=0
    )
    split_seed: int = setting(
        0, "chooses what is held out; the same for every run seed", at_least=0
    )
    train_examples: int = setting(
        0, "train on so many images only, chosen by split_seed; 0: all", unit="images", at_least=0
    )
    image_px: tuple[int, int] = setting(
        (0, 0),
        "height and width that the model sees; (0,0): the images' own",
        unit="px",
        at_least=0,
    )
    crop_share: float = setting(
        1.0, "of the shorter side, kept by the central crop where images are resized", unit="0 to 1"
    )
    permuted: bool = setting(
        False,
        "shuffle the pixels of every image by one fixed permutation, to see who uses neighbourhood",
    )
    mean: tuple[float, ...] | Literal["auto"] = setting(
        (0.5,),
        "subtracted from each channel, or from all, once the greatest value is 1; auto: the"
        " training data's",
    )
    std: tuple[float, ...] | Literal["auto"] = setting(
        (0.25,), "then divided by; auto: the training data's"
    )
    memory_budget_gib: float = setting(
        4.0,
        "decoded images kept in memory up to this; others are read again",
        unit="GiB",
        at_least=0,
        result=False,
    )
    on_device: bool = setting(
        False,
        "keep the training set whole on each device, within memory_budget_gib; the same results",
        result=False,
        absent=False,
    )
    prefetch_batches: int = setting(
        4, "batches read ahead of the device", unit="batches", at_least=1, result=False
    )


@dataclass
class AugmentationConfig:
    """Random changes made on the device to image and mask together; each with its probability and
    its range."""

    flip_horizontal_probability: float = setting(0.5, "mirror left and right")
    flip_vertical_probability: float = setting(0.5, "mirror top and bottom")
    quarter_turn_probability: float = setting(0.5, "turn by 90, 180 or 270 degrees, equally likely")
    rotation_probability: float = setting(0.0, "turn by any angle")
    rotation_degrees: float = setting(15.0, "largest angle either way", unit="degrees")
    scale_probability: float = setting(1.0, "zoom")
    scale_range: tuple[float, float] = setting(
        (0.75, 1.5), "least and largest zoom, log-uniform; 2 doubles the size of things"
    )
    brightness_probability: float = setting(0.5, "add to all channels")
    brightness_delta: float = setting(0.15, "largest amount added either way", unit="0 to 1")
    contrast_probability: float = setting(0.5, "stretch about the mean")
    contrast_range: tuple[float, float] = setting((0.75, 1.25), "least and largest factor")
    saturation_probability: float = setting(0.5, "move from or to grey")
    saturation_range: tuple[float, float] = setting((0.7, 1.3), "least and largest factor")
    hue_probability: float = setting(0.0, "turn the colour wheel")
    hue_delta: float = setting(0.03, "largest turn either way", unit="turns")
    blur_probability: float = setting(0.0, "Gaussian blur")
    blur_sigma_px: tuple[float, float] = setting(
        (0.3, 1.2), "least and largest standard deviation", unit="px"
    )
    noise_probability: float = setting(0.0, "Gaussian noise")
    noise_std: tuple[float, float] = setting(
        (0.0, 0.05), "least and largest standard deviation", unit="0 to 1"
    )


@dataclass
class ImageAugmentationConfig(AugmentationConfig):
    """The same changes, all off unless asked for, and two more that only labelled images know."""

    flip_horizontal_probability: float = setting(0.0, "mirror left and right")
    flip_vertical_probability: float = setting(0.0, "mirror top and bottom")
    quarter_turn_probability: float = setting(0.0, "turn by 90, 180 or 270 degrees, equally likely")
    scale_probability: float = setting(0.0, "zoom")
    brightness_probability: float = setting(0.0, "add to all channels")
    contrast_probability: float = setting(0.0, "stretch about the mean")
    saturation_probability: float = setting(0.0, "move from or to grey")
    shift_px: int = setting(
        0, "largest shift along each axis, uniform; zeros come in", unit="px", at_least=0
    )
    mixup_alpha: float = setting(
        0.0,
        "blend pairs by shares of Beta(alpha, alpha) (Zhang et al., 2018); 0: never",
        at_least=0,
    )


LOSSES = ("cross_entropy", "focal", "dice", "jaccard", "tversky", "lovasz_softmax", "boundary")
"""What `loss.name` may be. Of whole images only the first two say anything."""


@dataclass
class LossConfig:
    """What the model is asked to make small."""

    name: str = setting("cross_entropy", "the loss, or the first of a weighted sum", choices=LOSSES)
    further: tuple[str, ...] = setting(
        (), "losses added to it, such as dice", choices=LOSSES, absent=()
    )
    weights: tuple[float, ...] = setting(
        (), "of the first and of each further loss; empty: 1 each", at_least=0, absent=()
    )
    activation: str = setting(
        "softmax",
        "over one logit a class, or sigmoid of one logit, for two classes",
        choices=("softmax", "sigmoid"),
        absent="softmax",
    )
    class_weights: str = setting(
        "none", "weigh classes by their pixels in training", choices=("none", "inverse", "median")
    )
    label_smoothing: float = setting(
        0.0, "share of the target spread evenly over all classes", unit="0 to 1", at_least=0
    )
    focal_gamma: float = setting(
        2.0, "focal: how much less a pixel counts that is nearly right", at_least=0, absent=2.0
    )
    tversky_alpha: float = setting(
        0.3, "tversky: what a false positive weighs", at_least=0, absent=0.3
    )
    tversky_beta: float = setting(
        0.7, "tversky: what a false negative weighs", at_least=0, absent=0.7
    )
    boundary_px: int = setting(
        3, "boundary: pixels so near to another class weigh more", unit="px", at_least=1, absent=3
    )
    boundary_weight: float = setting(
        5.0, "boundary: what they weigh; other pixels weigh 1", at_least=0, absent=5.0
    )


@dataclass
class OptimizerConfig:
    """How gradients become new weights."""

    name: str = setting("adamw", "the optimiser", choices=("adamw", "sgd"))
    learning_rate: float = setting(2e-3, "peak of the schedule", at_least=0)
    schedule: str = setting(
        "cosine", "from the peak to the end", choices=("cosine", "polynomial", "constant")
    )
    warmup_steps: int = setting(50, "linear rise from zero to the peak", unit="steps", at_least=0)
    end_factor: float = setting(
        0.01, "learning rate at the last step, as a share of the peak", unit="0 to 1", at_least=0
    )
    polynomial_power: float = setting(0.9, "exponent of the polynomial schedule", at_least=0)
    weight_decay: float = setting(
        1e-4, "decoupled; kernels only, never norms or biases", at_least=0
    )
    momentum: float = setting(0.9, "of sgd (Nesterov)", at_least=0)
    clip_norm: float = setting(
        1.0, "gradients are scaled down to this global norm; 0: never", at_least=0
    )
    ema_decay: float = setting(
        0.0,
        "moving average of the weights, used for evaluation; 0: none",
        unit="0 to 1",
        at_least=0,
    )


@dataclass
class TrainingConfig:
    """How many steps, of what, on which devices."""

    steps: int = setting(300, "optimiser steps", unit="steps", at_least=1)
    batch_size: int = setting(
        4, "examples (crops, images) a step, over all devices", unit="examples", at_least=1
    )
    accumulate: int = setting(
        1, "parts that a batch is computed in, to save memory", unit="parts", at_least=1
    )
    remat: bool = setting(
        False,
        "keep only convolutions' results for the gradient and compute the rest again; saves no"
        " memory on CPUs",
        absent=False,
    )
    parallelism: str = setting("jit", "how devices share a batch", choices=("jit", "pmap"))
    log_every_steps: int = setting(10, "steps between lines of metrics", unit="steps", at_least=1)
    validate_every_steps: int = setting(
        100, "steps between validations, each followed by a checkpoint", unit="steps", at_least=1
    )
    patience: int = setting(
        0,
        "stop early after so many validations without a better one; 0: never",
        unit="validations",
        at_least=0,
        absent=0,
    )
    keep_checkpoints: int = setting(
        2, "latest checkpoints kept, beside the best", unit="checkpoints", at_least=2, result=False
    )


@dataclass
class EvaluationConfig:
    """Segmentation: how predictions are made and counted: whole scenes, original resolution, every
    pixel once."""

    window_px: tuple[int, int] = setting(
        (288, 512), "height and width of what the model sees at once", unit="px", at_least=1
    )
    context_px: int = setting(
        32, "rim of a window that is seen but not counted, inside a scene", unit="px", at_least=0
    )
    batch_size: int = setting(
        2, "windows at once, rounded up to divide among devices", unit="windows", at_least=1
    )
    weights: str = setting(
        "last",
        "which checkpoint the final figures are of: last, or best by validation mIoU",
        choices=("last", "best"),
    )
    gallery_scenes: int = setting(
        4, "test scenes pictured: worst, best and between", unit="scenes", at_least=1
    )


@dataclass
class ImageEvaluationConfig:
    """Classification: how predictions are made and counted: every image once."""

    batch_size: int = setting(
        250, "images at once, rounded up to divide among devices", unit="images", at_least=1
    )
    weights: str = setting(
        "last",
        "which checkpoint the final figures are of: last, or best by validation accuracy",
        choices=("last", "best"),
    )
    train: bool = setting(
        False,
        "count the training images at the end too, as they are: no augmentation, no dropout",
        absent=False,
    )
    shifts_px: tuple[int, ...] = setting(
        (), "test again with images moved so far up, down, left and right", unit="px", at_least=1
    )
    pictured_images: int = setting(
        24, "misclassified test images pictured, the surest first", unit="images", at_least=1
    )


@dataclass
class SelectionConfig:
    """Classic methods: how k nearest neighbours get their k and distance, if not by model.k and
    model.distance."""

    ks: tuple[int, ...] = setting(
        (), "choose k among these, and the distance, by cross-validation; empty: don't", at_least=1
    )
    folds: int = setting(5, "parts that the training images are divided into", at_least=2)
    examples: int = setting(
        10_000, "training images used for the choice, drawn by the seed", unit="images", at_least=2
    )


@dataclass
class Config:
    """What every run has. `experiment`, `configuration` and `variant` say where it came from;
    `model` holds the options of one architecture or classic method."""

    task: str = setting("", "what is predicted, and by what", absent="segmentation")
    experiment: str = setting("", "the experiment that this configuration belongs to")
    configuration: str = setting("", "its name there")
    variant: str = setting(
        "", "which of the runs that are compared this is; one run alone has none", absent=""
    )
    seed: int = setting(0, "of initial weights, order and augmentation", at_least=0)
    model: Any = setting(None, "an architecture and its options")


@dataclass
class SegmentationConfig(Config):
    """A network that gives each pixel of a scene its class."""

    task: str = setting(
        "segmentation",
        "what is predicted, and by what",
        choices=("segmentation",),
        absent="segmentation",
    )
    data: DataConfig = setting(DataConfig, "data")
    augmentation: AugmentationConfig = setting(AugmentationConfig, "augmentation")
    loss: LossConfig = setting(LossConfig, "loss")
    optimizer: OptimizerConfig = setting(OptimizerConfig, "optimiser")
    training: TrainingConfig = setting(TrainingConfig, "training")
    evaluation: EvaluationConfig = setting(EvaluationConfig, "evaluation")


@dataclass
class ClassificationConfig(Config):
    """A network that gives each image its class."""

    task: str = setting(
        "classification",
        "what is predicted, and by what",
        choices=("classification",),
        absent="segmentation",
    )
    data: ImageDataConfig = setting(ImageDataConfig, "data")
    augmentation: ImageAugmentationConfig = setting(ImageAugmentationConfig, "augmentation")
    loss: LossConfig = setting(LossConfig, "loss")
    optimizer: OptimizerConfig = setting(OptimizerConfig, "optimiser")
    training: TrainingConfig = setting(TrainingConfig, "training")
    evaluation: ImageEvaluationConfig = setting(ImageEvaluationConfig, "evaluation")


@dataclass
class ClassicConfig(Config):
    """A classic method, without a network, that gives each image its class."""

    task: str = setting(
        "classic", "what is predicted, and by what", choices=("classic",), absent="segmentation"
    )
    data: ImageDataConfig = setting(ImageDataConfig, "data")
    selection: SelectionConfig = setting(SelectionConfig, "choice of k and distance")


TASKS = {
    "segmentation": SegmentationConfig,
    "classification": ClassificationConfig,
    "classic": ClassicConfig,
}
"""Task -> the configuration of a run of it."""

FIXED = ("task", "experiment", "configuration", "variant", "model.name")
"""Fields that say what a configuration is. Of these only the model's name can be given on the
command line, for another model."""


@functools.cache
def constructors(task: str = "") -> Mapping[str, Callable]:
    """What `model.name` may be, by name: the architectures and classic methods of a task, or of
    all."""
    from cnn_jax.classic.methods import METHODS
    from cnn_jax.models import CLASSIFIERS, SEGMENTERS

    tasks = {"segmentation": SEGMENTERS, "classification": CLASSIFIERS, "classic": METHODS}
    return (
        tasks[task]
        if task
        else {name: make for known in tasks.values() for name, make in known.items()}
    )


def model_config(name, /, **options):
    """The options of an architecture as a dataclass: `name`, then the fields of its module,
    documented by the module's docstring.

    Raises:
        InputError: no architecture or option has that name.
    """
    if name not in constructors():
        raise InputError(
            f"model.name is {name!r}, which is no architecture: {nearest(name, constructors())}."
        )
    section = _model_section(name)
    fields = [option.name for option in dataclasses.fields(section)]
    unknown = set(options) - set(fields)
    if unknown:
        option = min(unknown)
        raise InputError(f"model.{option} is no option of {name}: {nearest(option, fields)}.")
    return section(**options)


@functools.cache  # sections of one architecture have one type, so that equal ones compare equal
def _model_section(name):
    module, bound = constructors()[name], {}
    if isinstance(module, functools.partial):
        module, bound = module.func, module.keywords
    meanings = dict(re.findall(r"^        (\w+): (.+)$", module.__doc__ or "", re.MULTILINE))
    fields = [
        (
            "name",
            str,
            setting(name, "the architecture or method, which brings its own options of model"),
        )
    ]
    for option in dataclasses.fields(module):
        if option.name not in ("parent", "name", "num_classes", "axis_name", "crop_px", *bound):
            help = meanings.get(option.name, "").rstrip(".")
            fields.append(
                (option.name, option.type, setting(option.default, help, **option.metadata))
            )
    return dataclasses.make_dataclass(f"{module.__name__}Config", fields)


def build_model(section, **bound):
    """The Flax module, or classic method, that a `model` section describes; `bound` are further
    fields of it, such as `num_classes`. A `crop_px` is for those that have such a field."""
    options = {name: value for name, value in dataclasses.asdict(section).items() if name != "name"}
    make = constructors()[section.name]
    known = {option.name for option in dataclasses.fields(getattr(make, "func", make))}
    bound = {name: value for name, value in bound.items() if name != "crop_px" or name in known}
    return make(**options, **bound)


def nearest(word: str, words) -> str:
    """`did you mean ...` with the closest of `words`, or all of them where none is close."""
    words = [str(w) for w in words]
    close = difflib.get_close_matches(str(word), words, n=3, cutoff=0.5)
    return (
        f"did you mean {' or '.join(close)}"
        if close
        else f"it must be one of {', '.join(sorted(words))}"
    )


def leaves(config, prefix=""):
    """Every field that holds a value, not a section: yields (dotted path, dataclasses.Field,
    value)."""
    for option in dataclasses.fields(config):
        value = getattr(config, option.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{option.name}.")
        else:
            yield prefix + option.name, option, value


# ---- checks


def _typed(path: str, kind, value):
    """`value` as `kind` (int, float, str, bool or a tuple of them); whole numbers pass as
    floats."""
    if get_origin(kind) is Union:  # of a tuple and a word
        kind, word = get_args(kind)
        if value in get_args(word):
            return value
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise InputError(f"{path} takes {describe(kind)}, not {value!r}.")
        open_ended = len(kinds) == 2 and kinds[1] is Ellipsis
        if not open_ended and len(value) != len(kinds):
            raise InputError(f"{path} takes {describe(kind)}, not {value!r}.")
        if open_ended and kinds[0] is str:
            value = [str(v) if type(v) is int else v for v in value]  # a tile called 8 is a name
        return tuple(
            _typed(path, kinds[0] if open_ended else k, v)
            for k, v in zip(kinds[:1] * len(value) if open_ended else kinds, value, strict=True)
        )
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise InputError(f"{path} takes {describe(kind)}, not {value!r}.")
    return value


def describe(kind) -> str:
    """A type in words."""
    words = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
    if get_origin(kind) is Union:
        kind = get_args(kind)[0]
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if kinds[-1] is Ellipsis:
            return f"a tuple of any length, each {words[kinds[0]]}, such as ('a','b')"
        return f"a tuple of {len(kinds)}, each {words[kinds[0]]}"
    return words[kind]


def _most(path, option):
    if path.startswith("model."):
        return MOST["model"]
    if option.metadata["unit"] == "px":
        return MOST["px"]
    return (
        MOST["whole"] if option.type in (int, tuple[int, ...]) and path != "seed" else float("inf")
    )


def check(config: Config) -> None:
    """Holds every field to its type, choices and least value, and fields to each other; tuples come
    out as tuples.

    Raises:
        InputError: names the field and the mend.
    """
    for path, option, value in list(leaves(config)):
        *sections, name = path.split(".")
        holder = config
        for section in sections:
            holder = getattr(holder, section)
        value = _typed(path, option.type, value)
        setattr(holder, name, value)
        choices, least = option.metadata["choices"], option.metadata["at_least"]
        for choice in value if isinstance(value, tuple) else (value,):
            if choices and choice not in choices:
                raise InputError(f"{path} is {choice!r}: {nearest(choice, choices)}.")
        numbers = value if isinstance(value, tuple) else (value,)
        for number in numbers:
            if isinstance(number, float) and not abs(number) < float("inf"):
                raise InputError(f"{path} is {value!r}; it must be finite.")
            if least is not None and number < least:
                raise InputError(f"{path} is {value!r}; it must be at least {least}.")
            most = option.metadata["at_most"] or _most(path, option)
            if isinstance(number, int | float) and number > most:
                raise InputError(f"{path} is {value!r}; it must be at most {most}.")
            if option.metadata["unit"] == "0 to 1" and not 0 <= number <= 1:
                raise InputError(f"{path} is {value!r}; it must lie between 0 and 1.")
    if config.seed >= 2**32:
        raise InputError(
            f"seed is {config.seed}; it must be less than 2**32, beyond which seeds repeat."
        )
    if config.model.name not in constructors(config.task):
        known = nearest(config.model.name, constructors(config.task))
        raise InputError(
            f"model.name is {config.model.name!r}, which is not for {config.task}: {known}."
        )
    data = config.data
    if not data.mean or not data.std:
        raise InputError("data.mean and data.std need one value, or one a channel.")
    if data.std != "auto" and min(data.std) <= 0:
        raise InputError(f"data.std is {data.std!r}; every value must be above 0.")
    if config.task == "classic":
        if config.selection.ks and (
            config.model.name != "knn" or config.model.features != "pixels"
        ):
            raise InputError(
                "selection.ks is for knn on pixels alone: leave it empty for other methods and"
                " features."
            )
        return
    training, evaluation = config.training, config.evaluation
    if data.on_device and training.parallelism == "pmap":
        raise InputError(
            "data.on_device needs training.parallelism='jit': under pmap, set it to False."
        )
    if training.batch_size % training.accumulate:
        raise InputError(
            f"training.batch_size is {training.batch_size}, which"
            f" training.accumulate={training.accumulate} does not divide; change one of them."
        )
    if config.optimizer.warmup_steps >= training.steps > 1:
        raise InputError(
            f"optimizer.warmup_steps is {config.optimizer.warmup_steps}, not less than"
            f" training.steps={training.steps}; lower it."
        )
    loss = config.loss
    if loss.weights and len(loss.weights) != 1 + len(loss.further):
        raise InputError(
            f"loss.weights has {len(loss.weights)} values for {1 + len(loss.further)} losses; give"
            " one each, or none."
        )
    if loss.weights and not any(loss.weights):
        raise InputError(
            f"loss.weights is {loss.weights!r}, which leaves nothing to train on; raise one of them"
            " above 0."
        )
    if "tversky" in (loss.name, *loss.further) and not (loss.tversky_alpha or loss.tversky_beta):
        raise InputError(
            "loss.tversky_alpha and loss.tversky_beta are both 0, which leaves nothing to train on;"
            " raise one."
        )
    of_pixels = {loss.name, *loss.further} - {"cross_entropy", "focal"}
    if config.task == "classification" and of_pixels:
        raise InputError(
            f"loss.name or loss.further is {min(of_pixels)!r}, which is of pixels: use"
            " cross_entropy or focal for images."
        )
    if config.task == "classification" and loss.activation == "sigmoid":
        raise InputError(
            "loss.activation is 'sigmoid', which is for scenes of two classes: use 'softmax' for"
            " images."
        )
    if config.task == "segmentation" and min(evaluation.window_px) <= 2 * evaluation.context_px:
        raise InputError(
            f"evaluation.context_px is {evaluation.context_px}, which leaves nothing of a window of"
            f" {evaluation.window_px} to count; make it less than half the window."
        )


# ---- records


def to_dict(config: Config) -> dict:
    """The configuration as nested dictionaries, in field order."""
    return dataclasses.asdict(config)


def to_json(config: Config) -> str:
    """The configuration as indented JSON, in field order."""
    return json.dumps(to_dict(config), indent=2, ensure_ascii=False) + "\n"


def from_dict(record: Mapping, where: str = "config.json") -> Config:
    """The configuration that a record holds. `where` names the file in errors.

    Raises:
        InputError: an unknown or missing field, or a value of the wrong type.
    """
    if not isinstance(record, Mapping):
        raise InputError(f"{where} must hold an object with the fields of a configuration.")
    task = record.get("task", "segmentation")
    if not isinstance(task, str) or task not in TASKS:
        raise InputError(f"{where}: task is {task!r}: {nearest(task, TASKS)}.")
    config = TASKS[task]()
    model = record.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("name"), str):
        raise InputError(f"{where}: model must be an object with the architecture's name.")
    config.model = model_config(model["name"])
    _fill(config, record, where, "")
    check(config)
    return config


def _fill(section, record, where, prefix):
    names = [option.name for option in dataclasses.fields(section)]
    for name in record:
        if name not in names:
            raise InputError(f"{where}: {prefix}{name} is no field: {nearest(name, names)}.")
    for option in dataclasses.fields(section):
        if option.name not in record:
            if option.metadata["absent"] is not dataclasses.MISSING:
                setattr(section, option.name, option.metadata["absent"])
                continue
            raise InputError(f"{where}: {prefix}{option.name} is missing; add it.")
        value, held = record[option.name], getattr(section, option.name)
        if dataclasses.is_dataclass(held):
            if not isinstance(value, Mapping):
                raise InputError(f"{where}: {prefix}{option.name} must be an object.")
            _fill(held, value, where, f"{prefix}{option.name}.")
        else:
            setattr(
                section, option.name, _typed(f"{where}: {prefix}{option.name}", option.type, value)
            )


def read(path) -> Config:
    """The configuration in a recorded `config.json`.

    Raises:
        InputError: the file can't be read, or doesn't hold a configuration.
    """
    try:
        record = strict_json.parse(Path(path).read_bytes())
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}); give the path of a recorded config.json."
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} is not valid JSON ({error}); give the path of a recorded config.json."
        ) from error
    return from_dict(record, str(path))


def _results(config: Config) -> dict:
    return {path: value for path, option, value in leaves(config) if option.metadata["result"]}


def digest(config: Config) -> str:
    """16 hexadecimal digits of everything in the configuration that can change a result."""
    absent = {path: option.metadata["absent"] for path, option, _ in leaves(config)}
    text = json.dumps(
        {path: value for path, value in _results(config).items() if value != absent[path]},
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity(config: Config) -> dict:
    """What a summary says of where it came from: experiment, configuration, variant (of runs that
    are compared), digest, seed."""
    variant = {"variant": config.variant} if config.variant else {}
    names = {"experiment": config.experiment, "configuration": config.configuration}
    return {**names, **variant, "digest": digest(config), "seed": config.seed}


def differences(one: Config, other: Config) -> list[str]:
    """`field: value here, value there` for each field that can change a result and differs."""
    a, b = _results(one), _results(other)
    return [
        f"{path}: {a.get(path)!r}, {b.get(path)!r}"
        for path in sorted(a.keys() | b.keys())
        if a.get(path) != b.get(path)
    ]


# ---- the command line


def parse_command_line(
    argv: Sequence[str],
    configurations: Mapping[str, Callable[[], Config]],
    flags_: Mapping[str, tuple[str, str]],
) -> tuple[Config, dict[str, str]]:
    """Reads `--config NAME|config.json`, `--config.section.field=value` and plain text flags.

    Args:
        argv: the program's name, then its arguments.
        configurations: name -> function that returns a configuration; the first is the default.
        flags_: further flags, name -> (default, help).

    Returns:
        The checked configuration and the values of `flags_`.

    Raises:
        InputError: an unknown field, flag or configuration (with the nearest names), or a value of
            the wrong type.
    """
    from absl import flags
    from ml_collections import config_flags

    argv = list(argv)
    given = [i for i, argument in enumerate(argv) if re.fullmatch(r"--?config(=.*)?", argument)]
    name = next(iter(configurations), "")
    if given:
        last = argv[given[-1]]
        if "=" not in last and given[-1] + 1 == len(argv):
            raise InputError(
                f"--config needs a value: {nearest('', configurations)}, or the path of a recorded"
                " config.json."
            )
        name = last.split("=", 1)[1] if "=" in last else argv[given[-1] + 1]
        for i in reversed(given):  # one --config, first, as ml_collections wants it
            del argv[i : i + (1 if "=" in argv[i] else 2)]
    argv.insert(1, f"--config={name}")

    argv, model = model_name(argv)

    def load(text):
        if text in configurations:
            config = configurations[text]()
        elif text.endswith(".json") or "/" in text or Path(text).is_file():
            config = read(text)
        else:
            known = nearest(text, configurations)
            raise InputError(
                f"--config {text} is neither a configuration nor the path of a recorded"
                f" config.json: {known}."
            )
        if model and model != config.model.name:
            if model not in constructors(config.task):
                known = nearest(model, constructors(config.task))
                raise InputError(
                    f"--config.model.name={model} is no architecture for {config.task}: {known}."
                )
            config.model = model_config(model)
        return config

    config = load(name)
    fields = {path: option for path, option, _ in leaves(config) if path not in FIXED}
    argv = _names_in_tuples(
        argv, [path for path, option in fields.items() if option.type == tuple[str, ...]]
    )
    for argument in argv[2:]:
        if re.match(
            r"--?(flagfile|undefok)\b", argument
        ):  # absl's own, which read files and let misspellings pass
            raise InputError(f"{argument} is no flag of this command; --help lists them all.")
        match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if match and match[1] not in fields:
            if match[1] in FIXED:
                raise InputError(
                    f"--config.{match[1]} can't be changed; choose another --config instead."
                )
            raise InputError(
                f"--config.{match[1]} is no field of this configuration:"
                f" {nearest_field(match[1], fields)}."
            )

    argv = _last_values(argv, fields)

    values = flags.FlagValues()
    config_flags.DEFINE_config_dataclass(
        "config", copy.deepcopy(config), flag_values=values, sys_argv=argv, parse_fn=load
    )
    for flag, (default, help) in flags_.items():
        flags.DEFINE_string(flag, default, help, flag_values=values)
    try:
        rest = values(argv)
    except flags.UnrecognizedFlagError as error:
        if any(path.split(".")[-1] == error.flagname for path in fields):
            raise InputError(
                f"--{error.flagname} is no flag: {nearest_field(error.flagname, fields)}."
            ) from error
        known = [f"--{flag}" for flag in ("config", "help", *flags_)]
        raise InputError(
            f"--{error.flagname} is no flag: {nearest('--' + error.flagname, known)}."
        ) from error
    except flags.IllegalFlagValueError as error:
        match = re.search(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
        if not match:
            raise InputError(f"{error}.") from error
        raise InputError(
            f"--config.{match[1]} takes {describe(fields[match[1]].type)}, not {match[2]!r}."
        ) from error
    except flags.Error as error:
        raise InputError(f"{str(error).splitlines()[0].rstrip('.')}.") from error
    if len(rest) > 1:
        raise InputError(
            f"{rest[1]!r} is not understood; write values as --config.section.field=value."
        )
    config = values.config
    check(config)
    return config, {flag: values[flag].value for flag in flags_}


def model_name(argv):
    """(`argv` without `--config.model.name`, the last value given for it, or ""): it decides which
    fields there are.

    Raises:
        InputError: it is given without a value.
    """
    kept, model, arguments = [], "", iter(argv)
    for argument in arguments:
        match = re.fullmatch(r"--?config[.]model[.]name(?:=(.*))?", argument)
        if match:
            model = next(arguments, "") if match[1] is None else match[1]
            if not model:
                raise InputError(
                    "--config.model.name needs a value, such as --config.model.name=resnet18."
                )
        else:
            kept.append(argument)
    return kept, model


def without_flag(arguments: Sequence[str], flag: str) -> list[str]:
    """The arguments without `--flag VALUE` and `--flag=VALUE`."""
    kept, rest = [], iter(arguments)
    for argument in rest:
        if argument in (f"--{flag}", f"-{flag}"):
            next(rest, None)
        elif not re.match(rf"--?{flag}=", argument):
            kept.append(argument)
    return kept


def _last_values(argv, fields):
    """The arguments with only the last value of each field: absl would join tuples that are given
    twice."""
    last, rest = {}, list(argv)
    for number, argument in enumerate(argv):
        match = re.fullmatch(r"--?config\.([^=]+)(=.*)?", argument, re.DOTALL)
        if not match or match[1] not in fields:
            continue
        apart = (
            match[2] is None and fields[match[1]].type is not bool
        )  # the value is the next argument
        for earlier in last.get(match[1], ()):
            rest[earlier] = None
        last[match[1]] = (number, number + 1) if apart else (number,)
    return [argument for argument in rest if argument is not None]


def _names_in_tuples(argv, paths):
    """`argv` with each of these fields given once, as a tuple literal: `8,2_13` and `('8', '2_13')`
    come to the same.

    ml_collections would read names as Python literals, in which 2_13 is 213 and a space is an
    error.
    """
    kept, names = [], {}
    arguments = iter(argv)
    for argument in arguments:
        flag, equals, text = argument.partition("=")
        path = re.sub("^--?config[.]", "", flag)
        if path == flag or path not in paths:
            kept.append(argument)
            continue
        text = text if equals else next(arguments, "")
        parts = [part.strip().strip("'\"") for part in text.strip().strip("()[]").split(",")]
        names[path] = [part for part in parts if part]  # as everywhere, the last one counts
    return kept + [f"--config.{path}={tuple(parts)!r}" for path, parts in names.items()]


def nearest_field(path: str, fields) -> str:
    """As `nearest`, for the dotted path of a field; one of the same name in another section comes
    first."""
    last = path.split(".")[-1]
    same_name = [f for f in fields if f.split(".")[-1] == last]
    close = same_name or difflib.get_close_matches(path, fields, n=3, cutoff=0.5)
    if not close:
        names = {f.split(".")[-1]: f for f in fields}
        close = [names[n] for n in difflib.get_close_matches(last, names, n=3, cutoff=0.5)]
    return (
        f"did you mean {' or '.join('--config.' + f for f in close)}"
        if close
        else "--help lists them all"
    )


def help_text(
    module: str,
    configurations: Mapping[str, Callable[[], Config]],
    flags_: Mapping[str, tuple[str, str]],
) -> str:
    """What `--help` prints: the configurations, the flags, and every field with its type, default
    and unit."""
    lines = [
        f"usage: python -m {module} [--config NAME|config.json] [--config.FIELD=VALUE ...]",
        "",
        "configurations:",
    ]
    for name, make in configurations.items():
        lines.append(f"  {name:<14} {next(iter((make.__doc__ or '').strip().splitlines()), '')}")
    lines += [
        "",
        "flags:",
        f"  {'--config':<14} a configuration's name, or the path of a recorded config.json",
    ]
    lines += [f"  {'--' + flag:<14} {help}" for flag, (_, help) in flags_.items()]
    first = next(iter(configurations))
    lines += ["", f"fields (defaults of {first!r}; set as --config.FIELD=VALUE):"]
    for path, option, value in leaves(configurations[first]()):
        if path in FIXED and path != "model.name":
            continue
        kind = getattr(option.type, "__name__", "")
        if get_origin(option.type) is tuple:
            kind = str(option.type).replace("tuple", "")
        unit = f" [{option.metadata['unit']}]" if option.metadata["unit"] else ""
        choices = (
            f" ({', '.join(map(str, option.metadata['choices']))})"
            if option.metadata["choices"]
            else ""
        )
        lines.append(f"  {path} ({kind}) = {value!r}{unit}")
        lines.append(f"      {option.metadata['help']}{choices}")
    return "\n".join(lines) + "\n"
