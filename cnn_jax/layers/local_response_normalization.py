"""Local response normalisation: channels that lie side by side compete."""

import jax
import jax.numpy as jnp


def local_response_normalization(
    x: jax.Array, window: int = 5, bias: float = 2.0, alpha: float = 1e-4, beta: float = 0.75
) -> jax.Array:
    """Each value of `[batch, height, width, channels]` divided by (`bias` + `alpha` * sum of
    squares of its neighbours) ** `beta`.

    The neighbours are the values at the same place in the channels up to `window` // 2 before and
    after, and itself; there are fewer at either end. Computed in float32; the result has x's dtype.
    Krizhevsky, Sutskever, Hinton (2012), section 3.3, with its constants (n, k, alpha, beta). Other
    libraries divide alpha by the window (Caffe, PyTorch): theirs is five times ours.
    """
    reach, channels = window // 2, x.shape[-1]
    values = x.astype(jnp.float32)
    squares = jnp.pad(values**2, ((0, 0), (0, 0), (0, 0), (reach, reach)))
    sums = sum(squares[..., shift : shift + channels] for shift in range(2 * reach + 1))
    return (values / (bias + alpha * sums) ** beta).astype(x.dtype)
