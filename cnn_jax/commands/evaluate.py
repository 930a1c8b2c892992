"""A finished run, evaluated again.

    python -m cnn_jax.commands.evaluate --run DIR [--split test] [--directory DATA]

Rebuilds the model from the run's own `config.json`, restores the checkpoint that its figures are
of, and counts every example of the split once more. Says whether the figures are those recorded.
"""

import argparse
import sys

from cnn_jax import run
from cnn_jax.inference.finished import open_run


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
    worst = max(gaps, key=gaps.get, default=different[0])
    return (
        f"{len(different)} of {len(shared)} figures differ from the record, most of all {worst}:"
        f" {figures[worst]}, {recorded[worst]}."
    )


def main(argv=None) -> int:
    """The command. Returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cnn_jax.commands.evaluate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--run", required=True, help="the --workdir of a finished run")
    parser.add_argument(
        "--split", default="test", choices=("train", "validation", "test"), help="default: test"
    )
    parser.add_argument(
        "--directory", help="where the data lie, if no longer where the configuration says"
    )
    arguments = parser.parse_args(argv)

    def command():
        from cnn_jax.records import run_record
        from cnn_jax.reporting import table

        figures = evaluate(arguments.run, arguments.split, arguments.directory)
        print(table.summary_table(figures))
        print(compared(figures, run_record.read(arguments.run).summary))

    return run.guarded(command)


if __name__ == "__main__":
    sys.exit(main())
