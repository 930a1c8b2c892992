"""Writes how large the kernels of every classifier are, into the file that tells what is meant by
weights that don't fit: `python -m tests.models.weights.write_kernels`, a few minutes."""

import collections
import math

from cnn_jax.models.classifiers import CLASSIFIERS
from cnn_jax.models.weights import fitting


def line(name: str) -> str:
    """Of an architecture with a thousand classes: its name, then each size, with * how many kernels
    have it."""
    shapes = fitting.abstract(name, 1000, 3, fitting.given_options(name, ""))
    sizes = collections.Counter(
        math.prod(leaf.shape) for leaf in shapes.values() if len(leaf.shape) > 1
    )
    return " ".join([name, *(f"{size}*{count}" for size, count in sorted(sizes.items()))])


if __name__ == "__main__":
    lines = [line(name) for name in CLASSIFIERS]
    fitting.KERNELS.write_text("\n".join(lines) + "\n", encoding="utf-8")
