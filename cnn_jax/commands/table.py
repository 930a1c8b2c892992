"""Make the page of all results from their records: `python -m cnn_jax.commands.table [--results
DIR] [--readme FILE]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cnn_jax.benchmarks import page as benchmarks
from cnn_jax.records.run_record import read_records
from cnn_jax.reporting.table import (
    averaging_note,
    headline_table,
    relative_link,
    results_page,
    update_block,
)
from cnn_jax.run import guarded


def main(arguments: Sequence[str] | None = None) -> int:
    """Write `README.md` into the results folder, and the headline table into a project's README;
    returns the exit code.

    It is 2, with one sentence on standard error, if a record or a file can't be used; nothing is
    written from bad records.
    """
    parser = argparse.ArgumentParser(
        prog="python -m cnn_jax.commands.table",
        description="Make the page of all results from their records.",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        help="folder of the records (default: results)",
    )
    parser.add_argument(
        "--readme",
        type=Path,
        help="also fill the block <!-- results --> ... <!-- /results --> of this file",
    )
    options = parser.parse_args(arguments)

    def command():
        records = read_records(options.results)
        page = options.results / "README.md"
        page.write_text(results_page(records), encoding="utf-8", newline="\n")
        print(f"{page}: {len(records)} records")
        measured = options.results / "benchmarks"
        speeds = benchmarks.read(measured)
        if speeds:
            (measured / "README.md").write_text(
                benchmarks.page(speeds), encoding="utf-8", newline="\n"
            )
            print(f"{measured / 'README.md'}: {len(speeds)} records")
        if options.readme:
            table = headline_table(
                records, link_base=relative_link(options.readme, options.results), brief=True
            )
            if update_block(options.readme, "results", f"{table}\n\n{averaging_note(records)}"):
                print(f"{options.readme}: block of results updated")
            table = benchmarks.short_table(speeds, relative_link(options.readme, measured) + "/")
            if speeds and update_block(
                options.readme, "benchmarks", f"{table}\n\n{benchmarks.RATIOS}"
            ):
                print(f"{options.readme}: block of benchmarks updated")

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
