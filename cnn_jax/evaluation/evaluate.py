"""What a model's predictions on scenes are worth: original resolution, every pixel once."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnn_jax.configuration.schema import EvaluationConfig
from cnn_jax.data.pipeline import DecodedScenes, in_order, read_ahead
from cnn_jax.data.scenes import IGNORED
from cnn_jax.evaluation import boundaries, metrics
from cnn_jax.evaluation.calibration import calibration_counts
from cnn_jax.evaluation.windows import WindowSource, counted_part
from cnn_jax.training.losses import class_logits


@dataclass(frozen=True)
class Evaluation:
    """What a split's predictions came to.

    Attributes:
        confusion: int64 `[scenes, classes, classes]`.
        loss: the mean over all counted pixels, weighted as in training; None where there are none.
        calibration: `count`, `confidence` and `correct`, float64 `[bins]` each, over all scenes, as
            `calibration_counts` makes them.
        boundary: int64 `[scenes, classes, 2]`, as `boundary_counts` makes them; None unless asked
            for.
    """

    confusion: np.ndarray
    loss: float | None
    calibration: dict[str, np.ndarray]
    boundary: np.ndarray | None = None

    @property
    def total(self) -> np.ndarray:
        """The confusion matrix over all scenes, int64 `[classes, classes]`."""
        return self.confusion.sum(0)


def make_window_step(
    model: nn.Module, loss: Callable, normalize: Callable, classes: int
) -> Callable:
    """`(variables, batch) -> results`, to be compiled; one row of each result is one window.

    `normalize` makes the network's input, float32, of stored pixels.

    Results: `confusion` int32 `[batch, classes, classes]`, `prediction` uint8 `[batch, height,
    width]`, `loss_sum` and `loss_count` float32 `[batch]`, and what `calibration_counts` gives,
    `[batch, bins]`.
    """

    def window_step(variables, batch):
        logits = model.apply(variables, normalize(batch["image"]), train=False)
        return window_results(cast(jax.Array, logits), batch["mask"], loss, classes)

    return window_step


def window_results(logits: jax.Array, masks: jax.Array, loss: Callable, classes: int) -> dict:
    """What windows of these logits come to, each by itself: the results of `make_window_step`.

    Args:
        logits: float32 `[batch, height, width, classes]`, or one for two classes.
        masks: uint8 `[batch, height, width]`.
        loss: `(logits, labels) -> (sum, count)`.
        classes: their number.
    """
    labels = masks.astype(jnp.int32)
    loss_sum, loss_count = jax.vmap(loss)(logits, labels)
    logits = class_logits(logits)
    prediction = logits.argmax(-1)
    return {
        "confusion": metrics.confusion(labels, prediction, classes),
        "prediction": prediction.astype(jnp.uint8),
        "loss_sum": loss_sum,
        "loss_count": loss_count,
        **calibration_counts(logits, labels),
    }


class SceneEvaluator:
    """Evaluates one split again and again, with one compiled step.

    Args:
        scenes: the split, decoded.
        window_step: compiled, of `make_window_step`.
        devices: where batches go.
        config: the `evaluation` section.
        classes: their number.
    """

    def __init__(
        self,
        scenes: DecodedScenes,
        window_step: Callable,
        devices: Any,
        config: EvaluationConfig,
        classes: int,
    ) -> None:
        self.scenes, self.window_step, self.devices, self.classes = (
            scenes,
            window_step,
            devices,
            classes,
        )
        self.batch_size = (
            -(-config.batch_size // devices.count) * devices.count
        )  # what no window fills is padded
        self.source = WindowSource(scenes, config.window_px, config.context_px)

    def _results(self, variables, source, check: Callable):
        """Yields (number of the first window, results on the host) batch by batch; the last is
        padded with ignored windows."""
        if not len(source):
            return
        share = self.devices.share(self.batch_size)

        def read(numbers):
            examples = [source[number] for number in numbers[share]]
            return _padded(
                examples or [source[numbers[0]]], len(numbers[share]), share.stop - share.start
            )

        batches = in_order(len(source), self.batch_size, read)
        waiting: tuple[int, dict] | None = None
        for number, batch in enumerate(
            read_ahead(batches, 0, self.devices.place, prefetch_batches=2)
        ):
            check()
            results = self.window_step(variables, batch)
            if (
                waiting is not None
            ):  # fetched one batch late, so that devices don't wait for the host
                yield waiting[0], {k: np.asarray(v) for k, v in waiting[1].items()}
            waiting = number * self.batch_size, results
        if waiting is not None:
            yield waiting[0], {k: np.asarray(v) for k, v in waiting[1].items()}

    def evaluate(
        self,
        variables: Any,
        check: Callable = lambda: None,
        whole: Callable[[int, np.ndarray], None] | None = None,
    ) -> Evaluation:
        """Counts every pixel of every scene once.

        Args:
            variables: the model's.
            check: called before each batch; may raise to stop.
            whole: called with each scene's number and whole prediction, uint8 `[height, width]`,
                one after the other; boundaries are then counted too.
        """
        confusion = np.zeros((len(self.scenes), self.classes, self.classes), np.int64)
        boundary = np.zeros((len(self.scenes), self.classes, 2), np.int64)
        calibration = {}
        loss_sum = loss_count = 0.0
        missing = Counter(scene for scene, _, _ in self.source.windows)
        prediction = None
        for first, results in self._results(variables, self.source, check):
            for row, window in enumerate(self.source.windows[first : first + self.batch_size]):
                scene = window[0]
                confusion[scene] += results["confusion"][row]
                if whole is None or boundary is None:
                    continue
                prediction = self._blank(scene) if prediction is None else prediction
                _paste(prediction, results["prediction"][row], window)
                missing[scene] -= 1
                if not missing[scene]:
                    boundary[scene] = boundaries.boundary_counts(
                        self.scenes[scene][1], prediction, self.classes
                    )
                    whole(scene, prediction)
                    prediction = None
            for key in ("count", "confidence", "correct"):
                calibration[key] = calibration.get(key, 0) + results[key].sum(0, dtype=np.float64)
            loss_sum += float(results["loss_sum"].sum(dtype=np.float64))
            loss_count += float(results["loss_count"].sum(dtype=np.float64))
        return Evaluation(
            confusion,
            loss_sum / loss_count if loss_count else None,
            calibration,
            None if whole is None else boundary,
        )

    def _blank(self, index):
        scene = self.scenes.scenes[index]
        return np.full((scene.height_px, scene.width_px), IGNORED, np.uint8)

    def predict(self, variables: Any, index: int) -> np.ndarray:
        """The prediction for scene `index` at its own resolution: uint8 `[height, width]`."""
        numbers = [k for k, (scene, _, _) in enumerate(self.source.windows) if scene == index]
        chosen = [self.source.windows[k] for k in numbers]
        whole = self._blank(index)
        for first, results in self._results(variables, _Subset(self.source, numbers), lambda: None):
            for row, window in enumerate(chosen[first : first + self.batch_size]):
                _paste(whole, results["prediction"][row], window)
        return whole


def _paste(whole, prediction, window):
    """Writes what a window counts into the prediction of its scene."""
    _, vertical, horizontal = window
    whole[vertical.first : vertical.last, horizontal.first : horizontal.last] = prediction[
        counted_part(vertical, horizontal)
    ]


class _Subset:
    def __init__(self, source, numbers):
        self.source, self.numbers = source, numbers

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, record_key):
        return self.source[self.numbers[record_key]]


def _padded(examples, kept: int, size: int):
    """The first `kept` examples as arrays `[size, ...]`; where there are fewer, ignored ones are
    added."""
    blank = {**examples[0], "mask": np.full_like(examples[0]["mask"], IGNORED)}
    examples = [*examples[:kept], *[blank] * (size - kept)]
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}
