"""Write a finished run's weights as one file, from which they are loaded without checkpoints.

python -m cnn_jax.commands.export RUN [--format safetensors] [--float16] [--output FILE]

`weights.safetensors` in the folder of a run, where it is written by default, is all that
`cnn_jax.load` and `cnn-jax predict` need beside the record.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import setting
from cnn_jax.run import guarded

MODULE = "cnn_jax.commands.export"


@dataclass
class Options:
    """Which weights are written, and how."""

    run: str = command_line.positional("", "RUN", "folder of a finished run")
    format: str = setting("safetensors", "of the file", choices=("safetensors",))
    float16: bool = setting(False, "half the size; values are rounded to eleven bits")
    output: str = setting("", "the file; empty: weights.safetensors in the run's folder", path=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    with guarded() as outcome:
        options = command_line.options(Options, argv, MODULE, __doc__)
        from cnn_jax.inference.predictor import load
        from cnn_jax.training import weights

        run = load(options.run)
        path = Path(options.output or run.folder / weights.NAME)
        arrays = weights.write(
            path,
            run.variables,
            digest=run.digest,
            step=run.summary["evaluated_step"],
            half=options.float16,
        )
        values = sum(array.size for array in arrays.values())
        size = path.stat().st_size / 1e6
        print(f"{path}: {len(arrays)} arrays, {values:,} values, {size:.1f} MB")
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
