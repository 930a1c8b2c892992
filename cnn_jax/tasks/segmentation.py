"""What is particular to segmenting scenes: how examples become crops, how predictions are counted,
scored and pictured."""

import functools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cnn_jax import configuration
from cnn_jax.configuration import Config
from cnn_jax.data import augmentation, resident
from cnn_jax.data import scene_folders as aerial
from cnn_jax.data.normalization import normalization
from cnn_jax.data.pipeline import DecodedScenes, RegionSource
from cnn_jax.data.scenes import SPLITS, SceneSet
from cnn_jax.errors import InputError
from cnn_jax.evaluation import boundaries, evaluate, metrics, statistics
from cnn_jax.evaluation.calibration import expected_calibration_error
from cnn_jax.records import scene_record
from cnn_jax.tracing_cache import NOT_KEPT
from cnn_jax.training import losses, optimizer, state


class Segmentation:
    """The task that a configuration and a set of scenes make.

    Args:
        config: checked.
        scenes: the splits. All are decoded once, here: a file that can't be used is found before
            the first step, not after hours.
        tracings: where what is traced is kept. Given, what draws the weights is compiled while
            scenes are decoded, and not only when the initial state is asked for.

    Raises:
        InputError: a scene can't be decoded, or a split that is needed has no scenes or no labelled
            pixel.
    """

    headline = "validation/miou"
    accuracy = "pixel_accuracy"
    example = "crops"
    evaluated = ("validation", "test")

    def __init__(self, config: Config, scenes: SceneSet, tracings=None):
        augmentation.check(config.augmentation)
        if not scenes.splits["train"]:
            raise InputError(
                f"no scenes of {config.data.source} are left to train on: leave some to the train"
                " split."
            )
        if config.evaluation.weights == "best" and not scenes.splits["validation"]:
            raise InputError(
                "evaluation.weights is 'best', but there is no validation split to choose by: use"
                " 'last', or hold some out."
            )
        augmentation.check_channels(
            config.augmentation, scenes.channels, scenes.dtype, config.data.source
        )
        self.config, self.classes = config, scenes.classes
        self.channels, self.greatest = scenes.channels, scenes.greatest
        self.names = [c.name for c in scenes.classes]
        if config.loss.activation == "sigmoid" and len(self.names) != 2:
            raise InputError(
                f"loss.activation is 'sigmoid', which is for two classes, and {config.data.source}"
                f" has {len(self.names)}: use 'softmax'."
            )
        budget = config.data.memory_budget_gib * 2**30
        pixel_bytes = scenes.channels * np.dtype(scenes.dtype).itemsize + 1
        sizes = {
            s: sum(x.height_px * x.width_px * pixel_bytes for x in scenes.splits[s]) for s in SPLITS
        }
        total = max(sum(sizes.values()), 1)
        self.scenes = {
            s: DecodedScenes(scenes.splits[s], budget * sizes[s] / total) for s in SPLITS
        }
        self.optimizer = optimizer.make_optimizer(config.optimizer, config.training.steps)
        self._tracings = tracings or NOT_KEPT
        with ThreadPoolExecutor(1) as decoding:
            counts = decoding.submit(self._count_classes, scenes)
            if (
                tracings is not None
            ):  # what the module itself refuses is refused here, before the run has a folder
                initializer = self._initializer
                if counts.done():
                    # a scene that can't be decoded is told of before seconds of compilation
                    counts.result()
                initializer.compile()
            self.class_counts = counts.result()
        for split, counts in self.class_counts.items():
            if not counts.any():
                raise InputError(
                    f"no pixel of the {split} split of {config.data.source} is labelled with a"
                    " class: look at it with cnn_jax.commands.inspect_data and mend the"
                    " description or the split."
                )
        self.mean, self.std = normalization(
            config.data, scenes.channels, scenes.greatest, self.scenes["train"]
        )
        for sentence in aerial.warnings_of(scenes, self.class_counts):
            print(f"note: {sentence}", flush=True)
        self.fingerprint = scenes.fingerprint
        self.sizes = {split: len(scenes.splits[split]) for split in SPLITS}
        self._window_steps = {}

    def _count_classes(self, scenes):
        return {
            s: aerial.class_counts(self.scenes[s], len(self.names))
            for s in SPLITS
            if scenes.splits[s]
        }

    @staticmethod
    def open(config: Config) -> SceneSet:
        """The data of a configuration, not decoded yet."""
        return aerial.open_scenes(config.data)

    def model(self, axis_name: str | None = None):
        """The Flax module; `axis_name` is the `pmap` axis."""
        logits = 1 if self.config.loss.activation == "sigmoid" else len(self.names)
        return configuration.build_model(
            self.config.model,
            num_classes=logits,
            axis_name=axis_name,
            crop_px=self.config.data.crop_px,
        )

    @property
    def example_px(self) -> tuple[int, int, int]:
        """Height, width and channels of a training example."""
        return (*self.config.data.crop_px, self.channels)

    def initial_state(self) -> state.TrainState:
        """The state before step 0, drawn from the seed."""
        return self._initializer(self.config.seed)

    @functools.cached_property
    def _initializer(self):
        averaged = self.config.optimizer.ema_decay > 0
        return state.Initializer(
            self.model(),
            self.optimizer,
            self.example_px,
            averaged=averaged,
            tracings=self._tracings,
        )

    @functools.cached_property
    def class_weights(self) -> np.ndarray | None:
        """What a pixel of each class counts in the loss, float32 `[classes]`; None: all alike."""
        return losses.class_weights(self.class_counts["train"], self.config.loss.class_weights)

    @functools.cached_property
    def loss(self):
        """`(logits, labels) -> (sum, count)` with the class weights of the training scenes."""
        return losses.of(self.config.loss, self.class_weights)

    @functools.cached_property
    def region_px(self) -> tuple[int, int]:
        """Height and width of the regions that training crops are taken from: no larger than the
        largest scene."""
        wanted = augmentation.region_px(self.config.data.crop_px, self.config.augmentation)
        return tuple(
            min(a, b) for a, b in zip(wanted, self.scenes["train"].largest_px, strict=True)
        )

    @functools.cached_property
    def training_source(self) -> RegionSource:
        """Random access to the training regions."""
        config = self.config
        try:
            windows = augmentation.Windows(config.seed, config.data.crop_px, config.augmentation)
        except RuntimeError:  # without a CPU device regions are read whole
            windows = None
        return RegionSource(self.scenes["train"], config.data.crop_px, self.region_px, windows)

    def resident(self) -> dict[str, np.ndarray]:
        """What lies on each device, so that an example need only say its number."""
        return resident.scenes(self.training_source, self.config.data.memory_budget_gib)

    def augment(self, keys, regions):
        """Training crops from regions: normalised images float32 `[batch, height, width, channels]`
        and labels int32."""
        data = self.config.data
        if "number" in regions:
            regions = resident.regions(regions)
        images, labels = augmentation.augment_examples(
            keys, regions, self.config.augmentation, data.crop_px, self.greatest
        )
        return self.normalize(images), labels

    def normalize(self, images):
        """Images from 0 to 1 as the model sees them."""
        return augmentation.normalize(images, self.mean, self.std)

    def evaluator(self, split: str, devices) -> evaluate.SceneEvaluator:
        """Evaluates a split on the devices."""
        if devices not in self._window_steps:  # one for all splits, so that it is compiled once
            step = evaluate.make_window_step(
                self.model(), self.loss, self.normalize, len(self.names), self.greatest
            )
            self._window_steps[devices] = devices.predict(step)
        return evaluate.SceneEvaluator(
            self.scenes[split],
            self._window_steps[devices],
            devices,
            self.config.evaluation,
            len(self.names),
        )

    def scores(self, evaluation: evaluate.Evaluation, split: str) -> dict:
        """Loss and figures of merit, keyed by split and averaging; None where no pixel was
        counted."""
        error = (
            expected_calibration_error(**evaluation.calibration)
            if evaluation.calibration
            else float("nan")
        )
        return {
            f"{split}/loss": evaluation.loss,
            **metrics.scores(evaluation.total, self.names, split),
            f"{split}/expected_calibration_error": None if math.isnan(error) else error,
        }

    def summary(
        self, evaluator: evaluate.SceneEvaluator, variables, split: str, check=lambda: None
    ):
        """(scores and what they were counted on, the evaluation): boundaries, scene by scene,
        chance; the confusion matrix, bins of confidence."""
        self.thumbnails = {}
        shown = scene_record.shown(len(evaluator.scenes))

        def keep(index, prediction):
            if index in shown:
                self.thumbnails[index] = scene_record.thumbnail(prediction)

        evaluation = evaluator.evaluate(variables, check, keep)
        confusion = evaluation.confusion
        by_scene = [metrics.miou(matrix) for matrix in confusion]
        boundary = boundaries.boundary_iou(evaluation.boundary.sum(0))
        figures = {
            "image_miou": metrics.mean_present(by_scene),
            "boundary_miou": metrics.mean_present(boundary),
            **{
                f"boundary_iou/{name}": float(value)
                for name, value in zip(self.names, boundary, strict=True)
            },
        }
        low, high = statistics.bootstrap_interval(confusion, metrics.miou)
        summary = {
            **self.scores(evaluation, split),
            **{
                f"{split}/{key}": None if math.isnan(value) else value
                for key, value in figures.items()
            },
            f"{split}/miou_interval": None if math.isnan(low) else [low, high],
            f"{split}/scenes": len(confusion),
            f"{split}/pixels": int(evaluation.total.sum()),
            f"{split}/confusion": evaluation.total.tolist(),
            f"{split}/calibration": {
                key: value.tolist() if key == "confidence" else value.astype(int).tolist()
                for key, value in evaluation.calibration.items()
            },
        }
        return summary, evaluation

    def record(
        self, folder, evaluator: evaluate.SceneEvaluator, evaluation: evaluate.Evaluation
    ) -> None:
        """What comparisons need of each test scene: counts in scenes.json and small pictures in
        scenes/."""
        scene_record.write(folder, evaluator.scenes, evaluation, self.classes, self.thumbnails)

    def pictures(self, folder, lines, evaluator, evaluation, variables) -> None:
        """Learning curves, confusion matrix and a gallery of scenes from the worst to the best, as
        PNG files in `folder`."""
        from cnn_jax.reporting import figures, resizing, scene_figures

        figures.learning_curves(lines, folder / "learning_curves.png")
        if evaluation is None:
            return
        figures.confusion_matrix(evaluation.total, self.names, folder / "confusion_matrix.png")
        miou = np.array([metrics.miou(matrix) for matrix in evaluation.confusion])
        order = np.argsort(miou, kind="stable")[
            : np.isfinite(miou).sum()
        ]  # a scene without a labelled pixel is neither
        count = min(self.config.evaluation.gallery_scenes, len(order))
        chosen = order[np.linspace(0, len(order) - 1, count).round().astype(int)]
        rows = [
            resizing.pictured(*evaluator.scenes[int(i)], evaluator.predict(variables, int(i)))
            for i in chosen
        ]
        scene_figures.gallery(
            *zip(*rows, strict=True),
            self.names,
            [c.color for c in self.classes],
            folder / "gallery.png",
            titles=[
                f"{evaluator.scenes.scenes[i].name}: mIoU {miou[i]:.3f}, "
                f"pixel accuracy {metrics.pixel_accuracy(evaluation.confusion[i]):.3f}"
                for i in chosen
            ],
        )
