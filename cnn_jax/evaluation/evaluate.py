"""What a model's predictions on scenes are worth: original resolution, every pixel once."""

from collections.abc import Callable
from dataclasses import dataclass

import grain
import jax.numpy as jnp
import numpy as np

from cnn_jax.data.pipeline import DecodedScenes, read_ahead
from cnn_jax.data.scenes import IGNORED
from cnn_jax.evaluation import metrics
from cnn_jax.evaluation.tiling import WindowSource, counted_part


@dataclass(frozen=True)
class Evaluation:
    """`confusion` int64 `[scenes, classes, classes]`; `loss` is the mean over all counted pixels, weighted as in training; None
    where there are none."""

    confusion: np.ndarray
    loss: float | None

    @property
    def total(self) -> np.ndarray:
        """The confusion matrix over all scenes, int64 `[classes, classes]`."""
        return self.confusion.sum(0)


def make_window_step(model, loss: Callable, normalize: Callable, classes: int):
    """`(variables, batch) -> results`, to be compiled; one row of each result is one window.

    Results: `confusion` int32 `[batch, classes, classes]`, `prediction` uint8 `[batch, height, width]`, `loss_sum` and
    `loss_count` float32 `[batch]`.
    """
    import jax

    def window_step(variables, batch):
        logits = model.apply(variables, normalize(batch["image"].astype(jnp.float32) / 255), train=False)
        labels = batch["mask"].astype(jnp.int32)
        prediction = logits.argmax(-1)
        loss_sum, loss_count = jax.vmap(loss)(logits, labels)
        return {
            "confusion": metrics.confusion(labels, prediction, classes),
            "prediction": prediction.astype(jnp.uint8),
            "loss_sum": loss_sum,
            "loss_count": loss_count,
        }

    return window_step


class SceneEvaluator:
    """Evaluates one split again and again, with one compiled step.

    Args:
        scenes: the split, decoded.
        window_step: compiled, of `make_window_step`.
        devices: where batches go.
        config: the `evaluation` section.
        classes: their number.
    """

    def __init__(self, scenes: DecodedScenes, window_step, devices, config, classes: int):
        self.scenes, self.window_step, self.devices, self.classes = scenes, window_step, devices, classes
        self.batch_size = -(-config.batch_size // devices.count) * devices.count  # what no window fills is padded
        self.source = WindowSource(scenes, config.window_px, config.context_px)

    def _results(self, variables, source, check: Callable):
        """Yields (number of the first window, results on the host) batch by batch; the last is padded with ignored windows."""
        if not len(source):
            return
        batches = grain.MapDataset.source(source).batch(
            self.batch_size, batch_fn=lambda examples: _padded(examples, self.batch_size)
        )
        waiting = None
        for number, batch in enumerate(read_ahead(batches, 0, self.devices.place, prefetch_batches=2)):
            check()
            results = self.window_step(variables, batch)
            if waiting is not None:  # fetched one batch late, so that devices don't wait for the host
                yield waiting[0], {k: np.asarray(v) for k, v in waiting[1].items()}
            waiting = number * self.batch_size, results
        yield waiting[0], {k: np.asarray(v) for k, v in waiting[1].items()}

    def evaluate(self, variables, check: Callable = lambda: None) -> Evaluation:
        """Counts every pixel of every scene once. `check` is called before each batch and may raise to stop."""
        confusion = np.zeros((len(self.scenes), self.classes, self.classes), np.int64)
        loss_sum = loss_count = 0.0
        for first, results in self._results(variables, self.source, check):
            for row, (scene, _, _) in enumerate(self.source.windows[first : first + self.batch_size]):
                confusion[scene] += results["confusion"][row]
            loss_sum += float(results["loss_sum"].sum(dtype=np.float64))
            loss_count += float(results["loss_count"].sum(dtype=np.float64))
        return Evaluation(confusion, loss_sum / loss_count if loss_count else None)

    def predict(self, variables, index: int) -> np.ndarray:
        """The prediction for scene `index` at its own resolution: uint8 `[height, width]`."""
        numbers = [k for k, (scene, _, _) in enumerate(self.source.windows) if scene == index]
        chosen = [self.source.windows[k] for k in numbers]
        scene = self.scenes.scenes[index]
        whole = np.full((scene.height_px, scene.width_px), IGNORED, np.uint8)
        for first, results in self._results(variables, _Subset(self.source, numbers), lambda: None):
            for row, (_, vertical, horizontal) in enumerate(chosen[first : first + self.batch_size]):
                part = results["prediction"][row][counted_part(vertical, horizontal)]
                whole[vertical.first : vertical.last, horizontal.first : horizontal.last] = part
        return whole


class _Subset(grain.sources.RandomAccessDataSource):
    def __init__(self, source, numbers):
        self.source, self.numbers = source, numbers

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, record_key):
        return self.source[self.numbers[record_key]]


def _padded(examples, size: int):
    """Examples as arrays `[size, ...]`; where there are fewer, ignored ones are added."""
    blank = {**examples[0], "mask": np.full_like(examples[0]["mask"], IGNORED)}
    examples = [*examples, *[blank] * (size - len(examples))]
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}
