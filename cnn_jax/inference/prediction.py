"""What a network says of an image."""

import io
from dataclasses import dataclass

import numpy as np

from cnn_jax.data.resizing import displayable


@dataclass(frozen=True)
class Prediction:
    """Probabilities, and what follows from them.

    Attributes:
        probabilities: float32 `[height, width, classes]` of a segmenter, `[classes]` of a
            classifier.
        names: of the classes.
        colors: of the classes, red, green and blue; empty where there are none.
        void: where the file of a scene holds nothing, bool `[height, width]`: no data, transparent
            or masked. `classes` says something there too, and what is shown doesn't. None: of
            arrays, which can't tell, and of classifiers.
    """

    probabilities: np.ndarray
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...] = ()
    void: np.ndarray | None = None

    @property
    def classes(self) -> np.ndarray:
        """The most probable class: uint8 `[height, width]` (uint16 above 255 classes), or one."""
        dtype = np.uint8 if self.probabilities.shape[-1] <= 255 else np.uint16
        return self.probabilities.argmax(-1).astype(dtype)

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the most probable class, float32."""
        return self.probabilities.max(-1)

    @property
    def entropy(self) -> np.ndarray:
        """Of the probabilities, in nats: 0 where the network is sure, float32."""
        p = self.probabilities
        return -np.sum(p * np.log(np.maximum(p, np.finfo(np.float32).tiny)), axis=-1)

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Names and probabilities of a classifier's most probable classes, the first first.

        Raises:
            ValueError: the answer is a segmenter's, which has such a list for every pixel.
        """
        if self.probabilities.ndim > 1:
            raise ValueError(
                "top is of a classifier's answer; this one is of pixels: look at classes and"
                " probabilities"
            )
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.names[i], float(self.probabilities[i])) for i in order]

    def colored(self) -> np.ndarray:
        """The classes in their colours, uint8 `[height, width, 3]`; black where nothing is.

        Raises:
            ValueError: the answer is a classifier's.
        """
        if self.probabilities.ndim == 1:
            raise ValueError(
                "colours are of a segmenter's answer; this one is of an image: look at top"
            )
        shown = np.array(self.colors, np.uint8)[self.classes]
        return shown if self.void is None else np.where(self.void[..., None], np.uint8(0), shown)

    def overlay(self, image: np.ndarray, opacity: float = 0.5) -> np.ndarray:
        """The classes in their colours over the image that was predicted, `[height, width,
        channels]` of any type, as `displayable` shows it: uint8 `[height, width, 3]`; the image
        alone where it holds nothing.

        Raises:
            ValueError: the image has another size, or the answer is a classifier's.
        """
        colored, image = self.colored(), np.asarray(image)
        if image.ndim != 3 or image.shape[:2] != colored.shape[:2]:
            raise ValueError(
                f"the image is {list(image.shape)}, and this answer is of one of"
                f" {list(colored.shape[:2])} px: give [height, width, channels] of that size"
            )
        shown = displayable(image)
        mixed = ((1 - opacity) * shown + opacity * colored).round().astype(np.uint8)
        return mixed if self.void is None else np.where(self.void[..., None], shown, mixed)

    def _repr_png_(self) -> bytes | None:
        """As a notebook shows it."""
        if self.probabilities.ndim != 3:
            return None
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(self.colored()).save(stream, "PNG")
        return stream.getvalue()
