"""Write a finished run's network as one file, for where networks are used.

python -m cnn_jax.commands.export RUN [--format safetensors|onnx|stablehlo|keras] [--output FILE]
[--with normalization softmax] [--size-px HEIGHT WIDTH | --any-size] [--float16] [--overwrite]

In the folder of a run `weights.safetensors` is all that `cnn_jax.load` and `cnn-jax predict` need
beside the record. ONNX and StableHLO hold network and weights; keras the weights, for the function
of `keras.applications` that makes the network. A model card, README.md, is written beside the file.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import setting
from cnn_jax.errors import InputError
from cnn_jax.run import guarded

MODULE = "cnn_jax.commands.export"

NAMES = {
    "safetensors": "weights.safetensors",
    "onnx": "network.onnx",
    "stablehlo": "network.stablehlo",
    "keras": "keras.h5",
}
"""Format -> the file in the run's folder that is written where no other is given."""


@dataclass
class Options:
    """Which network is written, and how."""

    run: str = command_line.positional("", "RUN", "folder of a finished run")
    format: str = setting("safetensors", "of the file", choices=tuple(NAMES))
    with_: tuple[str, ...] = setting(
        (), "what onnx and stablehlo do inside", choices=("normalization", "softmax")
    )
    size_px: tuple[int, ...] = setting(
        (),
        "height and width of the images of onnx and stablehlo; empty: the run's",
        unit="px",
        at_least=1,
    )
    any_size: bool = setting(False, "images of any size that the network's halvings divide")
    float16: bool = setting(
        False, "safetensors of half the size; values are rounded to eleven bits"
    )
    output: str = setting("", "the file; empty: in the run's folder", path=True)
    overwrite: bool = setting(False, "replace a file that exists")


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    with guarded() as outcome:
        options = command_line.options(Options, argv, MODULE, __doc__)
        _check(options)
        from cnn_jax.inference import export, model_card, onnx
        from cnn_jax.inference.predictor import load
        from cnn_jax.records import weights
        from cnn_jax.records.files import write_whole

        if options.format == "onnx":
            onnx.library()
        run = load(options.run)
        path = Path(options.output or run.folder / NAMES[options.format])
        if options.output and path.exists() and not options.overwrite:
            raise InputError(f"{path} exists: give another --output, or --overwrite.")
        model_card.check(path.parent, run.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        if options.format == "safetensors":
            arrays = weights.write(
                path,
                run.variables,
                digest=run.digest,
                step=run.summary["evaluated_step"],
                half=options.float16,
            )
            held = f"{len(arrays)} arrays, {sum(array.size for array in arrays.values()):,} values"
            takes = "the weights, for the network of `config.json`."
        elif options.format == "keras":
            write_whole(path, export.to_keras(run))
            held = takes = export.described_for_keras(run)
        else:
            made = {"onnx": export.to_onnx, "stablehlo": export.to_stablehlo}[options.format](
                run, size_px=options.size_px, any_size=options.any_size, parts=options.with_
            )
            content = made if isinstance(made, bytes) else made.SerializeToString()
            write_whole(path, content)
            held = takes = export.described(run, options.size_px, options.any_size, options.with_)
        card = model_card.write(run, path, model_card.use(run, options.format), takes)
        print(f"{path}: {held.rstrip('.')}, {path.stat().st_size / 1e6:.1f} MB\n{card}: model card")
    return outcome.exit_code


def _check(options: Options) -> None:
    """Raises InputError for flags that don't go together."""
    if options.format in ("safetensors", "keras"):
        for name, value in (
            ("with", options.with_),
            ("size-px", options.size_px),
            ("any-size", options.any_size),
        ):
            if value:
                raise InputError(f"--{name} is of programs: add --format onnx or stablehlo.")
    if options.float16 and options.format != "safetensors":
        raise InputError("--float16 is of --format safetensors: leave it out.")
    if options.size_px and len(options.size_px) != 2:
        raise InputError("--size-px takes two numbers, height and width.")
    if options.size_px and options.any_size:
        raise InputError("--size-px is one size, and --any-size all: leave out one of them.")


if __name__ == "__main__":
    sys.exit(main())
