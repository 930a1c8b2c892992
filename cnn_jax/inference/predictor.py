"""A finished run, ready to use: its network and weights, without the data it was trained on."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from cnn_jax import tasks
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.rasters import DamagedError
from cnn_jax.errors import InputError
from cnn_jax.inference import object_prediction
from cnn_jax.inference.prediction import Prediction
from cnn_jax.inference.scenes import opened
from cnn_jax.inference.windows import Axis, axis, blended
from cnn_jax.records import run_record, weights
from cnn_jax.records.metrics import OBJECT_TASKS
from cnn_jax.tasks.network import abstract_variables
from cnn_jax.tasks.programs import shared
from cnn_jax.tasks.task import Dataset
from cnn_jax.training.devices import Devices


class Predictor:
    """What makes predictions: one run, or several that are averaged.

    Attributes:
        folder: of the (first) record.
        config: of the (first) run: its windows are taken.
        info: of the data.
        devices: that the networks lie on.
    """

    folder: Path
    config: Any
    info: DatasetInfo
    devices: Devices

    def probabilities(self, images: np.ndarray) -> Any:
        """Of stored images `[batch, height, width, channels]`, of a size that the network takes:
        float32 `[batch, height, width, classes]`, of a classifier `[batch, classes]`."""
        raise NotImplementedError

    @property
    def batch_size(self) -> int:
        """Windows, or images, at once."""
        count = self.devices.count
        return -(-self.config.evaluation.batch_size // count) * count

    def predict(self, images: Any, *, augment: bool = False, blend: str = "gaussian") -> Any:
        """The network's answer.

        Args:
            images: one, `[height, width, channels]` of the type that the run's files have, and of
                a segmenter any size; the path of one; a list of these; or a generator of them.
            augment: whether it is averaged over flips and quarter turns.
            blend: how windows are weighted where they overlap: one of `windows.BLENDS`.

        Returns:
            A `Prediction`, of a run that finds objects an `ObjectPrediction`; a list of them for a
            list; for a generator a generator.

        Raises:
            InputError: a file that can't be read, another number of channels, or another type.
        """
        if isinstance(images, str | Path):
            pixels, void = self._read(Path(images).expanduser())
            answer = self.predict(pixels, augment=augment, blend=blend)
            return answer if void is None else replace(answer, void=void)
        if isinstance(images, Sequence):
            return list(self._each(images, augment, blend))
        if isinstance(images, Iterator):
            return self._each(images, augment, blend)
        image = np.asarray(images)
        self._check(image)
        if self.config.task in OBJECT_TASKS:
            if augment:
                raise InputError("augment is for segmenters and classifiers: leave it out.")
            return object_prediction.of_array(self, image)
        if self.config.task == "segmentation":
            found = np.empty((*image.shape[:2], len(self.info.classes)), np.float32)
            rows = self.predict_rows(
                lambda first, last: image[first:last],
                *image.shape[:2],
                augment=augment,
                blend=blend,
            )
            for first, part in rows:
                found[first : first + len(part)] = part
        else:
            found = np.asarray(self.averaged(image[None], augment))[0]
        return Prediction(found, self.info.classes, self.info.colors)

    def _each(self, images: Iterable, augment, blend) -> Iterator[Prediction]:
        for image in images:
            yield self.predict(image, augment=augment, blend=blend)

    def predict_rows(
        self,
        read: Callable[[int, int], np.ndarray],
        height: int,
        width: int,
        *,
        augment: bool = False,
        blend: str = "gaussian",
        first_row: int = 0,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """A segmenter's answer for a scene of any size, from top to bottom; what lies in memory is
        one row of windows.

        Args:
            read: `(first row, last row) -> pixels [rows, width, channels]`; each row is asked for
                once, in order, from some way above `first_row`.
            height: of the scene.
            width: of the scene.
            augment: as in `predict`.
            blend: as in `predict`.
            first_row: where the answer begins.

        Yields:
            (number of the first row, probabilities float32 `[rows, width, classes]`), which the
            next turn overwrites.
        """

        def predict(windows):
            return self.averaged(windows, augment)

        return self.over_windows(read, predict, *self.axes(height, width, blend), first_row)

    def over_windows(
        self,
        read: Callable[[int, int], np.ndarray],
        predict: Callable[[np.ndarray], Any],
        rows: Axis,
        columns: Axis,
        first_row: int = 0,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """`windows.blended`, as fast as the devices let it. On a CPU a thread computes each window
        of what would be a batch: XLA leaves cores idle, and no window is computed for nothing."""
        at_once = self.batch_size
        if not self.devices.is_one_cpu or at_once == 1:
            yield from blended(read, predict, rows, columns, at_once, first_row)
            return
        compiled = False

        def submitted(windows):
            nonlocal compiled
            if not compiled:  # once, and not by every thread
                compiled = True
                return predict(windows)
            return pool.submit(lambda: np.asarray(predict(windows)))

        with ThreadPoolExecutor(at_once) as pool:
            yield from blended(read, submitted, rows, columns, 1, first_row, ahead=at_once)

    def axes(self, height: int, width: int, blend: str = "gaussian") -> tuple[Axis, Axis]:
        """The windows over a scene of that size, from top to bottom and from left to right."""
        settings = self.config.evaluation
        down, across = (
            axis(length, window, overlap_px(window, settings.context_px), blend)
            for length, window in zip((height, width), settings.window_px, strict=True)
        )
        return down, across

    def averaged(self, images: np.ndarray, augment: bool) -> Any:
        """`probabilities`, averaged over flips and quarter turns (of oblong images of classifiers
        over flips) if asked for."""
        if not augment:
            return self.probabilities(images)
        square = images.shape[1] == images.shape[2]
        dense = self.config.task == "segmentation"
        turns = range(4) if square or dense else (0, 2)
        total: Any = 0
        for flip in (False, True):
            for turn in turns:
                seen = np.rot90(images[:, :, ::-1] if flip else images, turn, (1, 2))
                found = np.asarray(self.probabilities(np.ascontiguousarray(seen)))
                if dense:
                    found = np.rot90(found, -turn, (1, 2))
                    found = found[:, :, ::-1] if flip else found
                total = total + found
        return total / np.float32(2 * len(turns))

    def read(self, path: Path) -> np.ndarray:
        """The picture in a file, as the network takes it.

        Raises:
            InputError: it can't be read, or has other bands or another type than the run's.
        """
        return self._read(path)[0]

    def _read(self, path):
        """`read`, and of a segmenter's scene where it holds nothing, bool `[height, width]`."""
        if self.config.task in ("segmentation", *OBJECT_TASKS):
            scene = opened(path.stem, path, self.info)
            scene.read(0, scene.height_px)
            if scene.damaged:
                raise InputError(f"{scene.damaged[0]}: copy the file again.")
            pixels, void = scene.taken(0, scene.height_px)
            return pixels, void if self.config.task == "segmentation" else None
        from cnn_jax.data.images import decoded

        return self._as_trained(path, lambda *kind: decoded(path.read_bytes(), *kind)), None

    def check_file(self, path: Path) -> None:
        """Raises InputError where a classifier can't take the picture in a file, as its header
        tells."""
        from cnn_jax.data.images import of_kind

        self._as_trained(path, lambda *kind: of_kind(path, *kind[:-1]))

    def _as_trained(self, path, of):
        """What a function makes of the kind of images that a classifier was trained on."""
        data = self.config.data
        if data.permuted:
            raise InputError(
                f"the run in {self.folder} was trained on images whose pixels are scattered, which"
                " no file holds: give arrays."
            )
        assert self.info.image_px is not None  # of every classifier's data
        try:
            info, kept = self.info, (data.seen_share, data.interpolation)
            return of(info.channels, info.dtype, info.image_px, *kept)
        except OSError as error:
            sentence = f"{path} can't be read ({error.strerror}): check the path."
            raise DamagedError(sentence) from error
        except InputError as error:
            raise type(error)(f"{path} {error}") from error

    def _check(self, image):
        info = self.info
        if image.ndim != 3 or image.shape[2] != info.channels or str(image.dtype) != info.dtype:
            raise InputError(
                f"the image is {image.dtype} {list(image.shape)}, and the run in {self.folder}"
                f" takes {info.dtype} [height, width, {info.channels}]: convert it."
            )
        if not image.size:
            raise InputError(f"the image is {list(image.shape)}, which is no pixel: give another.")
        of_any_size = ("segmentation", *OBJECT_TASKS)
        if self.config.task not in of_any_size and image.shape[:2] != tuple(info.image_px or ()):
            raise InputError(
                f"the image is {image.shape[0]}x{image.shape[1]} px, and the network takes"
                f" {info.image_px}: resize it."
            )


def overlap_px(window_px: int, context_px: int) -> int:
    """What neighbouring windows share: at least what evaluation's do, and a quarter, but no more
    than half."""
    return min(max(2 * context_px, window_px // 4), window_px // 2)


@dataclass(frozen=True)
class Run(Predictor):
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
        digest: of the configuration, as recorded.
        half: whether the variables were read as float16, and so are not quite those of the record.
    """

    folder: Path
    config: Any
    info: DatasetInfo
    summary: Mapping[str, Any]
    learner: Any
    variables: Any = field(repr=False)
    devices: Devices
    digest: str = ""
    half: bool = False

    def __reduce__(self) -> tuple:
        """Pickled without its compiled programs, and without the devices of this process."""
        held = self.folder, self.config, self.info, self.summary
        return _unpickled, (*held, jax.device_get(self.variables), self.digest, self.half)

    @property
    def model(self) -> nn.Module:
        """The Flax module: `model.apply(variables, normalize(images), train=False)` are logits."""
        return self.learner.module()

    @property
    def normalize(self) -> Callable:
        """`images -> inputs`: from the type of the run's files to what the model sees."""
        return self.learner.normalize

    @property
    def _compiled(self) -> Callable:
        learner, devices = self.learner, self.devices  # equal runs of other seeds share the program
        model = self.config.model
        return shared(
            learner, "probabilities", lambda: devices.predict(learner.probabilities, model), devices
        )

    def probabilities(self, images: np.ndarray) -> Any:
        """See `Predictor.probabilities`."""
        count = len(images)
        missing = -count % self.devices.count
        if missing:
            images = np.concatenate([images, np.repeat(images[-1:], missing, 0)])
        found = self._compiled(self.variables, self.devices.place(images))
        return found[:count] if missing else found

    def open_data(self, directory: str = "", split: str = "test") -> Dataset:
        """The data that the run was trained and evaluated on.

        Args:
            directory: where they lie, if no longer where the configuration says.
            split: which they are opened for.

        Raises:
            InputError: they aren't there, are other data, or have nothing in the split; or the run
                was imported.
        """
        if not any(self.info.sizes.values()):
            raise InputError(
                f"the run in {self.folder} was imported without data: give one that was trained."
            )
        if not self.info.sizes.get(split):
            raise InputError(f"--split {split} is empty in this data set; choose another.")
        config = self.config
        if directory:
            config.data.directory = str(Path(directory).expanduser())
        dataset = tasks.of(config.task).dataset(config, self.info.description)
        if dataset.info.fingerprint != self.info.fingerprint:
            raise InputError(
                f"the data in {config.data.directory or config.data.source} are not those of the"
                f" run in {self.folder} (fingerprint {dataset.info.fingerprint}, recorded"
                f" {self.info.fingerprint}); give the right folder with --directory."
            )
        return dataset


def _unpickled(folder, config, info, summary, variables, digest, half):
    learner, devices = tasks.of(config.task).learner(config, info), Devices()
    variables = devices.copy(variables)
    return Run(folder, config, info, summary, learner, variables, devices, digest, half)


@dataclass(frozen=True)
class Ensemble(Predictor):
    """Runs whose probabilities are averaged; made by `ensemble`.

    Attributes:
        runs: of the same classes, channels and type.
    """

    runs: tuple[Run, ...]

    @property
    def folder(self) -> Path:  # type: ignore[override]
        """Of the first run."""
        return self.runs[0].folder

    @property
    def config(self) -> Any:  # type: ignore[override]
        """Of the first run, whose windows are taken."""
        return self.runs[0].config

    @property
    def info(self) -> DatasetInfo:  # type: ignore[override]
        """Of the first run's data."""
        return self.runs[0].info

    @property
    def devices(self) -> Devices:  # type: ignore[override]
        """Of the first run."""
        return self.runs[0].devices

    def probabilities(self, images: np.ndarray) -> Any:
        """The mean over the runs, each of which normalises the images as it was trained to."""
        return sum(run.probabilities(images) for run in self.runs) / np.float32(len(self.runs))


def ensemble(runs: Iterable[Run | str | Path]) -> Ensemble:
    """Several runs as one, which averages their probabilities.

    Args:
        runs: loaded, or their folders.

    Raises:
        InputError: it is no list, there is none, they find objects, or two differ in task, classes,
            channels, bands, type, image size, or how much of a picture they see and how it is
            resized.

    Example:
        both = cnn_jax.ensemble(["results/runs/seed0", "results/runs/seed1"])
        prediction = both.predict(image)
    """
    if isinstance(runs, str | Path):
        raise InputError(f"an ensemble is of several runs, and {runs} is one: give a list.")
    members = tuple(run if isinstance(run, Run) else load(run) for run in runs)
    if not members:
        raise InputError("an ensemble of no runs can't predict: give some.")
    first = members[0]
    if first.config.task in OBJECT_TASKS:
        raise InputError(
            f"the run in {first.folder} is of {first.config.task}, whose objects can't be averaged:"
            " predict with one run."
        )
    for other in members[1:]:
        of_both, data = (first.info, other.info), (first.config.data, other.config.data)
        bands = [info.bands or tuple(range(1, info.channels + 1)) for info in of_both]
        for name, ours, theirs in (
            ("task", first.config.task, other.config.task),
            ("classes", first.info.classes, other.info.classes),
            ("channels", first.info.channels, other.info.channels),
            ("bands", *bands),
            ("dtype", first.info.dtype, other.info.dtype),
            # One picture is prepared for all of them.
            ("crop share", *(getattr(of, "seen_share", 1.0) for of in data)),
            ("interpolation", *(getattr(of, "interpolation", "") for of in data)),
            ("image size", first.info.image_px, other.info.image_px),
        ):
            if ours != theirs and (name != "image size" or first.config.task != "segmentation"):
                raise InputError(
                    f"{first.folder} and {other.folder} differ in {name} ({ours}, {theirs}):"
                    " average runs of the same."
                )
    return Ensemble(members)


def load(folder: str | Path) -> Run:
    """A finished run from its folder, wherever that lies now.

    Its weights are those of the checkpoint that the figures are of; where that is missing, those in
    `weights.safetensors`, which `cnn-jax export` writes.

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
    learner: Any = tasks.of(config.task).learner(config, record.info)
    if not isinstance(learner.module(), nn.Module):
        raise InputError(f"{folder} is of {config.model.name}, whose weights can't be loaded.")
    devices = Devices()
    step, variables = record.summary.get("evaluated_step"), abstract_variables(learner)
    digest, half = record.environment["digest"], False
    checkpoint, exported = folder / "checkpoints" / str(step), folder / weights.NAME
    if checkpoint.is_dir():
        variables = of_checkpoint(checkpoint, config, learner.monitor, digest, variables, devices)
    elif exported.is_file():
        variables = devices.copy(weights.read(exported, variables, digest))
        half = weights.is_half(exported)
    else:
        raise InputError(
            f"{folder} has neither the checkpoint of step {step}, which the figures are of, nor"
            f" {weights.NAME}: only the record of this run is here; run its config.json again, or"
            " copy the weights there."
        )
    figures = record.summary
    return Run(folder, config, record.info, figures, learner, variables, devices, digest, half)


def of_checkpoint(
    checkpoint: Path, config: Any, monitor: str, digest: str, variables: Any, devices: Devices
) -> Any:
    """The variables in a run's checkpoint that predictions are made with, on the devices.

    Args:
        checkpoint: its folder, named after its step.
        config: of the run.
        monitor: of its learner.
        digest: of its configuration.
        variables: their shapes and types.
        devices: that they are placed on.

    Raises:
        InputError: it can't be read, or is of another run.
    """
    from cnn_jax.training.checkpoints import Checkpoints
    from cnn_jax.training.optimizer import make_optimizer
    from cnn_jax.training.state import TrainState

    optimizer = make_optimizer(config.optimizer, config.training.steps)
    like = TrainState(
        jax.ShapeDtypeStruct((), np.int32),  # type: ignore[arg-type]
        variables,
        jax.eval_shape(optimizer.init, variables["params"]),
        variables if config.optimizer.ema_decay > 0 else None,
    )
    checkpoints = Checkpoints(
        checkpoint.parent,
        keep=config.training.keep_checkpoints,
        best=f"validation/{monitor}",
        digest=digest,
    )
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.replicated), like
    )
    state, _, _ = checkpoints.restore(like, int(checkpoint.name))
    checkpoints.close()
    return state.evaluated
