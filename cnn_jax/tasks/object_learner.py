"""What learners of objects share: crops with their objects, and what a window is seen to hold."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cnn_jax.configuration.schema import DetectionConfig, InstanceConfig
from cnn_jax.data import augmentation
from cnn_jax.data.annotations import palette_masks
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.evaluation.object_windows import Seen
from cnn_jax.tasks.network import train_network
from cnn_jax.tasks.programs import shared
from cnn_jax.training import detection
from cnn_jax.training.devices import Devices


class ObjectLearner:
    """A network that finds objects. Detectors and networks of instances say what it is made of and
    what its outputs mean.

    Args:
        config: checked.
        info: of the images.

    Attributes:
        kinds: what its objects have: "box", or "box" and "mask".

    Raises:
        InputError: configuration and data don't fit each other.
    """

    example, evaluated = "crops", ("validation", "test")
    monitor = "box_ap"
    kinds: tuple[str, ...] = ("box",)
    fit = train_network

    def __init__(self, config: DetectionConfig | InstanceConfig, info: DatasetInfo) -> None:
        augmentation.check(config.augmentation)
        augmentation.check_channels(config.augmentation, info.channels, info.dtype, info.source)
        self.config, self.info = config, info
        self.names = list(info.classes)
        self.colors = list(info.colors) or palette_masks.colors(len(self.names) + 1)[1:]

    @property
    def example_px(self) -> tuple[int, int, int]:
        """Height, width and channels of a training crop."""
        return (*self.config.data.crop_px, self.info.channels)

    def prepare(
        self, keys: jax.Array, regions: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Training crops from regions: normalised images float32 `[batch, height, width, channels]`
        and labels as `training.detection` takes them."""
        config, data = self.config.augmentation, self.config.data
        images, numbers = augmentation.augment_examples(
            keys, regions, config, data.crop_px, self.info.greatest
        )
        boxes = augmentation.moved_boxes(keys, regions["boxes"], regions, config, data.crop_px)
        labels = detection.cut_to_crop(boxes, regions["labels"], data.crop_px, data.least_visible)
        images = augmentation.normalize(images, self.info.mean, self.info.std)
        return images, {**labels, "numbers": numbers}

    def normalize(self, images: Any) -> jax.Array:
        """Images of the files' type as the network sees them, float32."""
        images = augmentation.scaled(images, self.info.greatest)
        return augmentation.normalize(images, self.info.mean, self.info.std)

    def outputs(self, variables: Any, images: jax.Array) -> Any:
        """The network's maps of images as files store them; to be compiled."""
        return self.module().apply(variables, self.normalize(images), train=False)

    def detect(self, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        """What lies in images as files store them, as arrays; to be compiled."""
        raise NotImplementedError

    def exported(self, outputs: Any) -> jax.Array:
        """The network's maps as one array, in px and probabilities, which an exported program
        gives; what picks objects from it is left to whoever uses that."""
        raise NotImplementedError

    @property
    def picking(self) -> dict[str, Any]:
        """The numbers by which objects are picked from `exported`, as JSON holds them."""
        settings = self.config.evaluation
        return {
            "least_score": settings.least_score,
            "counted_score": settings.counted_score,
            "most": 2 * settings.most_objects,
        }

    def module(self, axis_name: str | None = None) -> Any:
        """The Flax module; `axis_name` is the `pmap` axis."""
        raise NotImplementedError

    def seen(self, results: Mapping[str, np.ndarray]) -> list[Seen]:
        """The objects of one image, of what `detect` said of it, in px of the image."""
        raise NotImplementedError

    def see(
        self, variables: Any, devices: Devices
    ) -> Callable[[np.ndarray], Sequence[Sequence[Seen]]]:
        """Images `[batch, height, width, channels]` -> of each, what lies in it. Smaller batches
        than `batch_size` are padded, so that one program serves all."""
        model = self.config.model
        compiled = shared(self, "detect", lambda: devices.predict(self.detect, model), devices)
        size = self.batch_size(devices)

        def look(images):
            missing = size - len(images)
            padded = np.concatenate([images, np.repeat(images[-1:], missing, 0)])
            found = compiled(variables, devices.place(padded[devices.share(size)]))
            found = {name: np.asarray(values) for name, values in found.items()}
            return [self.seen({n: v[i] for n, v in found.items()}) for i in range(len(images))]

        return look

    def batch_size(self, devices: Devices) -> int:
        """Windows at once."""
        return -(-self.config.evaluation.batch_size // devices.count) * devices.count
