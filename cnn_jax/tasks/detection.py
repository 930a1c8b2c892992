"""Detection: each object gets a box, a class and a score."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from cnn_jax.configuration.schema import DetectionConfig
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.evaluation.object_windows import Seen
from cnn_jax.models.detectors import DETECTORS
from cnn_jax.tasks import build_model
from cnn_jax.tasks.network import check_module
from cnn_jax.tasks.object_dataset import ObjectDataset
from cnn_jax.tasks.object_learner import ObjectLearner
from cnn_jax.training import detection
from cnn_jax.training.devices import arithmetic


class DetectionLearner(ObjectLearner):
    """A network that finds objects and the boxes around them: CenterNet or FCOS."""

    config: DetectionConfig

    def module(self, axis_name: str | None = None) -> nn.Module:
        """The Flax module; `axis_name` is the `pmap` axis."""
        return build_model(self.config.model, num_classes=len(self.names), axis_name=axis_name)

    def loss_and_metrics(self, outputs: Any, labels: Any) -> dict[str, tuple[Any, Any]]:
        """The loss and its parts, each as (sum, count)."""
        loss = self.config.loss
        if self.config.model.name == "fcos":
            return detection.fcos_loss(outputs, labels, loss.box_weight, loss.centre_weight)
        stride = self.config.model.stride
        return detection.centernet_loss(
            outputs, labels, stride, loss.size_weight, loss.offset_weight
        )

    def detect(self, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        """Boxes, scores and labels of images as files store them; to be compiled. On a CPU it
        computes as training does: the same to rounding, and sooner."""
        with arithmetic():
            outputs = self.outputs(variables, images)
        most = 2 * self.config.evaluation.most_objects
        if self.config.model.name == "fcos":
            return detection.fcos_boxes(outputs, most)
        return detection.centernet_boxes(outputs, self.config.model.stride, most)

    def exported(self, outputs: Any) -> jax.Array:
        """Of each cell the scores of the classes and a box, float32 `[batch, cells, classes + 4]`:
        see `training.detection.centernet_cells` and `fcos_cells`."""
        if self.config.model.name == "fcos":
            return detection.fcos_cells(outputs)
        return detection.centernet_cells(outputs, self.config.model.stride)

    @property
    def picking(self) -> dict[str, Any]:
        """`ObjectLearner.picking`; and, of FCOS, of how many boxes at most none may overlap a
        better one of its class by more than which IoU."""
        alone = self.config.model.name == "fcos"
        return super().picking | {
            "nms_iou": detection.NMS_IOU if alone else None,
            "candidates": detection.CANDIDATES if alone else None,
        }

    def seen(self, results: Mapping[str, np.ndarray]) -> list[Seen]:
        """See `ObjectLearner.seen`."""
        least = self.config.evaluation.least_score
        every = zip(results["box"], results["score"], results["label"], strict=True)
        return [
            Seen(int(label), float(score), tuple(box.tolist()))
            for box, score, label in every
            if score >= least and score > 0 and box[2] > box[0] and box[3] > box[1]
        ]

    def heat(self, variables: Any, images: np.ndarray) -> jax.Array:
        """How probable an object's centre is, of any class, float32 `[batch, h, w]`; of FCOS on its
        finest level."""
        outputs: Any = self.outputs(variables, images)  # type: ignore[arg-type]
        if self.config.model.name == "fcos":
            finest = outputs[min(outputs)]
            return (nn.sigmoid(finest["class"]) * nn.sigmoid(finest["centre"])).max(-1)
        return nn.sigmoid(outputs["heat"]).max(-1)


class Detection:
    """The task: configurations, models, learners and data of detection."""

    configuration = DetectionConfig
    models: Mapping[str, Callable] = DETECTORS

    def learner(self, config: DetectionConfig, info: DatasetInfo) -> DetectionLearner:
        """Of the configuration's model."""
        learner = DetectionLearner(config, info)
        check_module(learner)
        return learner

    def dataset(
        self, config: DetectionConfig, description: Mapping[str, Any] | None = None
    ) -> ObjectDataset:
        """Images with objects, drawn or from a folder."""
        return ObjectDataset(config)
