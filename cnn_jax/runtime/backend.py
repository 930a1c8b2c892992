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
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(
            f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS', '')!r}, but JAX can't use such"
            f" devices ({reason}): unset it, or install the extra 'cuda' or 'tpu' and its driver."
        ) from error
