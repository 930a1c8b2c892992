"""What segments scenes: made from a record alone, it knows no files."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
from flax import linen as nn

from cnn_jax.configuration.schema import SegmentationConfig
from cnn_jax.data import augmentation, resident
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.errors import InputError
from cnn_jax.evaluation.evaluate import make_window_step
from cnn_jax.tasks import build_model
from cnn_jax.tasks.network import train_network
from cnn_jax.tasks.programs import shared
from cnn_jax.training import losses
from cnn_jax.training.devices import Devices


class SegmentationLearner:
    """A network that gives each pixel of a scene its class.

    Args:
        config: checked.
        info: of the scenes.

    Raises:
        InputError: configuration and data don't fit each other.
    """

    example, monitor, evaluated = "crops", "miou", ("validation", "test")
    fit = train_network

    def __init__(self, config: SegmentationConfig, info: DatasetInfo) -> None:
        augmentation.check(config.augmentation)
        augmentation.check_channels(config.augmentation, info.channels, info.dtype, info.source)
        if config.loss.activation == "sigmoid" and len(info.classes) != 2:
            raise InputError(
                f"loss.activation is 'sigmoid', which is for two classes, and {info.source} has"
                f" {len(info.classes)}: use 'softmax'."
            )
        self.config, self.info = config, info
        self.names, self.colors = list(info.classes), list(info.colors)
        weights = losses.class_weights(info.class_counts, config.loss.class_weights)
        self.loss = losses.of(config.loss, weights)

    def module(self, axis_name: str | None = None) -> nn.Module:
        """The Flax module; `axis_name` is the `pmap` axis."""
        outputs = 1 if self.config.loss.activation == "sigmoid" else len(self.names)
        crop_px = self.config.data.crop_px
        return build_model(
            self.config.model, num_classes=outputs, axis_name=axis_name, crop_px=crop_px
        )

    @property
    def example_px(self) -> tuple[int, int, int]:
        """Height, width and channels of a training crop."""
        return (*self.config.data.crop_px, self.info.channels)

    def prepare(
        self, keys: jax.Array, regions: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """Training crops from regions: normalised images float32 `[batch, height, width, channels]`
        and labels int32 `[batch, height, width]`."""
        if "number" in regions:
            regions = resident.regions(regions)
        config = self.config
        images, labels = augmentation.augment_examples(
            keys, regions, config.augmentation, config.data.crop_px, self.info.greatest
        )
        return augmentation.normalize(images, self.info.mean, self.info.std), labels

    def normalize(self, images: Any) -> jax.Array:
        """Images of the files' type as the network sees them, float32."""
        images = augmentation.scaled(images, self.info.greatest)
        return augmentation.normalize(images, self.info.mean, self.info.std)

    def loss_and_metrics(self, logits: jax.Array, labels: jax.Array) -> dict[str, tuple[Any, Any]]:
        """The loss and the share of pixels that are right, each as (sum, count)."""
        return {"loss": self.loss(logits, labels), "pixel_accuracy": losses.hits(logits, labels)}

    def window_step(self, devices: Devices) -> Callable:
        """`(variables, batch) -> results` of `make_window_step`, compiled once for all splits."""

        def make() -> Callable:
            step = make_window_step(self.module(), self.loss, self.normalize, len(self.names))
            return devices.predict(step, self.config.model)

        return shared(self, "windows", make, devices)

    def probabilities(self, variables: Any, images: jax.Array) -> jax.Array:
        """Probabilities of the classes, float32 `[batch, height, width, classes]`, of images as
        files store them; to be compiled."""
        logits = self.module().apply(variables, self.normalize(images), train=False)
        return jax.nn.softmax(losses.class_logits(cast(jax.Array, logits)))
