"""Make the page of all results from their records.

python -m cnn_jax.commands.table [--results FOLDER] [--readme FILE]
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.benchmarks import page as benchmarks
from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import setting
from cnn_jax.records.run_record import read_records
from cnn_jax.reporting.table import (
    averaging_note,
    headline_table,
    relative_link,
    results_page,
    update_block,
)
from cnn_jax.run import guarded

MODULE = "cnn_jax.commands.table"


@dataclass
class Options:
    """Where the records lie, and which files are written."""

    results: str = setting(
        "results", "folder of the records, into which README.md is written", path=True
    )
    readme: str = setting(
        "",
        "file whose block <!-- results --> ... <!-- /results --> is filled too; empty: none",
        path=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Write `README.md` into the results folder, and the headline table into a project's README.
    Returns the exit code: 2, with one sentence on standard error, if a record or a file can't be
    used; nothing is written from bad records."""
    with guarded() as outcome:
        options = command_line.options(Options, argv, MODULE, __doc__)
        results = Path(options.results)
        records = read_records(results)
        page = results / "README.md"
        page.write_text(results_page(records), encoding="utf-8", newline="\n")
        print(f"{page}: {len(records)} records")
        measured = results / "benchmarks"
        speeds = benchmarks.read(measured)
        if speeds:
            (measured / "README.md").write_text(
                benchmarks.page(speeds), encoding="utf-8", newline="\n"
            )
            print(f"{measured / 'README.md'}: {len(speeds)} records")
        if options.readme:
            readme = Path(options.readme)
            table = headline_table(records, link_base=relative_link(readme, results), brief=True)
            if update_block(readme, "results", f"{table}\n\n{averaging_note(records)}"):
                print(f"{readme}: block of results updated")
            table = benchmarks.short_table(speeds, relative_link(readme, measured) + "/")
            if speeds and update_block(readme, "benchmarks", f"{table}\n\n{benchmarks.RATIOS}"):
                print(f"{readme}: block of benchmarks updated")
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
