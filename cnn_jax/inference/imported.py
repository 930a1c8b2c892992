"""A published network as a finished run, which `cnn_jax.load` opens like any other."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from cnn_jax import tasks
from cnn_jax.configuration import documents
from cnn_jax.configuration.schema import ClassificationConfig, SegmentationConfig
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.scenes import SPLITS
from cnn_jax.errors import InputError
from cnn_jax.models import SEGMENTERS
from cnn_jax.models.conventions import family
from cnn_jax.models.weights import Published, class_names, read
from cnn_jax.records import run_directory, weights
from cnn_jax.records.files import read_object
from cnn_jax.tasks.network import abstract_variables
from cnn_jax.training.initial import Initial
from cnn_jax.training.state import parameter_count


@dataclasses.dataclass(frozen=True)
class Seen:
    """What of a network's preprocessing is otherwise than its source's is supposed to be.

    Attributes:
        values: of `preprocessing.VALUES`; "" as supposed, like all that follow.
        image_px: height and width; () as supposed.
        crop_share: of the shorter side, that is seen; 0 as supposed.
        interpolation: of `preprocessing.INTERPOLATIONS`.
    """

    values: str = ""
    image_px: tuple[int, ...] = ()
    crop_share: float = 0.0
    interpolation: str = ""


def import_weights(
    file: str | Path,
    model: str,
    output: str | Path,
    *,
    classes: str | Path = "",
    seen: Seen = Seen(),
    conventions: str = "",
    command: str = "",
) -> Published:
    """Reads a file of published weights, and writes it as a finished run of no steps.

    Args:
        file: of the weights, as `models.weights.read` takes it.
        model: the architecture, a name in `MODELS`.
        output: the folder of the run: new, or that of the same import.
        classes: file of the classes' names, as `class_names.read` takes it; empty: ImageNet's,
            PASCAL VOC's or CIFAR-10's where their number is right, else numbers.
        seen: how images are prepared.
        conventions: whose network it is, as `models.weights.read` takes it.
        command: what to type for the same, for the record.

    Raises:
        InputError: the file doesn't fit the architecture or has no head, the names don't fit the
            file, or the folder holds something else.
    """
    published = read(file, model, head=False, values=seen.values, conventions=conventions)
    if not published.num_classes:
        raise InputError(
            f"{file} holds a network without a head, which answers nothing: begin an experiment"
            f" with it, --initial {file} (of a segmenter with --initial_part encoder)."
        )
    one_logit = published.num_classes == 1
    if one_logit and model not in SEGMENTERS:
        published = _of_two_classes(published)
    count = 2 if one_logit else published.num_classes
    if classes:
        names = class_names.read(Path(classes), count)
    else:
        names = class_names.known(family(model), count)
    config, info = _described(published, names, seen)
    tasks.check(config)
    learner: Any = tasks.of(config.task).learner(config, info)
    with run_directory.RunDirectory(output, config, flag="--output") as record:
        if record.summary is not None:
            held = read_object(record.workdir / "data.json")["classes"]  # in no configuration
            if tuple(held) != tuple(names):
                raise InputError(
                    f"{output} holds this network with other names of its classes: give another"
                    " --output, or the same --classes."
                )
        else:
            digest = documents.digest(config)
            environment = run_directory.environment(config, info.fingerprint, command)
            said = {
                "file": published.path.name,
                "digest": published.digest,
                "source": published.source,
                "left_out": list(published.left_out),
            }
            record.begin({**environment, "weights": said}, info)
            variables = learner_variables(learner, published)
            weights.write(record.workdir / weights.NAME, variables, digest=digest, step=0)
            record.finish(
                {
                    **documents.identity(config),
                    "parameters": parameter_count(variables),
                    "steps": 0,
                    "evaluated_step": 0,
                }
            )
    return published


def learner_variables(learner: Any, published: Published) -> Any:
    """The published variables, once it is sure that the recorded network takes them.

    Raises:
        InputError: it doesn't.
    """
    wanted = abstract_variables(learner)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), wanted)
    return Initial(str(published.path), published.variables).laid_over(zeros, (), "whole")[0]


def _of_two_classes(published: Published) -> Published:
    """A classifier of one logit, which its source gave a sigmoid, with two: 0 and it, whose softmax
    is the sigmoid."""
    flat: dict[Any, Any] = traverse_util.flatten_dict(published.variables)
    for leaf in ("kernel", "bias"):
        value = flat["params", "head", leaf]
        flat["params", "head", leaf] = np.concatenate([np.zeros_like(value), value], axis=-1)
    variables = traverse_util.unflatten_dict(flat)
    return dataclasses.replace(published, num_classes=2, variables=variables)


def _described(published: Published, names: Sequence[str], seen: Seen) -> tuple[Any, DatasetInfo]:
    """Configuration and data of the run."""
    held = published.preprocessing
    mean, std = held.mean, held.std
    if published.channels != len(mean):
        mean, std = (0.5,) * published.channels, (0.25,) * published.channels
    image_px = seen.image_px or held.image_px
    if len(image_px) != 2:
        raise InputError("--image_px takes two numbers: height and width.")
    segmenter = published.model in SEGMENTERS
    config: Any = SegmentationConfig() if segmenter else ClassificationConfig()
    config.experiment, config.configuration = "weights", published.source
    config.model = tasks.model_config(published.model, **published.options)
    config.initial, config.initial_digest = str(published.path), published.digest
    config.training.steps = 1  # of which none is taken
    config.data.mean, config.data.std = tuple(mean), tuple(std)
    if segmenter:
        config.loss.activation = "sigmoid" if published.num_classes == 1 else "softmax"
    else:
        config.data.source = "folders"
        config.data.image_px = image_px
        config.data.crop_share = seen.crop_share or held.crop_share
        config.data.interpolation = seen.interpolation or held.interpolation
    info = DatasetInfo(
        source=published.path.name,
        classes=tuple(names),
        colors=class_names.palette(len(names)) if segmenter else (),
        channels=published.channels,
        dtype="uint8",
        greatest=255.0,
        mean=tuple(mean),
        std=tuple(std),
        class_counts=(),
        sizes=dict.fromkeys(SPLITS, 0),
        image_px=None if segmenter else image_px,
        fingerprint=published.digest,
    )
    return config, info
