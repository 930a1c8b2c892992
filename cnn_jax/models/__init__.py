"""Architectures, one paper a file. `MODELS` names them all.

Each takes `[batch, height, width, channels]` with values about 0 and `train` (keyword only), and
returns float32 logits: a segmenter `[batch, height, width, num_classes]`, a classifier `[batch,
num_classes]`. The fields of a module are its options on the command line: their metadata may hold
`choices`, `at_least` and `unit`, and the docstring's Attributes their meaning. A family's members
are `functools.partial`s of its module; what they bind is no option.
"""

import functools

from cnn_jax.models.asymmetric_unet import AsymmetricUNet
from cnn_jax.models.classifiers import CLASSIFIERS
from cnn_jax.models.deeplab import DeepLabV3, DeepLabV3Plus
from cnn_jax.models.encoder_unet import EncoderUNet
from cnn_jax.models.fcn import FCN, DilatedFCN
from cnn_jax.models.linknet import LinkNet
from cnn_jax.models.pspnet import PSPNet
from cnn_jax.models.semantic_fpn import SemanticFPN
from cnn_jax.models.unet import UNet
from cnn_jax.models.unet_plus_plus import UNetPlusPlus
from cnn_jax.models.upernet import UPerNet

SEGMENTERS = {
    "unet": UNet,
    "encoder_unet": EncoderUNet,
    "asymmetric_unet": AsymmetricUNet,
    "fcn32s": functools.partial(FCN, stride=32),
    "fcn16s": functools.partial(FCN, stride=16),
    "fcn8s": functools.partial(FCN, stride=8),
    "dilated_fcn": DilatedFCN,
    "deeplabv3": DeepLabV3,
    "deeplabv3plus": DeepLabV3Plus,
    "pspnet": PSPNet,
    "unet_plus_plus": UNetPlusPlus,
    "linknet": LinkNet,
    "fpn": SemanticFPN,
    "upernet": UPerNet,
}

MODELS = SEGMENTERS | CLASSIFIERS
