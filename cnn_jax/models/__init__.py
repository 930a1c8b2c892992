"""Architectures, one paper a file. `MODELS` names them all; each takes `[batch, height, width, 3]` and returns float32 logits."""

from cnn_jax.models.unet import UNet

MODELS = {"unet": UNet}
