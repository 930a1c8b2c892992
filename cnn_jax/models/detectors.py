"""Detectors by name. They take images as `MODELS` do, and return maps that their own decoder in
`training.detection` reads."""

from collections.abc import Callable

from cnn_jax.models.centernet import CenterNet
from cnn_jax.models.fcos import FCOS

DETECTORS: dict[str, Callable] = {"centernet": CenterNet, "fcos": FCOS}
