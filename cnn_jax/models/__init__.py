"""Architectures, one paper a file. `MODELS` names them all; each takes `[batch, height, width, 3]` and returns float32 logits.

The fields of a module are its options on the command line: their metadata may hold `choices`, `at_least` and `unit`, and the
docstring's Attributes their meaning.
"""

from cnn_jax.models.unet import UNet

MODELS = {"unet": UNet}
