"""A finished run, ready to use: its network and weights, without the data it was trained on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from cnn_jax import tasks
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.errors import InputError
from cnn_jax.inference.prediction import Prediction
from cnn_jax.records import run_record
from cnn_jax.tasks.task import Dataset
from cnn_jax.training.checkpoints import Checkpoints
from cnn_jax.training.devices import Devices
from cnn_jax.training.optimizer import make_optimizer
from cnn_jax.training.state import create


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: of its record.
        config: as recorded.
        info: of the data it was trained on.
        summary: its figures.
        learner: made from configuration and info alone.
        variables: of the checkpoint that the figures are of, with averaged weights if it evaluated
            these.
        devices: that the variables lie on.
    """

    folder: Path
    config: Any
    info: DatasetInfo
    summary: Mapping[str, Any]
    learner: Any
    variables: Any
    devices: Devices

    @property
    def model(self) -> nn.Module:
        """The Flax module: `model.apply(variables, normalize(images), train=False)` are logits."""
        return self.learner.module()

    @property
    def normalize(self) -> Callable:
        """`images -> inputs`: from the type of the run's files to what the model sees."""
        return self.learner.normalize

    def predict(self, image: np.ndarray) -> Prediction:
        """The network's answer for one image.

        Args:
            image: `[height, width, channels]` of the type that the run's files have; of a segmenter
                any size.

        Raises:
            InputError: another number of channels, or another type.
        """
        image, info = np.asarray(image), self.info
        if image.ndim != 3 or image.shape[2] != info.channels or str(image.dtype) != info.dtype:
            raise InputError(
                f"the image is {image.dtype} {list(image.shape)}, and the run in {self.folder}"
                f" takes {info.dtype} [height, width, {info.channels}]: convert it."
            )
        probabilities = self.learner.probabilities(self.variables, image)
        return Prediction(probabilities, info.classes, info.colors)

    def open_data(self, directory: str = "", split: str = "test") -> Dataset:
        """The data that the run was trained and evaluated on.

        Args:
            directory: where they lie, if no longer where the configuration says.
            split: which they are opened for.

        Raises:
            InputError: they aren't there, are other data, or have nothing in the split.
        """
        if not self.info.sizes.get(split):
            raise InputError(f"--split {split} is empty in this data set; choose another.")
        config = self.config
        if directory:
            config.data.directory = str(Path(directory).expanduser())
        dataset = tasks.of(config.task).dataset(config)
        if dataset.info.fingerprint != self.info.fingerprint:
            raise InputError(
                f"the data in {config.data.directory or config.data.source} are not those of the"
                f" run in {self.folder} (fingerprint {dataset.info.fingerprint}, recorded"
                f" {self.info.fingerprint}); give the right folder with --directory."
            )
        return dataset


def load(folder: str | Path) -> Run:
    """A finished run from its folder, wherever that lies now.

    Args:
        folder: the `--workdir` of the run.

    Raises:
        InputError: no finished run, one whose record contradicts itself, or no weights.

    Example:
        run = cnn_jax.load("results/runs/my_run")
        prediction = run.predict(image)
    """
    folder = Path(folder).expanduser()
    record = run_record.read(folder)
    config: Any = tasks.config_from_dict(record.config, str(folder / "config.json"))
    if config.task == "classic":
        raise InputError(
            f"{folder} is of a classic method, which keeps no weights; run its config.json again."
        )
    checkpoints_folder = folder / "checkpoints"
    if not checkpoints_folder.is_dir():
        raise InputError(
            f"{checkpoints_folder} is missing: only the record of this run is here; run its"
            " config.json again."
        )
    learner: Any = tasks.of(config.task).learner(config, record.info)
    checkpoints = Checkpoints(
        checkpoints_folder,
        keep=config.training.keep_checkpoints,
        best=f"validation/{learner.monitor}",
        digest=record.environment["digest"],
    )
    step = record.summary.get("evaluated_step")
    if step not in checkpoints.steps:
        raise InputError(
            f"{checkpoints_folder} has no checkpoint of step {step}, which the figures are of; run"
            " config.json again."
        )
    devices = Devices()
    optimizer = make_optimizer(config.optimizer, config.training.steps)
    like = jax.eval_shape(
        lambda: create(
            learner.module(),
            optimizer,
            config.seed,
            learner.example_px,
            averaged=config.optimizer.ema_decay > 0,
        )
    )
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.replicated), like
    )
    state, _, _ = checkpoints.restore(like, step)
    checkpoints.close()
    summary = record.summary
    return Run(folder, config, record.info, summary, learner, state.evaluated, devices)
