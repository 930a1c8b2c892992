"""Compare finished runs: what each is worth and costs, and which differences are real.

python -m cnn_jax.commands.compare RUN_DIR... [--out DIR] [--target SCORE] [--force]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cnn_jax.errors import InputError
from cnn_jax.run import guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """Write comparison.csv, comparison.md and index.html, and print the verdict. Returns the exit
    code.

    It is 2, with one sentence on standard error, if a record can't be used, or records can't be
    compared.
    """
    parser = argparse.ArgumentParser(
        prog="python -m cnn_jax.commands.compare",
        description=__doc__.splitlines()[0],
        epilog=(
            "Runs that differ in their seed alone are averaged; pairs of variants are tested across"
            " seeds and across test images."
        ),
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN_DIR",
        help="a finished run's folder, or a folder that holds some",
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the comparison (default: results/comparison)"
    )
    parser.add_argument(
        "--target",
        type=float,
        help="validation score to measure the time to (default: 90%% of the best variant's)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="compare also what isn't comparable; the tables then say so",
    )
    options = parser.parse_args(arguments)

    def command():
        from cnn_jax.records.run_record import records_in
        from cnn_jax.reporting import comparison

        if options.target is not None and not 0 <= options.target <= 1:
            raise InputError(f"--target is {options.target:g}; a score lies between 0 and 1.")
        compared = comparison.compare(
            records_in(options.runs), target=options.target, force=options.force
        )
        paths = comparison.write(compared, options.out or Path("results/comparison"))
        for difference in compared.differences:
            print(f"not comparable: {difference}")
        for group in compared.groups:
            print(group.verdict)
            print("".join(f"  {pair.sentence}\n" for pair in group.pairs), end="")
        print("\n".join(map(str, paths)))

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
