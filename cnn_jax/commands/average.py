"""Average the weights of runs, or of one run's checkpoints, and say what the result is worth.

python -m cnn_jax.commands.average RUN RUN... --output RUN [--directory DATA] [--batches 50]
python -m cnn_jax.commands.average RUN --output RUN [--decay 0.5]

The result is a run of its own, with figures of every split and `weights.safetensors`, for the other
commands and `cnn_jax.load`. BatchNorm's statistics are estimated anew on training batches, except
in parts that were frozen.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import setting
from cnn_jax.errors import InputError
from cnn_jax.run import guarded

MODULE = "cnn_jax.commands.average"


@dataclass
class Options:
    """What is averaged, and how."""

    runs: tuple[str, ...] = command_line.positional(
        (), "RUN", "folders of finished runs, or of one with several checkpoints"
    )
    output: str = setting("", "folder of the result, new or empty", path=True)
    directory: str = setting(
        "", "where the data lie, if no longer where the configuration says", path=True
    )
    batches: int = setting(
        50,
        "training batches from which BatchNorm's statistics are estimated; 0: averaged as weights",
        at_least=0,
    )
    decay: float = setting(
        1.0, "what a checkpoint of one run weighs of the next one", at_least=0, at_most=1
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    with guarded() as outcome:
        argv = sys.argv[1:] if argv is None else list(argv)
        options = command_line.options(Options, argv, MODULE, __doc__)
        if not options.output:
            raise InputError("--output is missing: give the folder of the averaged run.")
        if options.decay != 1 and len(options.runs) > 1:
            raise InputError("--decay is of the checkpoints of one run: leave it out.")
        folders = [Path(folder).resolve() for folder in options.runs]
        for number, folder in enumerate(folders):
            if folder in folders[:number]:
                raise InputError(f"{folder} is named twice, and would weigh double: name it once.")
        from cnn_jax.data.scenes import SPLITS
        from cnn_jax.inference import averaging
        from cnn_jax.inference.predictor import load
        from cnn_jax.records.metrics import leading

        runs = [load(folder) for folder in options.runs]
        with averaging.directory(runs[0], options.output):
            pass  # refused now, and not after everything is averaged
        averaging.check_alike(runs)
        first = runs[0]
        # Records of format 1 know no size of train, others may have no test.
        split = next((split for split in SPLITS if first.info.sizes.get(split)), "")
        dataset = first.open_data(options.directory, split)
        if len(runs) > 1:
            variables = averaging.averaged([run.variables for run in runs])
            taken = [(run, run.summary["evaluated_step"]) for run in runs]
        else:
            variables, steps = averaging.of_checkpoints(first, options.decay)
            taken = [(first, step) for step in steps]
        members = [
            {"run": run.folder.name, "digest": run.digest, "seed": run.config.seed, "step": step}
            for run, step in taken
        ]
        variables = averaging.with_new_statistics(
            first, variables, dataset, options.batches, averaging.frozen_norms(runs)
        )
        command = command_line.typed(MODULE, argv)
        summary = averaging.write_run(
            first, variables, dataset, options.output, members=members, command=command
        )
        figure = leading(first.config.task)
        assert figure is not None  # of every task whose networks are loaded
        key = f"test/{figure.name}"
        for run in runs:
            if key in run.summary:
                print(f"{run.folder}: {figure.label} {run.summary[key]:.4f}")
        if key in summary:
            print(
                f"{options.output}: {figure.label} {summary[key]:.4f}, of {len(members)} averaged"
            )
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
