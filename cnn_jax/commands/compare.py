"""Compare finished runs: what each is worth and costs, and which differences are real.

python -m cnn_jax.commands.compare RUN... [--output FOLDER] [--target SCORE] [--force]

Runs that differ in their seed alone are averaged; pairs of variants are tested across seeds and
across test images, within the groups that their study says.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import setting
from cnn_jax.run import guarded

MODULE = "cnn_jax.commands.compare"


@dataclass
class Options:
    """Which runs are compared, and how."""

    runs: tuple[str, ...] = command_line.positional(
        (), "RUN", "folders of finished runs, or folders that hold some"
    )
    output: str = setting("results/comparison", "folder for the comparison", path=True)
    target: float = setting(
        0.0,
        "validation score to measure the time to; 0: 90% of the best variant's",
        unit="0 to 1",
    )
    force: bool = setting(False, "compare what isn't comparable too; the tables then say so")


def main(argv: Sequence[str] | None = None) -> int:
    """Write comparison.csv, comparison.png, comparison.md and index.html, and print the verdict.
    Returns the exit code: 2, with one sentence on standard error, if a record can't be used, or
    records can't be compared."""
    with guarded() as outcome:
        options = command_line.options(Options, argv, MODULE, __doc__)
        from cnn_jax.records.run_record import records_in, study_groups
        from cnn_jax.reporting import comparison

        records = records_in(list(map(Path, options.runs)))
        compared = comparison.compare(
            records,
            groups=study_groups(records),
            target=options.target or None,
            force=options.force,
        )
        paths = comparison.write(compared, Path(options.output))
        for difference in compared.differences:
            print(f"not comparable: {difference}")
        for group in compared.groups:
            print(group.verdict)
            print("".join(f"  {pair.sentence}\n" for pair in group.pairs), end="")
        print("\n".join(map(str, paths)))
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
