"""Evaluate a finished run again, and say whether its figures are those recorded.

python -m cnn_jax.commands.evaluate RUN [--split test] [--directory DATA]

Rebuilds the model from the run's own `config.json`, restores the checkpoint that its figures are
of, and counts every example of the split once more.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import setting
from cnn_jax.run import guarded

if TYPE_CHECKING:
    from cnn_jax.inference.predictor import Run

MODULE = "cnn_jax.commands.evaluate"


@dataclass
class Options:
    """Which run is evaluated, and on what."""

    run: str = command_line.positional("", "RUN", "folder of a finished run")
    split: str = setting("test", "examples that count", choices=("train", "validation", "test"))
    directory: str = setting(
        "", "where the data lie, if no longer where the configuration says", path=True
    )


def evaluate(run: "Run", split: str, directory: str = "") -> dict[str, Any]:
    """The figures of a split, keyed as in `summary.json`.

    Args:
        run: loaded.
        split: "train", "validation" or "test".
        directory: where the data lie, if no longer where the configuration says.

    Raises:
        InputError: an empty split, or data other than the run's.
    """
    from cnn_jax.runtime.preemption import StopRequest

    dataset = run.open_data(directory, split)
    with StopRequest() as stop:
        evaluator = dataset.evaluator(run.learner, split, run.devices)
        return dict(evaluator.report(run.variables, stop.raise_if_set).figures)


def compared(figures: Mapping[str, Any], recorded: Mapping[str, Any]) -> tuple[str, bool]:
    """(whether figures are those recorded, in one sentence, and as a bool)."""
    shared = [key for key in figures if key in recorded]
    if not shared:
        return "The run's record has no figures of this split.", True
    different = [key for key in shared if figures[key] != recorded[key]]
    if not different:
        return f"All {len(shared)} figures equal the record.", True
    gaps = {
        k: abs(figures[k] - recorded[k])
        for k in different
        if isinstance(figures[k], float) and isinstance(recorded[k], float)
    }
    worst = max(gaps, key=lambda key: gaps[key], default=different[0])
    return (
        f"{len(different)} of {len(shared)} figures differ from the record, most of all {worst}:"
        f" {figures[worst]}, {recorded[worst]}.",
        False,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 1 where the figures differ from the record."""
    with guarded() as outcome:
        options = command_line.options(Options, argv, MODULE, __doc__)
        from cnn_jax.inference.predictor import load
        from cnn_jax.reporting import table

        run = load(options.run)
        figures = evaluate(run, options.split, options.directory)
        print(table.summary_table(figures))
        sentence, agrees = compared(figures, run.summary)
        print(sentence)
        outcome.exit_code = int(not agrees)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
