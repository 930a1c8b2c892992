"""The fields of a configuration, and the checks that need neither a model nor data.

A configuration is a tree of dataclasses. Every field is a `setting`, which knows its meaning, its
unit, the values it allows and whether it can change a result; the command line, `--help`, the
checks and the digest are all read off those.
"""

import contextlib
import dataclasses
import difflib
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from cnn_jax.errors import InputError

MOST = {"px": 2**16, "model": 2**14, "whole": 2**31 - 1}
"""The greatest value of a length in px, of any number of a model's, and of other whole numbers."""


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    choices: Iterable[Any] = (),
    at_least: float | None = None,
    at_most: float | None = None,
    result: bool = True,
    path: bool = False,
    absent: Any = dataclasses.MISSING,
) -> Any:
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
        path: whether it is a path, or may be one: on the command line ~ is then the home folder.
        absent: of a field younger than the first records, the value that means what runs did
            before; a record without the field is read as having it, and it stays out of the digest,
            so that old records keep theirs.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "choices": tuple(choices),
        "at_least": at_least,
        "at_most": at_most,
        "result": result,
        "path": path,
        "absent": absent,
    }
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


MEAN = (
    (0.5,),
    "subtracted from each channel, or from all, once the greatest value is 1; auto: the training"
    " data's",
)
STD = ((0.25,), "then divided by; auto: the training data's")


@dataclass
class DataConfig:
    """Segmentation: which scenes, and how they become training crops."""

    source: str = setting(
        "synthetic",
        "synthetic, the name of a built-in description, or the path of a TOML description",
        path=True,
    )
    directory: str = setting(
        "", "folder that holds the photographs; not used by synthetic", result=False, path=True
    )
    test_groups: tuple[str, ...] = setting(
        (), "groups (tiles, sequences) for test; empty: the description's"
    )
    validation_groups: tuple[str, ...] = setting(
        (), "groups (tiles, sequences) for validation; empty: the description's"
    )
    folds: int = setting(
        0,
        "for small sets: deal all groups anew into so many parts, of which one is test and the next"
        " validation; 0: the description's splits",
        at_least=0,
        absent=0,
    )
    fold: int = setting(0, "which of the parts, from 0, is test", at_least=0, absent=0)
    split_seed: int = setting(
        0, "how groups are dealt into parts; the same for every run seed", at_least=0, absent=0
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
    mean: tuple[float, ...] | Literal["auto"] = setting(*MEAN)
    std: tuple[float, ...] | Literal["auto"] = setting(*STD)
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
        4,
        "batches read ahead of the device; without effect where on_device leaves none to read",
        unit="batches",
        at_least=1,
        result=False,
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
        "where TFDS sets are prepared (empty: $TFDS_DATA_DIR or ~/tensorflow_datasets), or where"
        " CIFAR's own files lie unpacked, or the folder of images",
        result=False,
        path=True,
    )
    label_pattern: str = setting(
        "",
        "folders only: regular expression whose group is the label in a file's name; empty: one"
        " folder a class",
    )
    group_pattern: str = setting(
        "",
        "folders only: regular expression whose group is, in a file's path below train, what the"
        " image belongs to (a patient, a place) and is never parted from; empty: nothing",
        absent="",
    )
    validation_share: float = setting(
        0.1, "of the training images, held out for validation", unit="0 to 1", at_least=0
    )
    test_share: float = setting(
        0.2,
        "of the training images, held out for test where none is published",
        unit="0 to 1",
        at_least=0.001,
        absent=0.2,
    )
    folds: int = setting(
        0,
        "for small sets: deal all images anew into so many parts, of which one is test and the next"
        " validation; 0: the splits as published",
        at_least=0,
        absent=0,
    )
    fold: int = setting(0, "which of the parts, from 0, is test", at_least=0, absent=0)
    split_seed: int = setting(
        0,
        "chooses what is held out, or how parts are dealt; the same for every run seed",
        at_least=0,
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
    interpolation: str = setting(
        "bilinear",
        "how images are resized; bilinear and bicubic over the area that a new pixel covers",
        choices=("bilinear", "bicubic", "nearest"),
        absent="bilinear",
    )
    channels: int = setting(
        0,
        "3: grey images are repeated as red, green and blue; 1: coloured ones become grey; 0: as"
        " they are",
        unit="channels",
        choices=(0, 1, 3),
        absent=0,
    )
    permuted: bool = setting(
        False,
        "shuffle the pixels of every image by one fixed permutation, to see who uses neighbourhood",
    )
    mean: tuple[float, ...] | Literal["auto"] = setting(*MEAN)
    std: tuple[float, ...] | Literal["auto"] = setting(*STD)
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
        4,
        "batches read ahead of the device; without effect where on_device leaves none to read",
        unit="batches",
        at_least=1,
        result=False,
    )

    @property
    def seen_share(self) -> float:
        """Of the shorter side, what the model sees: `crop_share` crops only what is resized."""
        return self.crop_share if any(self.image_px) else 1.0


@dataclass
class ObjectDataConfig:
    """Detection and instances: which images with their objects, and how they become crops."""

    source: str = setting(
        "synthetic",
        "synthetic, penn_fudan, or a format of annotations: coco, labelme, via, cvat, yolo, voc,"
        " geojson, index_masks, palette_masks",
    )
    directory: str = setting(
        "",
        "folder that holds images and annotations; not used by synthetic",
        result=False,
        path=True,
    )
    annotations: tuple[str, ...] = setting(
        (),
        "files or folders within directory: of train; of train and test; or of train, validation"
        " and test. What has none is held out of train; empty: directory itself, of train",
    )
    images: tuple[str, ...] = setting(
        ("images",), "folders of the images within directory: one for all, or one for each"
    )
    classes: tuple[str, ...] = setting(
        (), "their names, in the order of labels; empty: as the annotations say"
    )
    held_out: tuple[float, float] = setting(
        (0.1, 0.2),
        "shares of train that become validation and test, where these have no annotations of their"
        " own",
        unit="0 to 1",
    )
    split_seed: int = setting(
        0, "chooses what is held out; the same for every run seed", at_least=0
    )
    faulty: str = setting(
        "error",
        "what to do with objects that can't be used, such as boxes outside; ignore: leave them out",
        choices=("error", "ignore"),
    )
    crop_px: tuple[int, int] = setting(
        (256, 256), "height and width of a training crop", unit="px", at_least=8
    )
    least_visible: float = setting(
        0.3,
        "objects that a crop cuts to a smaller share of their box count nowhere in it",
        unit="0 to 1",
        at_least=0,
    )
    mean: tuple[float, ...] | Literal["auto"] = setting(*MEAN)
    std: tuple[float, ...] | Literal["auto"] = setting(*STD)
    memory_budget_gib: float = setting(
        4.0,
        "decoded images kept in memory up to this; others are read again",
        unit="GiB",
        at_least=0,
        result=False,
    )
    on_device: bool = setting(
        False, "not for objects, which are read by the host", choices=(False,), result=False
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
        0.0,
        "share of the target spread evenly over all classes; of cross_entropy, focal and boundary"
        " alone",
        unit="0 to 1",
        at_least=0,
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

    name: str = setting(
        "adamw",
        "the optimiser; sgd has Nesterov's momentum and decoupled decay, momentum has plain"
        " momentum and the decay in the gradient, as papers of about 2015 do",
        choices=("adamw", "sgd", "momentum"),
    )
    learning_rate: float = setting(2e-3, "peak of the schedule", at_least=0)
    schedule: str = setting(
        "cosine", "from the peak to the end", choices=("cosine", "polynomial", "constant", "drops")
    )
    drops: tuple[int, ...] = setting(
        (),
        "drops: steps from which on the learning rate is a tenth of what it was",
        unit="steps",
        at_least=1,
        absent=(),
    )
    warmup_steps: int = setting(
        50,
        "linear rise from zero to the peak; where a run takes no more steps, a tenth of them",
        unit="steps",
        at_least=0,
    )
    end_factor: float = setting(
        0.01, "learning rate at the last step, as a share of the peak", unit="0 to 1", at_least=0
    )
    polynomial_power: float = setting(0.9, "exponent of the polynomial schedule", at_least=0)
    weight_decay: float = setting(1e-4, "kernels only, never norms or biases", at_least=0)
    momentum: float = setting(0.9, "of sgd (Nesterov's) and of momentum", at_least=0)
    clip_norm: float = setting(
        1.0, "gradients are scaled down to this global norm; 0: never", at_least=0
    )
    ema_decay: float = setting(
        0.0,
        "moving average of the weights, used for evaluation; 0: none",
        unit="0 to 1",
        at_least=0,
    )
    frozen: tuple[str, ...] = setting(
        (),
        "parts that keep their weights, and their BatchNorm its statistics: head, base (all but the"
        " head), encoder, or modules such as stage_1*",
        absent=(),
    )
    unfreeze_every_steps: int = setting(
        0,
        "the parts in frozen thaw one after another, the last first, each after so many steps; 0:"
        " never",
        unit="steps",
        at_least=0,
        absent=0,
    )
    groups: tuple[str, ...] = setting(
        (), "parts with a learning rate of their own, named as in frozen", absent=()
    )
    group_factors: tuple[float, ...] = setting(
        (), "what the learning rate is multiplied by in each of groups", at_least=0, absent=()
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
class DetectionLossConfig:
    """What a detector is asked to make small: a weighted sum."""

    size_weight: float = setting(
        0.1, "centernet: of the sizes' mean absolute error, in px", at_least=0
    )
    offset_weight: float = setting(
        1.0, "centernet: of the places' within a cell of the heat map", at_least=0
    )
    box_weight: float = setting(1.0, "fcos: of 1 - generalised IoU", at_least=0)
    centre_weight: float = setting(1.0, "fcos: of the centre-ness's cross entropy", at_least=0)


@dataclass
class InstanceLossConfig:
    """What a network of instances is asked to make small: a weighted sum (Cheng et al., 2020)."""

    semantic_weight: float = setting(
        1.0, "of the cross entropy of classes, one of which is none", at_least=0
    )
    centre_weight: float = setting(200.0, "of the heat map's squared error", at_least=0)
    offset_weight: float = setting(
        1.0, "of the absolute error of where the centre lies from a pixel of an object", at_least=0
    )
    offset_scale_px: float = setting(
        10.0, "offsets are learnt in units of this", unit="px", at_least=0.1
    )
    centre_sigma_px: float = setting(
        3.0, "standard deviation of a centre in the heat map", unit="px", at_least=0.5
    )
    small_px: int = setting(
        1024, "objects of fewer pixels are small", unit="px", at_least=0, at_most=2**31 - 1
    )
    small_weight: float = setting(
        3.0, "what a pixel of a small object weighs in the cross entropy", at_least=0
    )


@dataclass
class ObjectEvaluationConfig:
    """Detection and instances: whole images, at their own resolution; what windows cut is
    joined."""

    window_px: tuple[int, int] = setting(
        (320, 544), "height and width of what the model sees at once", unit="px", at_least=8
    )
    overlap_px: int = setting(
        64, "that neighbouring windows share: at least a small object", unit="px", at_least=0
    )
    batch_size: int = setting(
        2, "windows at once, rounded up to divide among devices", unit="windows", at_least=1
    )
    most_objects: int = setting(
        100,
        "of an image, those with the highest scores, that COCO's figures are of; 100 is COCO's",
        unit="objects",
        at_least=1,
    )
    least_score: float = setting(0.05, "of objects that count at all", unit="0 to 1", at_least=0)
    counted_score: float = setting(
        0.3,
        "of objects that counts, pictures and panoptic quality are of",
        unit="0 to 1",
        at_least=0,
    )
    weights: str = setting(
        "last",
        "which checkpoint the final figures are of: last, or best by validation AP",
        choices=("last", "best"),
    )
    gallery_scenes: int = setting(
        4, "test images pictured: worst, best and between", unit="scenes", at_least=1
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


PARTS = ("auto", "whole", "encoder", "all_but_head")
"""What of given weights a network may begin with."""


def _task(name: str) -> Any:
    return setting(name, "what is predicted, and by what", choices=(name,), absent="segmentation")


@dataclass
class Beginning:
    """The weights that a network begins with: fields of every task that trains one."""

    initial: str = setting(
        "",
        "weights to begin with: the folder of a finished run, or a published file; empty: drawn by"
        " the seed",
        result=False,
        path=True,
        absent="",
    )
    initial_part: str = setting(
        "auto",
        "what of them is taken; auto: the whole network where it and its classes are the same, else"
        " all but the head, else the encoder",
        choices=PARTS,
        absent="auto",
    )
    initial_digest: str = setting(
        "", "of the weights to begin with, as a run found them", absent=""
    )


@dataclass
class SegmentationConfig(Beginning, Config):
    """A network that gives each pixel of a scene its class."""

    task: str = _task("segmentation")
    data: DataConfig = setting(DataConfig, "data")
    augmentation: AugmentationConfig = setting(AugmentationConfig, "augmentation")
    loss: LossConfig = setting(LossConfig, "loss")
    optimizer: OptimizerConfig = setting(OptimizerConfig, "optimiser")
    training: TrainingConfig = setting(TrainingConfig, "training")
    evaluation: EvaluationConfig = setting(EvaluationConfig, "evaluation")


@dataclass
class ClassificationConfig(Beginning, Config):
    """A network that gives each image its class."""

    task: str = _task("classification")
    data: ImageDataConfig = setting(ImageDataConfig, "data")
    augmentation: ImageAugmentationConfig = setting(ImageAugmentationConfig, "augmentation")
    loss: LossConfig = setting(LossConfig, "loss")
    optimizer: OptimizerConfig = setting(OptimizerConfig, "optimiser")
    training: TrainingConfig = setting(TrainingConfig, "training")
    evaluation: ImageEvaluationConfig = setting(ImageEvaluationConfig, "evaluation")


@dataclass
class DetectionConfig(Beginning, Config):
    """A network that finds objects and the boxes around them."""

    task: str = _task("detection")
    data: ObjectDataConfig = setting(ObjectDataConfig, "data")
    augmentation: AugmentationConfig = setting(AugmentationConfig, "augmentation")
    loss: DetectionLossConfig = setting(DetectionLossConfig, "loss")
    optimizer: OptimizerConfig = setting(OptimizerConfig, "optimiser")
    training: TrainingConfig = setting(TrainingConfig, "training")
    evaluation: ObjectEvaluationConfig = setting(ObjectEvaluationConfig, "evaluation")


@dataclass
class InstanceConfig(Beginning, Config):
    """A network that finds objects and the pixels of each."""

    task: str = _task("instances")
    data: ObjectDataConfig = setting(ObjectDataConfig, "data")
    augmentation: AugmentationConfig = setting(AugmentationConfig, "augmentation")
    loss: InstanceLossConfig = setting(InstanceLossConfig, "loss")
    optimizer: OptimizerConfig = setting(OptimizerConfig, "optimiser")
    training: TrainingConfig = setting(TrainingConfig, "training")
    evaluation: ObjectEvaluationConfig = setting(ObjectEvaluationConfig, "evaluation")


@dataclass
class ClassicConfig(Config):
    """A classic method, without a network, that gives each image its class."""

    task: str = _task("classic")
    data: ImageDataConfig = setting(ImageDataConfig, "data")
    selection: SelectionConfig = setting(SelectionConfig, "choice of k and distance")


FIXED = ("task", "experiment", "configuration", "variant", "initial_digest")
"""Fields that say what a configuration is, and can't be set on a command line."""


def nearest(word: str, words: Iterable[str]) -> str:
    """`did you mean ...` with the closest of `words`, or all of them where none is close."""
    words = [str(w) for w in words]
    close = difflib.get_close_matches(str(word), words, n=3)
    if close:
        return f"did you mean {' or '.join(close)}"
    return f"it must be {'one of ' if len(words) > 1 else ''}{', '.join(sorted(words))}"


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """Every field that holds a value, not a section: yields (dotted path, dataclasses.Field,
    value)."""
    for option in dataclasses.fields(config):
        value = getattr(config, option.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{option.name}.")
        else:
            yield prefix + option.name, option, value


def typed(path: str, kind: Any, value: Any) -> Any:
    """`value` as `kind`: int, float, str, bool, a `Literal`, a tuple of them, or a union of those.
    Whole numbers pass as floats, and any sequence as a tuple.

    Raises:
        InputError: the value is of another kind; the sentence begins with `path`.
    """
    if get_origin(kind) in (Union, UnionType):
        for member in get_args(kind):
            with contextlib.suppress(InputError):
                return typed(path, member, value)
        raise InputError(f"{path} takes {describe(kind)}, not {value!r}.")
    if get_origin(kind) is Literal:
        if value not in get_args(kind) or not isinstance(value, str):
            raise InputError(f"{path} takes {describe(kind)}, not {value!r}.")
        return value
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        open_ended = kinds[-1] is Ellipsis
        if (
            isinstance(value, str | bytes)
            or not isinstance(value, Sequence)
            or not (open_ended or len(value) == len(kinds))
        ):
            raise InputError(f"{path} takes {describe(kind)}, not {value!r}.")
        if open_ended and kinds[0] is str:
            value = [str(v) if type(v) is int else v for v in value]  # a tile called 8 is a name
        kinds = kinds[:1] * len(value) if open_ended else kinds
        return tuple(typed(path, k, v) for k, v in zip(kinds, value, strict=True))
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise InputError(f"{path} takes {describe(kind)}, not {value!r}.")
    return value


def describe(kind: Any) -> str:
    """A type in words."""
    words = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(describe, get_args(kind)))
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if kinds[-1] is Ellipsis:
            return f"a tuple of any length, each {words[kinds[0]]}"
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


def check_sections(config: Any, prefix: str = "") -> None:
    """Holds what code has set to the sections and fields that there are.

    Raises:
        InputError: names the field, after `prefix`, and the mend.
    """
    options = {option.name: option for option in dataclasses.fields(config)}
    for name in vars(config):
        if name not in options:  # Python sets what is misspelt too, and it would change nothing
            raise InputError(f"unknown field '{prefix}{name}'; {nearest(name, options)}.")
    for name, option in options.items():
        value, kind = getattr(config, name), option.type
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            if not isinstance(value, kind):
                raise InputError(f"{prefix}{name} is {value!r}; give a {kind.__name__}.")
        elif kind is not Any and dataclasses.is_dataclass(value):
            made = type(value).__name__
            raise InputError(f"{prefix}{name} takes {describe(kind)}, not a {made}.")
        if dataclasses.is_dataclass(value):
            check_sections(value, f"{prefix}{name}.")


def check_fields(config: Any, prefix: str = "") -> None:
    """Holds every field to its type, choices and bounds; tuples come out as tuples.

    Raises:
        InputError: names the field, after `prefix`, and the mend.
    """
    for path, option, value in list(leaves(config)):
        *sections, name = path.split(".")
        shown = prefix + path.removesuffix("_")  # of a name that is a Python keyword without it
        value = typed(shown, option.type, value)
        setattr(functools.reduce(getattr, sections, config), name, value)
        choices, least = option.metadata["choices"], option.metadata["at_least"]
        most = option.metadata["at_most"] or _most(path, option)
        for element in value if isinstance(value, tuple) else (value,):
            if choices and element not in choices:
                raise InputError(f"{shown} is {element!r}: {nearest(str(element), choices)}.")
            if not isinstance(element, int | float):
                continue
            if isinstance(element, float) and not math.isfinite(element):
                raise InputError(f"{shown} is {value!r}; it must be finite.")
            if least is not None and element < least:
                raise InputError(f"{shown} is {value!r}; it must be at least {least}.")
            if element > most:
                raise InputError(f"{shown} is {value!r}; it must be at most {most}.")
            if option.metadata["unit"] == "0 to 1" and not 0 <= element <= 1:
                raise InputError(f"{shown} is {value!r}; it must lie between 0 and 1.")


def check(config: Any) -> None:
    """Holds every field to its type, choices and bounds, and fields to each other. The model is
    `cnn_jax.tasks.check`'s.

    Args:
        config: of any task; tuples come out as tuples.

    Raises:
        InputError: names the field and the mend.
    """
    check_sections(config)
    check_fields(config)
    if config.seed >= 2**32:
        raise InputError(
            f"seed is {config.seed}; it must be less than 2**32, beyond which seeds repeat."
        )
    data = config.data
    if hasattr(data, "mean") and not (data.mean and data.std):
        raise InputError("data.mean and data.std need one value, or one a channel.")
    if hasattr(data, "std") and data.std != "auto" and min(data.std) <= 0:
        raise InputError(f"data.std is {data.std!r}; every value must be above 0.")
    if hasattr(config, "selection"):
        _check_selection(config)
    if hasattr(config, "training"):
        _check_training(config)
    if hasattr(config, "loss") and isinstance(config.loss, LossConfig):
        _check_loss(config)
    if hasattr(data, "folds"):
        _check_folds(data)
    if isinstance(config.data, ObjectDataConfig):
        _check_objects(config)
    if config.task == "segmentation":
        evaluation = config.evaluation
        if min(evaluation.window_px) <= 2 * evaluation.context_px:
            raise InputError(
                f"evaluation.context_px is {evaluation.context_px}, which leaves nothing of a"
                f" window of {evaluation.window_px} to count; make it less than half the window."
            )


def _check_folds(data):
    images = isinstance(data, ImageDataConfig)
    if images and data.group_pattern and data.source != "folders":
        raise InputError("data.group_pattern is for data.source folders: leave it empty.")
    if not data.folds:
        if images and data.fold:
            raise InputError("data.fold is of data.folds: give that too.")
        if not images and (data.fold or data.split_seed):
            raise InputError("data.fold and data.split_seed are of data.folds: give that too.")
        return
    if data.folds < 3:
        raise InputError(
            f"data.folds is {data.folds}; it must be at least 3, for test, validation and training."
        )
    if data.fold >= data.folds:
        raise InputError(
            f"data.fold is {data.fold}; with data.folds={data.folds} it must be at most"
            f" {data.folds - 1}."
        )
    if images:
        return
    if data.test_groups or data.validation_groups:
        raise InputError(
            "data.folds deals all groups: leave data.test_groups and data.validation_groups empty."
        )
    if data.source == "synthetic":
        raise InputError(
            "data.folds is for photographs: of synthetic scenes any number is drawn, by"
            " data.scene_counts."
        )


def check_object_files(data: ObjectDataConfig) -> None:
    """Raises InputError where annotations, or their folders of images, are too many or too few."""
    if len(data.annotations) > 3:
        raise InputError(
            f"data.annotations has {len(data.annotations)} values: give those of train, of train"
            " and test, or of train, validation and test."
        )
    if len(data.images) not in (1, len(data.annotations) or 1):
        raise InputError(
            f"data.images has {len(data.images)} values: give one folder, or as many as"
            " data.annotations."
        )


def _check_objects(config):
    evaluation = config.evaluation
    check_object_files(config.data)
    if min(evaluation.window_px) < 2 * evaluation.overlap_px:
        raise InputError(
            f"evaluation.overlap_px is {evaluation.overlap_px}, more than half of a window of"
            f" {evaluation.window_px}: make it less."
        )
    if sum(config.data.held_out) >= 1:
        raise InputError(
            f"data.held_out is {config.data.held_out}, which leaves nothing to train on: lower it."
        )


def _check_selection(config):
    model = config.model
    if config.selection.ks and (model.name != "knn" or model.features != "pixels"):
        raise InputError(
            "selection.ks is for knn on pixels alone: leave it empty for other methods and"
            " features."
        )


def _check_training(config):
    training = config.training
    if config.data.on_device and training.parallelism == "pmap":
        raise InputError(
            "data.on_device needs training.parallelism='jit': under pmap, give --data.no-on-device."
        )
    optimizer = config.optimizer
    if len(optimizer.groups) != len(optimizer.group_factors):
        raise InputError(
            f"optimizer.group_factors has {len(optimizer.group_factors)} values for"
            f" {len(optimizer.groups)} of optimizer.groups; give one each."
        )
    if optimizer.unfreeze_every_steps and not optimizer.frozen:
        raise InputError("optimizer.unfreeze_every_steps is of optimizer.frozen: give that too.")
    if not getattr(config, "initial", "") and getattr(config, "initial_part", "auto") != "auto":
        raise InputError("initial_part is of the weights to begin with: give --initial too.")
    if (optimizer.schedule == "drops") != bool(optimizer.drops):
        raise InputError(
            "optimizer.drops are of optimizer.schedule='drops': give both, such as"
            " --optimizer.schedule drops --optimizer.drops 32000 48000, or neither."
        )
    if list(optimizer.drops) != sorted(set(optimizer.drops)):
        raise InputError(f"optimizer.drops is {optimizer.drops!r}: give steps that rise.")
    if training.batch_size % training.accumulate:
        raise InputError(
            f"training.batch_size is {training.batch_size}, which"
            f" training.accumulate={training.accumulate} does not divide; change one of them."
        )


def _check_loss(config):
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
