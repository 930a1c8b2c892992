"""Segmentation: each pixel of a scene gets its class."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.configuration.schema import SegmentationConfig
from cnn_jax.data import augmentation, resident, scene_folders
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.pipeline import DecodedScenes, RegionSource
from cnn_jax.data.scenes import SPLITS, SceneClass
from cnn_jax.errors import InputError
from cnn_jax.evaluation import boundaries, metrics, statistics
from cnn_jax.evaluation.calibration import expected_calibration_error
from cnn_jax.evaluation.evaluate import Evaluation, SceneEvaluator
from cnn_jax.models import SEGMENTERS
from cnn_jax.records import scene_record
from cnn_jax.tasks.network import LastEvaluation, check_module
from cnn_jax.tasks.segmentation_learner import SegmentationLearner
from cnn_jax.tasks.task import Report
from cnn_jax.tasks.torch_segmentation import PEERS, TorchLearner
from cnn_jax.training.devices import Devices


class SegmentationDataset:
    """Scenes and their masks, by split. All are decoded once, when this is made: a file that can't
    be used is found before the first step, not after hours.

    Attributes:
        info: of the scenes.
        scenes: split -> `DecodedScenes`.
        class_counts: split -> pixels of each class, int64 `[classes]`.

    Args:
        config: its sections `data` and `evaluation` are used.
        description: as a record holds it, instead of what `data.source` names.

    Raises:
        InputError: a scene can't be used, or a split that is needed has no scenes or no labelled
            pixel.
    """

    def __init__(
        self, config: SegmentationConfig, description: Mapping[str, Any] | None = None
    ) -> None:
        data = config.data
        scenes = scene_folders.open_scenes(data, recorded=description)
        if not scenes.splits["train"]:
            raise InputError(
                f"no scenes of {data.source} are left to train on: leave some to the train split."
            )
        if config.evaluation.weights == "best" and not scenes.splits["validation"]:
            raise InputError(
                "evaluation.weights is 'best', but there is no validation split to choose by: use"
                " 'last', or hold some out."
            )
        budget = data.memory_budget_gib * 2**30
        pixel_bytes = scenes.channels * np.dtype(scenes.dtype).itemsize + 1
        sizes = {
            s: pixel_bytes * sum(x.height_px * x.width_px for x in scenes.splits[s]) for s in SPLITS
        }
        total = max(sum(sizes.values()), 1)
        self.scenes = {
            s: DecodedScenes(scenes.splits[s], budget * sizes[s] / total) for s in SPLITS
        }
        self._evaluators = {}
        names = [known.name for known in scenes.classes]
        self.class_counts = {
            split: scene_folders.class_counts(self.scenes[split], len(names))
            for split in SPLITS
            if scenes.splits[split]
        }
        for split, counts in self.class_counts.items():
            if not counts.any():
                raise InputError(
                    f"no pixel of the {split} split of {data.source} is labelled with a class: look"
                    " at it with cnn-jax inspect-data and mend the description or the split."
                )
        self.info = scene_folders.dataset_info(
            data, scenes, self.scenes, self.class_counts["train"]
        )
        for sentence in scene_folders.warnings_of(scenes, self.class_counts):
            print(f"note: {sentence}", flush=True)

    def training_source(self, learner: SegmentationLearner) -> RegionSource:
        """Random access to the training regions, no larger than the largest scene."""
        return augmentation.training_regions(self.scenes["train"], learner.config)

    def resident(self, learner: SegmentationLearner) -> dict[str, np.ndarray]:
        """What lies on each device, so that an example need only say its number."""
        source = self.training_source(learner)
        return resident.scenes(source, learner.config.data.memory_budget_gib)

    def evaluator(
        self, learner: SegmentationLearner, split: str, devices: Devices
    ) -> "SegmentationEvaluator":
        """Evaluates a split on the devices."""
        key = learner, split, devices
        if key not in self._evaluators:
            self._evaluators[key] = SegmentationEvaluator(
                learner, self.scenes[split], split, devices
            )
        return self._evaluators[key]


class SegmentationEvaluator:
    """Evaluates the scenes of one split: whole, at their own resolution, every pixel once.

    Attributes:
        scenes: the split, decoded.
        windows: the `SceneEvaluator` beneath.
    """

    def __init__(
        self, learner: SegmentationLearner, scenes: DecodedScenes, split: str, devices: Devices
    ) -> None:
        self.learner, self.scenes, self.split = learner, scenes, split
        step, settings = learner.window_step(devices), learner.config.evaluation
        self.windows = SceneEvaluator(scenes, step, devices, settings, len(learner.names))
        self._last = LastEvaluation()

    def scores(
        self, variables: Any, check: Callable = lambda: None, last: bool = False
    ) -> dict[str, Any]:
        """Loss and figures of merit, keyed by split and averaging; None where no pixel counts."""
        boundaries_too = (lambda *scene: None) if last else None  # as `report` wants them
        evaluation = self.windows.evaluate(variables, check, boundaries_too)
        self._last.keep(variables, evaluation)
        return self._scores(evaluation)

    def _scores(self, evaluation: Evaluation) -> dict[str, Any]:
        error = float("nan")
        if evaluation.calibration:
            error = expected_calibration_error(**evaluation.calibration)
        return {
            f"{self.split}/loss": evaluation.loss,
            **metrics.scores(evaluation.total, self.learner.names, self.split),
            f"{self.split}/expected_calibration_error": None if math.isnan(error) else error,
        }

    def report(self, variables: Any, check: Callable = lambda: None) -> Report:
        """The scores, boundaries, chance, and what they were counted from: confusion matrix and
        bins of confidence."""
        thumbnails, shown = {}, scene_record.shown(len(self.scenes))

        def keep(index, prediction):
            if index in shown:
                thumbnails[index] = scene_record.thumbnail(prediction)

        evaluation = self._last.of(variables) if self.split == "validation" else None
        if evaluation is None or evaluation.boundary is None:
            evaluation = self.windows.evaluate(variables, check, keep)
        by_scene = [metrics.miou(matrix) for matrix in evaluation.confusion]
        assert evaluation.boundary is not None  # counted wherever whole predictions are
        boundary = boundaries.boundary_iou(evaluation.boundary.sum(0))
        by_class = zip(self.learner.names, boundary, strict=True)
        figures = {
            "image_miou": metrics.mean_present(by_scene),
            "boundary_miou": metrics.mean_present(boundary),
            **{f"boundary_iou/{name}": float(value) for name, value in by_class},
        }
        labelled = evaluation.confusion[np.isfinite(by_scene)]  # the others say nothing of chance
        low, high = statistics.bootstrap_interval(labelled, metrics.miou)
        further = {
            "miou_interval": None if math.isnan(low) else [low, high],
            "scenes": len(evaluation.confusion),
            "pixels": int(evaluation.total.sum()),
            "confusion": evaluation.total.tolist(),
            "calibration": {
                key: value.tolist() if key == "confidence" else value.astype(int).tolist()
                for key, value in evaluation.calibration.items()
            },
        }
        figures = {k: None if math.isnan(value) else value for k, value in figures.items()}
        further = {f"{self.split}/{key}": value for key, value in (figures | further).items()}
        return Report(self._scores(evaluation) | further, (evaluation, thumbnails))

    def keep(self, record: Any, report: Report) -> None:
        """Writes what comparisons need of each scene: counts, and small pictures."""
        evaluation, thumbnails = report.evaluation
        info = self.learner.info
        classes = [SceneClass(*known) for known in zip(info.classes, info.colors, strict=True)]
        record.write_scenes(self.scenes, evaluation, classes, thumbnails)

    def draw(self, folder: Path, lines: list[dict], report: Report, variables: Any) -> None:
        """Learning curves, confusion matrix and a gallery of scenes from the worst to the best."""
        from cnn_jax.data.resizing import pictured
        from cnn_jax.reporting import figures, scene_figures

        evaluation, _ = report.evaluation
        names, scenes = self.learner.names, self.scenes
        figures.confusion_matrix(evaluation.total, names, folder / "confusion_matrix.png")
        miou = np.array([metrics.miou(matrix) for matrix in evaluation.confusion])
        # A scene without a labelled pixel is neither good nor bad.
        order = np.argsort(miou, kind="stable")[: np.isfinite(miou).sum()]
        count = min(self.learner.config.evaluation.gallery_scenes, len(order))
        chosen = order[np.linspace(0, len(order) - 1, count).round().astype(int)]
        rows = [pictured(*scenes[int(i)], self.windows.predict(variables, int(i))) for i in chosen]
        titles = [
            f"{scenes.scenes[i].name}: mIoU {miou[i]:.3f}, pixel accuracy"
            f" {metrics.pixel_accuracy(evaluation.confusion[i]):.3f}"
            for i in chosen
        ]
        path = folder / "gallery.png"
        images, truths, predictions = zip(*rows, strict=True)
        colors = self.learner.colors
        scene_figures.gallery(images, truths, predictions, names, colors, path, titles=titles)


class Segmentation:
    """The task: configurations, models, learners and data of segmentation."""

    configuration = SegmentationConfig
    models: Mapping[str, Callable] = {**SEGMENTERS, **PEERS}

    def learner(self, config: SegmentationConfig, info: DatasetInfo) -> SegmentationLearner:
        """Of the configuration's model."""
        if config.model.name in PEERS:
            return TorchLearner(config, info)
        learner = SegmentationLearner(config, info)
        check_module(learner)
        return learner

    def dataset(
        self, config: SegmentationConfig, description: Mapping[str, Any] | None = None
    ) -> SegmentationDataset:
        """Scenes, drawn or from a folder."""
        return SegmentationDataset(config, description)
