"""Evaluate a finished run again, and say whether its figures are those recorded.

python -m cnn_jax.commands.evaluate RUN [--split test] [--directory DATA]

Rebuilds the model from the run's own `config.json`, restores the checkpoint that its figures are
of, and counts every example of the split once more.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import setting
from cnn_jax.inference.finished import open_run
from cnn_jax.run import guarded

MODULE = "cnn_jax.commands.evaluate"


@dataclass
class Options:
    """Which run is evaluated, and on what."""

    run: str = command_line.positional("", "RUN", "folder of a finished run")
    split: str = setting("test", "examples that count", choices=("train", "validation", "test"))
    directory: str = setting(
        "", "where the data lie, if no longer where the configuration says", path=True
    )


def evaluate(folder, split: str, directory: str | None = None) -> dict:
    """The figures of a split, keyed as in `summary.json`.

    Args:
        folder: the `--workdir` of a finished run.
        split: "train", "validation" or "test".
        directory: where the data lie, if no longer where the configuration says.

    Raises:
        InputError: no finished run, no checkpoint, an empty split, or data other than the run's.
    """
    from cnn_jax.runtime.preemption import StopRequest

    opened = open_run(folder, split, directory)
    with StopRequest() as stop:
        evaluator = opened.task.evaluator(split, opened.devices)
        return opened.task.summary(evaluator, opened.variables, split, stop.raise_if_set)[0]


def compared(figures: dict, recorded: dict) -> str:
    """Whether figures are those recorded, in one sentence."""
    shared = [key for key in figures if key in recorded]
    if not shared:
        return "The run's record has no figures of this split."
    different = [key for key in shared if figures[key] != recorded[key]]
    if not different:
        return f"All {len(shared)} figures equal the record."
    gaps = {
        k: abs(figures[k] - recorded[k])
        for k in different
        if isinstance(figures[k], float) and isinstance(recorded[k], float)
    }
    worst = max(gaps, key=lambda key: gaps[key], default=different[0])
    return (
        f"{len(different)} of {len(shared)} figures differ from the record, most of all {worst}:"
        f" {figures[worst]}, {recorded[worst]}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    with guarded() as outcome:
        options = command_line.options(Options, argv, MODULE, __doc__)
        from cnn_jax.records import run_directory as records
        from cnn_jax.reporting import table

        figures = evaluate(options.run, options.split, options.directory or None)
        print(table.summary_table(figures))
        print(compared(figures, records.read_run(options.run)[2]))
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
