"""Make the pages of results and benchmarks, and the blocks of other pages, from their records.

python -m cnn_jax.commands.table [--results FOLDER] [--readme FILE ...]
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.benchmarks import page as benchmarks
from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import setting
from cnn_jax.records.files import check_page, write_text
from cnn_jax.records.run_record import read_records
from cnn_jax.reporting.table import (
    averaging_note,
    best_of_each,
    headline_table,
    relative_link,
    results_page,
    update_block,
)
from cnn_jax.run import guarded

MODULE = "cnn_jax.commands.table"
GENERATED = "<!-- Generated from the records"
"""How a page that this command made begins."""


@dataclass
class Options:
    """Where the records lie, and which files are written."""

    results: str = setting(
        "results", "folder of the records, into which README.md is written", path=True
    )
    readme: tuple[str, ...] = setting(
        (),
        "Markdown files whose blocks <!-- NAME --> ... <!-- /NAME --> are filled too: results (the"
        " best of each task and data set), all results, benchmarks",
        path=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Write `README.md` into the results folder, and tables into the blocks of other files.
    Returns the exit code: 2, with one sentence on standard error, if a record or a file can't be
    used; nothing is written from bad records."""
    with guarded() as outcome:
        options = command_line.options(Options, argv, MODULE, __doc__)
        results = Path(options.results)
        records = read_records(results)
        page, measured = results / "README.md", results / "benchmarks"
        speeds = benchmarks.read(measured)
        for written in (page, *([measured / "README.md"] if speeds else ())):
            check_page(written, GENERATED, "--results")
        write_text(page, results_page(records))
        print(f"{page}: {len(records)} records")
        if speeds:
            write_text(measured / "README.md", benchmarks.page(speeds))
            print(f"{measured / 'README.md'}: {len(speeds)} records")
        best = best_of_each(records)
        for readme in map(Path, options.readme):
            base = relative_link(readme, results)
            speed = benchmarks.short_table(speeds, f"{relative_link(readme, measured)}/")
            blocks = {
                "results": _results(best, base),
                "all results": _results(records, base),
                "benchmarks": f"{speed}\n\n{benchmarks.RATIOS}",
            }
            for name, text in blocks.items():
                if (speeds or name != "benchmarks") and update_block(readme, name, text):
                    print(f"{readme}: block of {name} updated")
    return outcome.exit_code


def _results(records, link_base):
    table = headline_table(records, link_base=link_base, brief=True)
    return f"{table}\n\n{averaging_note(records, brief=True)}"


if __name__ == "__main__":
    sys.exit(main())
