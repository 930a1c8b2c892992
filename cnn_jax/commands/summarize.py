"""Print the layers of an architecture: shapes, parameters, multiply-adds, receptive fields.

python -m cnn_jax.commands.summarize --model.name NAME [--input HEIGHTxWIDTHxCHANNELS] [--classes N]
[--model.OPTION VALUE ...]

Nothing is computed or downloaded. In the table, padding of 0+1x2 is 0 above, 1 below, and 2 on the
left and the right; the field is what one value of the output depends on, 188-204 where some see
more than others.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cnn_jax import tasks
from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import MOST, nearest, setting
from cnn_jax.errors import InputError
from cnn_jax.run import ModelName, guarded

MODULE = "cnn_jax.commands.summarize"


@dataclass
class Options:
    """Which architecture is summarized, and for what images."""

    input: str = setting("", "size of the image, as HEIGHTxWIDTHxCHANNELS; empty: the paper's")
    classes: int | Literal["paper"] = setting(
        "paper", "number of classes; paper: as in its paper", at_least=1, at_most=MOST["whole"]
    )
    model: Any = setting(ModelName, "an architecture and its options")


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, or 2 for what the user can mend."""
    with guarded() as outcome:
        argv = sys.argv[1:] if argv is None else list(argv)
        options = Options(model=_section(argv))
        options = command_line.options(options, argv, MODULE, __doc__)
        from cnn_jax.analysis.layer_table import layer_table, summarize

        name = options.model.name
        model = tasks.build_model(options.model, num_classes=1)
        classes = _classes(options.classes, name, model)
        model = model.clone(num_classes=classes)
        input_px = _input_px(options.input, name, model)
        size = "x".join(map(str, input_px))
        table = layer_table(summarize(model, input_px))
        print(f"{name}, {classes} classes, input {size}\n\n{table}")
    return outcome.exit_code


def _section(argv):
    """The options of the architecture that a command line names."""
    (options,), _ = command_line.parse(argv, Options())
    name = options.model.name
    if command_line.asks_for_help(argv) and not name:
        return options.model
    from cnn_jax.models import MODELS
    from cnn_jax.models.detectors import DETECTORS

    known = (*MODELS, *DETECTORS)
    if not name:
        raise InputError(f"--model.name is missing: {nearest(name, known)}.")
    if name not in known:
        raise InputError(f"--model.name {name} is no architecture: {nearest(name, known)}.")
    return tasks.model_config(name)


def _classes(asked, name, model):
    """The number of classes asked for, or the paper's."""
    if asked != "paper":
        return asked
    if not hasattr(model, "paper_classes"):
        raise InputError(
            f"{name} has no number of classes of its own; give one, such as --classes 5."
        )
    return model.paper_classes


def _input_px(text, name, model):
    """(height, width, channels) as given, or the paper's."""
    if not text:
        if not hasattr(model, "paper_px"):
            raise InputError(
                f"{name} has no size of image of its own; give one, such as --input 256x256x3."
            )
        return model.paper_px
    words = text.split("x")
    if len(words) != 3 or not all(word.isdecimal() and int(word) for word in words):
        raise InputError(
            f"--input is {text!r}; write height, width and channels, such as 224x224x3."
        )
    height, width, channels = map(int, words)
    input_px = height, width, channels
    least = getattr(model, "least_px", 1)
    if min(input_px[:2]) < least:
        raise InputError(
            f"--input {text} is too small for {name}, which takes images of at least"
            f" {least}x{least} px."
        )
    return input_px


if __name__ == "__main__":
    sys.exit(main())
