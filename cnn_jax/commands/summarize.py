"""The layers of an architecture in a table: shapes, parameters, multiply-adds, receptive fields.
Nothing is computed or downloaded.

python -m cnn_jax.commands.summarize --model NAME [--input HEIGHTxWIDTHxCHANNELS] [--classes N]
[--model.OPTION=VALUE ...]
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Sequence

from cnn_jax import tasks
from cnn_jax.configuration import command_line, schema
from cnn_jax.errors import InputError
from cnn_jax.run import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, or 2 for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m cnn_jax.commands.summarize",
        description=__doc__.splitlines()[0],
        epilog=(
            "The architecture's options are set as --model.OPTION=VALUE; an unknown one prints the"
            " nearest. In the table, padding of 0+1x2 is 0 above, 1 below, and 2 on the left and"
            " the right; the field is what one value of the output depends on."
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="an architecture; an unknown name prints the nearest",
    )
    parser.add_argument(
        "--input",
        metavar="HEIGHTxWIDTHxCHANNELS",
        help="size of the image, in px (default: the paper's)",
    )
    parser.add_argument(
        "--classes", type=int, default=1000, help="number of classes (default: 1000)"
    )
    arguments, options = parser.parse_known_args(argv)

    def command():
        from cnn_jax.analysis.layer_table import layer_table, summarize

        model = _model(arguments.model, options, arguments.classes)
        input_px = _input_px(arguments.input, arguments.model, model)
        table = layer_table(summarize(model, input_px))
        print(
            f"{arguments.model}, {arguments.classes} classes, input"
            f" {'x'.join(map(str, input_px))}\n\n{table}"
        )

    return guarded(command)


def _model(name, options, classes):
    """The module of that name, with `options` as they stand on the command line."""
    from cnn_jax.models import CLASSIFIERS, MODELS

    if name not in MODELS:
        raise InputError(f"--model {name} is no architecture: {schema.nearest(name, MODELS)}.")
    if classes < 1:
        raise InputError(f"--classes is {classes}; it must be at least 1.")
    known = [
        field.name for field in dataclasses.fields(tasks.model_config(name)) if field.name != "name"
    ]
    for option in options:
        match = re.fullmatch(r"--model[.](\w+)=.*", option, re.DOTALL)
        if not match:
            raise InputError(
                f"{option!r} is not understood; an option of the architecture is set as"
                " --model.OPTION=VALUE."
            )
        if match[1] not in known:
            raise InputError(
                f"--model.{match[1]} is no option of {name}: {schema.nearest(match[1], known)}."
            )
    task = schema.CONFIG_TYPES["classification" if name in CLASSIFIERS else "segmentation"]
    flags = [option.replace("--model.", "--config.model.", 1) for option in options]
    configurations = {name: lambda: task(model=tasks.model_config(name))}
    try:
        config, _ = command_line.parse_command_line(["summarize", *flags], configurations, {})
    except InputError as error:
        raise InputError(str(error).replace("--config.model.", "--model.")) from error
    return tasks.build_model(config.model, num_classes=classes)


def _input_px(text, name, model):
    """(height, width, channels) as given, or the paper's."""
    if text is None:
        if not hasattr(model, "paper_px"):
            raise InputError(
                f"{name} has no size of image of its own; give one, such as --input 256x256x3."
            )
        return model.paper_px
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if not match or not all(map(int, match.groups())):
        raise InputError(
            f"--input is {text!r}; write height, width and channels, such as 224x224x3."
        )
    input_px = tuple(map(int, match.groups()))
    least = getattr(model, "least_px", 1)
    if min(input_px[:2]) < least:
        raise InputError(
            f"--input {text} is too small for {name}, which takes images of at least"
            f" {least}x{least} px."
        )
    return input_px


if __name__ == "__main__":
    sys.exit(main())
