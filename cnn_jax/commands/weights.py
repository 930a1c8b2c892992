"""Make a finished run of published weights, which predicts and is trained further like any other.

python -m cnn_jax.commands.weights import FILE --model NAME --output RUN [--classes FILE]
[--values tf|torch|caffe] [--image-px 224 224] [--crop-share 0.875] [--interpolation bilinear]
[--conventions timm_tf]

FILE is one of Keras (.h5, .weights.h5, .keras), PyTorch (.pth, .th, .bin) or safetensors; its
content tells which, and nothing in it is run. What a network was trained to see follows from where
the file comes from, unless it is given.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import setting
from cnn_jax.errors import InputError
from cnn_jax.run import guarded

MODULE = "cnn_jax.commands.weights"


@dataclass
class Options:
    """Which weights are imported, as which network."""

    words: tuple[str, ...] = command_line.positional(
        (), "import FILE", "word import, then the file of the weights"
    )
    model: str = setting("", "the architecture that they are of, such as mobilenet_v2")
    output: str = setting("", "folder of the run", path=True)
    classes: str = setting(
        "",
        "file of the classes' names, one a line; empty: ImageNet's, CIFAR-10's or PASCAL VOC's"
        " where the number is right",
        path=True,
    )
    values: str = setting(
        "auto",
        "what values it was trained on: tf: -1 to 1; torch: mean 0, deviation 1; caffe: 0 to 255"
        " less the mean, kernels of blue, green, red",
        choices=("auto", "tf", "torch", "caffe"),
    )
    image_px: tuple[int, ...] = setting(
        (), "height and width that it sees; empty: the paper's", unit="px", at_least=1
    )
    crop_share: float = setting(
        0.0, "of the shorter side, kept by the central crop; 0: the source's", unit="0 to 1"
    )
    interpolation: str = setting(
        "auto",
        "how pictures are resized",
        choices=("auto", "bilinear", "bicubic", "nearest"),
    )
    conventions: str = setting(
        "auto",
        "whose network it is, where the names of its tensors don't tell: timm_tf of timm's whose"
        " names begin with tf_",
        choices=("auto", "timm_tf"),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    with guarded() as outcome:
        options = command_line.options(Options, argv, MODULE, __doc__)
        if options.words[0] != "import" or len(options.words) != 2:
            raise InputError(
                "give the word import and one file: cnn-jax weights import FILE --model NAME"
                " --output RUN."
            )
        for name in ("model", "output"):
            if not getattr(options, name):
                raise InputError(f"--{name} is missing: give it after the file.")
        from cnn_jax.inference import imported

        seen = imported.Seen(
            "" if options.values == "auto" else options.values,
            options.image_px,
            options.crop_share,
            "" if options.interpolation == "auto" else options.interpolation,
        )
        words = sys.argv[1:] if argv is None else list(argv)
        found = imported.import_weights(
            options.words[1],
            options.model,
            options.output,
            classes=options.classes,
            seen=seen,
            conventions="" if options.conventions == "auto" else options.conventions,
            command=command_line.typed(MODULE, words),
        )
        print(
            f"{Path(options.words[1]).name}: {found.source}'s {found.model},"
            f" {found.num_classes} classes"
        )
        for name, value in found.options.items():
            print(f"  model.{name} = {value}")
        if found.left_out:
            few = ", ".join(found.left_out[:3]) + (", ..." if len(found.left_out) > 3 else "")
            print(f"  left out: {len(found.left_out)} tensors, of which it has no place: {few}")
        print(f"run: {options.output}")
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
