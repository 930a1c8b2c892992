"""Published weights, from the files of Keras, PyTorch and safetensors into our networks.

published = weights.read("mobilenet_v2-7ebf99e0.pth", "mobilenet_v2")
published.module.apply(published.variables, images, train=False)
"""

from cnn_jax.models.weights.fitting import Published
from cnn_jax.models.weights.published import read

__all__ = ["Published", "read"]
