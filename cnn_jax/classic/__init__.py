"""Classic methods beside the networks: nearest neighbours, textbook descriptors, and what
scikit-learn makes of them."""

from cnn_jax.errors import InputError


def needed(what: str, error: ImportError) -> InputError:
    """The error to raise where `what` needs the libraries of the `classic` extra and they are
    absent."""
    return InputError(
        f"{what} needs scikit-image and scikit-learn ({error}): pip install 'cnn_jax[classic]'."
    )
