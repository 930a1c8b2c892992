"""Architectures, one paper a file. `MODELS` names them all.

Each takes `[batch, height, width, channels]` with values about 0 and `train` (keyword only), and returns float32 logits: a
segmenter `[batch, height, width, num_classes]`, a classifier `[batch, num_classes]`. The fields of a module are its options on
the command line: their metadata may hold `choices`, `at_least` and `unit`, and the docstring's Attributes their meaning. A
family's members are `functools.partial`s of its module; what they bind is no option.
"""

from cnn_jax.models.unet import UNet

SEGMENTERS = {
    "unet": UNet,
}

CLASSIFIERS = {}

MODELS = SEGMENTERS | CLASSIFIERS
