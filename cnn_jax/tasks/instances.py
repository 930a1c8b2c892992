"""Instances: each object gets its pixels, a class and a score."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from flax import linen as nn

from cnn_jax.configuration.schema import InstanceConfig
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.evaluation.object_windows import Seen
from cnn_jax.models import SEGMENTERS
from cnn_jax.models.centre_offset import EMBEDDING, CentreOffset
from cnn_jax.tasks import build_model
from cnn_jax.tasks.network import check_module
from cnn_jax.tasks.object_dataset import ObjectDataset
from cnn_jax.tasks.object_learner import ObjectLearner
from cnn_jax.training import instances
from cnn_jax.training.devices import arithmetic


class InstanceLearner(ObjectLearner):
    """A segmenter with heads for the centre of each object and the way to it from its pixels."""

    config: InstanceConfig
    monitor, kinds = "mask_ap", ("box", "mask")

    def module(self, axis_name: str | None = None) -> nn.Module:
        """The Flax module; `axis_name` is the `pmap` axis."""
        crop_px = self.config.data.crop_px
        segmenter = build_model(
            self.config.model, num_classes=EMBEDDING, axis_name=axis_name, crop_px=crop_px
        )
        return CentreOffset(segmenter, num_classes=1 + len(self.names))

    def loss_and_metrics(self, outputs: Any, labels: Any) -> dict[str, tuple[Any, Any]]:
        """The loss, its parts and the share of pixels that are right, each as (sum, count)."""
        return instances.instance_loss(outputs, labels, self.config.loss)

    def detect(self, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        """Which object each pixel belongs to, scores and labels, of images as files store them; to
        be compiled."""
        with arithmetic():
            outputs = self.outputs(variables, images)
        most = 2 * self.config.evaluation.most_objects
        return instances.grouped(outputs, self.config.loss, most)

    def exported(self, outputs: Any) -> jax.Array:
        """Of each pixel, float32 `[batch, h, w, 1 + classes + 3]`: the probabilities of no class
        and of each; how near a centre is; how many px further down and to the right the centre of
        its object lies."""
        probabilities = jax.nn.softmax(outputs["semantic"])
        offset = outputs["offset"] * self.config.loss.offset_scale_px
        return jnp.concatenate([probabilities, outputs["centre"][..., None], offset], -1)

    @property
    def picking(self) -> dict[str, Any]:
        """`ObjectLearner.picking`; and how high a centre is at least, above all within how many px,
        and how many pixels an object has at least."""
        return super().picking | {
            "reach_px": instances.reach_px(self.config.loss),
            "least_centre": instances.LEAST_CENTRE,
            "least_area_px": instances.LEAST_AREA_PX,
        }

    def seen(self, results: Mapping[str, np.ndarray]) -> list[Seen]:
        """See `ObjectLearner.seen`."""
        least = self.config.evaluation.least_score
        numbers, found = results["numbers"], []
        for index, where in enumerate(scipy.ndimage.find_objects(numbers)):
            score = float(results["score"][index])
            if where is None or score < least or score <= 0:
                continue
            rows, columns = where
            box = tuple(map(float, (columns.start, rows.start, columns.stop, rows.stop)))
            mask = numbers[where] == index + 1
            found.append(Seen(int(results["label"][index]), score, box, mask))  # type: ignore[arg-type]
        return found

    def heat(self, variables: Any, images: np.ndarray) -> jax.Array:
        """How near an object's centre is, float32 `[batch, h, w]`, about 0 to 1."""
        outputs: Any = self.outputs(variables, images)  # type: ignore[arg-type]
        return outputs["centre"]


class Instances:
    """The task: configurations, models, learners and data of instances."""

    configuration = InstanceConfig
    models: Mapping[str, Callable] = SEGMENTERS

    def learner(self, config: InstanceConfig, info: DatasetInfo) -> InstanceLearner:
        """Of the configuration's model."""
        learner = InstanceLearner(config, info)
        check_module(learner)
        return learner

    def dataset(
        self, config: InstanceConfig, description: Mapping[str, Any] | None = None
    ) -> ObjectDataset:
        """Images with objects, drawn or from a folder."""
        return ObjectDataset(config)
