"""What the classes of published networks are called, in the order of their logits."""

import json
from pathlib import Path
from typing import Any

from cnn_jax.errors import InputError

CIFAR_10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
PASCAL_VOC = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    "motorbike",
    "person",
    "potted plant",
    "sheep",
    "sofa",
    "train",
    "tv monitor",
)

_IMAGENET = Path(__file__).with_name("imagenet_classes.txt")
"""The thousand of ILSVRC 2012, one a line, as torchvision (BSD-3-Clause) calls them."""


def imagenet() -> tuple[str, ...]:
    """The names of ILSVRC 2012's thousand classes."""
    return tuple(_IMAGENET.read_text(encoding="utf-8").splitlines())


def known(family: str, count: int) -> tuple[str, ...]:
    """The names that so many classes of a family of architectures are likely to have, else numbers.

    Networks of TensorFlow's older collections tell 1001 classes apart, the first being none of the
    others.
    """
    if count == 1000:
        return imagenet()
    if count == 1001:
        return ("background", *imagenet())
    if count == 10 and family == "cifar_resnet":
        return CIFAR_10
    if count == 21 and family in ("deeplabv3", "dilated_fcn"):
        return PASCAL_VOC
    return tuple(f"class {number}" for number in range(count))


def read(path: Path, count: int) -> tuple[str, ...]:
    """Names from a file: one a line, or JSON: a list, or Keras's object `{"0": [id, name], ...}`.

    Raises:
        InputError: it can't be read, or has another number of names than `count`.
    """
    try:
        text = path.expanduser().read_bytes().decode("utf-8-sig")
        held: Any = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check the path.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not UTF-8 text or JSON ({error}): save it so.") from error
    if isinstance(held, dict) and all(key.isdigit() for key in held):
        held = [held[key] for key in sorted(held, key=int)]
        held = [one[-1] if isinstance(one, list) and one else one for one in held]
    if not isinstance(held, list) or not all(isinstance(name, str) for name in held):
        raise InputError(f"{path} holds no list of names: write one name a line.")
    names = [name.strip() for name in held]
    while names and not names[-1]:
        names.pop()
    if len(names) != count:
        raise InputError(
            f"{path} has {len(names)} names, and the network {count} classes: give one each, in the"
            " order of its logits."
        )
    return tuple(names)


def palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """Colours of a segmenter's classes, PASCAL VOC's: the bits of a class's number, spread over
    red, green and blue from the highest bit down."""
    colors = []
    for number in range(count):
        color = [0, 0, 0]
        for place in range(8):
            for channel in range(3):
                color[channel] |= (number >> (3 * place + channel) & 1) << (7 - place)
        colors.append((color[0], color[1], color[2]))
    return tuple(colors)
