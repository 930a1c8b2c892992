"""How fast we are beside PyTorch and others, on the same work and the same machine.

python -m cnn_jax.commands.benchmark NAME [--repeats N] [--seconds S] [--without-peers] [--output
FILE] [the benchmark's own flags]

Without a name it lists the benchmarks; NAME --help says what one measures. Each prints how many
times as fast we are, above 1 being faster, with the least and the greatest of its repetitions, then
the figures themselves, and writes a record into results/benchmarks/, from which `python -m
cnn_jax.commands.table` makes that folder's page.
"""

import argparse
import ast
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cnn_jax import benchmarks
from cnn_jax.benchmarks import BENCHMARKS, measuring
from cnn_jax.configuration import command_line, schema
from cnn_jax.errors import InputError
from cnn_jax.run import guarded

MODULE = "cnn_jax.commands.benchmark"
FOLDER = Path("results/benchmarks")


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, 2 for what the user can mend, 1 where a side
    failed."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\nbenchmarks:")
        for name in BENCHMARKS:
            print(f"  {name:<16} {_first_line(name)}")
        return 0
    failed = []
    return guarded(lambda: failed.extend(_benchmark(*argv))) or int(bool(failed))


def _first_line(name):
    """Of a benchmark's docstring, without importing it."""
    source = Path(benchmarks.__file__).with_name(f"{name}.py")
    return ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))).splitlines()[0]


def _benchmark(name, *argv):
    """Runs one; returns the cases in which a side failed."""
    if name not in BENCHMARKS:
        raise InputError(f"{name!r} is no benchmark: {schema.nearest(name, BENCHMARKS)}.")
    module = importlib.import_module(f"cnn_jax.benchmarks.{name}")
    options = _options(name, module, argv)
    missing = [needed for needed in module.NEEDS if importlib.util.find_spec(needed) is None]
    if missing and not options.without_peers:
        extra = getattr(module, "EXTRA", "peers")
        raise InputError(
            f"{', '.join(missing)} can't be imported, beside which {name} measures: install the"
            f" extra {extra!r} as pyproject.toml says (pip install -c constraints.txt -e"
            f" '.[{extra}]'), or give --without-peers."
        )
    environment = measuring.apart(measuring.environment)
    options.platform = environment["platform"]
    record = {
        "benchmark": name,
        "about": inspect.getdoc(module),
        "command": _typed(name, command_line.without_flag(argv, "output")),
        "peers": bool(module.NEEDS) and not options.without_peers,
        "repeats": options.repeats,
        "rows": [],
        "environment": environment,
    }
    if module.NEEDS and options.without_peers:
        print("without peers: our own figures alone")
    print(
        f"{name}: {environment['device_kind']}, {environment['threads']} cores, {options.repeats}"
        " repetitions",
        flush=True,
    )
    for row in module.measure(options):
        record["rows"].append(row)
        print(measuring.line(row), flush=True)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(
            json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    print(f"written: {options.output}")
    return [row["case"] for row in record["rows"] if row["failed"]]


def _typed(name, argv):
    """The command for the record, in which the folders of this machine have no names."""
    words = [re.sub(r"^(--?[\w-]+=)?/.*", r"\1DIR", word, flags=re.DOTALL) for word in argv]
    return shlex.join(["python", "-m", MODULE, name, *words])


def _options(name, module, argv):
    """The flags of a benchmark, those of the command among them."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE} {name}",
        description=inspect.getdoc(module).replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        metavar="N",
        help="repetitions, each of all sides in turn (default: 5)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="a repetition's least, s (default: 1)",
    )
    parser.add_argument("--without-peers", action="store_true", help="measure ourselves alone")
    parser.add_argument(
        "--output",
        type=Path,
        help=f"the record (default: {FOLDER / name}.json)",
        default=FOLDER / f"{name}.json",
    )
    module.add_arguments(parser)
    options = parser.parse_args(argv)
    if options.repeats < 1 or options.seconds < 0:
        raise InputError("--repeats must be at least 1, and --seconds at least 0.")
    return options


if __name__ == "__main__":
    sys.exit(main())
