"""Every architecture that classifies whole images, by name; those that hand out feature maps serve
as encoders of segmenters."""

import functools

from cnn_jax.models.alexnet import AlexNet
from cnn_jax.models.cnn import CNN, COURSE_CNN
from cnn_jax.models.convnext import ConvNeXt
from cnn_jax.models.densenet import DenseNet
from cnn_jax.models.efficientnet import EfficientNet
from cnn_jax.models.googlenet import GoogLeNet
from cnn_jax.models.inception_v3 import InceptionV3
from cnn_jax.models.lenet import LeNet5
from cnn_jax.models.mlp import MLP
from cnn_jax.models.mobilenet import MobileNet
from cnn_jax.models.mobilenet_v2 import MobileNetV2
from cnn_jax.models.resnet import CifarResNet, ResNet
from cnn_jax.models.softmax_regression import SoftmaxRegression
from cnn_jax.models.vgg import VGG
from cnn_jax.models.xception import Xception

CLASSIFIERS = {
    "softmax_regression": SoftmaxRegression,
    "mlp": MLP,
    "cnn": CNN,
    "course_cnn": COURSE_CNN,
    "course_cnn_dense": functools.partial(COURSE_CNN, dense=(15,)),
    "course_cnn_pool": functools.partial(COURSE_CNN, dense=(15,), pool_after=(1,)),
    "lenet5": LeNet5,
    "alexnet": functools.partial(AlexNet, two_groups=False),
    "alexnet_two_groups": functools.partial(AlexNet, two_groups=True),
    "vgg11": functools.partial(VGG, depth=11),
    "vgg13": functools.partial(VGG, depth=13),
    "vgg16": functools.partial(VGG, depth=16),
    "vgg19": functools.partial(VGG, depth=19),
    "googlenet": GoogLeNet,
    "inception_v3": InceptionV3,
    "xception": Xception,
    "mobilenet": MobileNet,
    "mobilenet_v2": MobileNetV2,
    "resnet18": functools.partial(
        ResNet, depth=18, downsample_in="3x3"
    ),  # which its blocks, having no 1x1, don't read
    "resnet34": functools.partial(ResNet, depth=34, downsample_in="3x3"),
    "resnet50": functools.partial(ResNet, depth=50),
    "resnet101": functools.partial(ResNet, depth=101),
    "resnet152": functools.partial(ResNet, depth=152),
    "se_resnet50": functools.partial(ResNet, depth=50, squeeze_excitation=True),
    "resnet20": functools.partial(CifarResNet, depth=20),
    "resnet32": functools.partial(CifarResNet, depth=32),
    "resnet44": functools.partial(CifarResNet, depth=44),
    "resnet56": functools.partial(CifarResNet, depth=56),
    "resnet110": functools.partial(CifarResNet, depth=110),
    "densenet121": functools.partial(DenseNet, depth=121),
    "densenet169": functools.partial(DenseNet, depth=169),
    "densenet201": functools.partial(DenseNet, depth=201),
    "efficientnet_b0": functools.partial(EfficientNet, compound=0),
    "efficientnet_b1": functools.partial(EfficientNet, compound=1),
    "efficientnet_b2": functools.partial(EfficientNet, compound=2),
    "efficientnet_b3": functools.partial(EfficientNet, compound=3),
    "efficientnet_b4": functools.partial(EfficientNet, compound=4),
    "efficientnet_b5": functools.partial(EfficientNet, compound=5),
    "efficientnet_b6": functools.partial(EfficientNet, compound=6),
    "efficientnet_b7": functools.partial(EfficientNet, compound=7),
    "convnext_tiny": functools.partial(ConvNeXt, size="tiny"),
    "convnext_small": functools.partial(ConvNeXt, size="small"),
    "convnext_base": functools.partial(ConvNeXt, size="base"),
    "convnext_large": functools.partial(ConvNeXt, size="large"),
    "convnext_xlarge": functools.partial(ConvNeXt, size="xlarge"),
}
