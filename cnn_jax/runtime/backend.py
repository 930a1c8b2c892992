"""Whether JAX finds the devices that it is told to use, and computes in float32."""

import os

from cnn_jax.errors import InputError


def check() -> None:
    """Raises InputError where JAX's variables ask for devices that it can't use, or for float64."""
    import jax

    if jax.config.read("jax_enable_x64"):
        raise InputError("JAX_ENABLE_X64 is set, but networks are trained in float32: unset it.")
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter of a platform without a plugin
        raise InputError(
            f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS', '')!r}, and JAX finds no such"
            " device: unset it, or install the extra 'cuda' or 'tpu' and the device's driver."
        ) from error
