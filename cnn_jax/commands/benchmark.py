"""Measure how fast we are beside PyTorch and others, on the same work and the same machine.

python -m cnn_jax.commands.benchmark NAME [--repeats N] [--seconds S] [--without-peers] [--output
FILE] [the benchmark's own flags]
python -m cnn_jax.commands.benchmark --accelerator [--limit-s S] [--data FOLDER] [--output FOLDER]
[--rehearsal]

Without a name it lists the benchmarks; NAME --help says what one measures. Each prints how many
times as fast we are, above 1 being faster, with the least and the greatest of its repetitions, then
the figures themselves, and writes a record into results/benchmarks/, from which `cnn-jax table`
makes that folder's page. --accelerator measures all that wants a GPU or TPU.
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from cnn_jax import benchmarks
from cnn_jax.benchmarks import BENCHMARKS, accelerator, measuring
from cnn_jax.commands import summary
from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import nearest
from cnn_jax.errors import InputError
from cnn_jax.records.files import check_ours, write_object
from cnn_jax.run import guarded
from cnn_jax.runtime import memory

MODULE = "cnn_jax.commands.benchmark"
FOLDER = Path("results/benchmarks")


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, 2 for what the user can mend, 1 where a side
    failed."""
    if argv is None:
        memory.keep()
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\nbenchmarks:")
        for name in BENCHMARKS:
            print(f"  {name:<16} {summary(benchmarks, name)}")
        return 0
    with guarded() as outcome:
        if "--accelerator" in argv:
            argv.remove("--accelerator")
            failed = accelerator.run(argv, MODULE)
        else:
            failed = _benchmark(*argv)
        outcome.exit_code = int(bool(failed))
    return outcome.exit_code


def _benchmark(name, *argv):
    """Runs one; returns the cases in which a side failed."""
    if name not in BENCHMARKS:
        raise InputError(f"{name!r} is no benchmark: {nearest(name, BENCHMARKS)}.")
    module = importlib.import_module(f"cnn_jax.benchmarks.{name}")
    about = inspect.getdoc(module)
    options = command_line.options(module.Options, argv, f"{MODULE} {name}", about)
    output = Path(options.output or FOLDER / f"{name}.json")
    check_ours(output, "benchmark", "rows")
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
        "about": about,
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
        output.parent.mkdir(parents=True, exist_ok=True)
        write_object(output, record)
    print(f"written: {output}")
    return [row["case"] for row in record["rows"] if row["failed"]]


def _typed(name, argv):
    """The command for the record, in which the folders of this machine have no names."""
    return command_line.typed(f"{MODULE} {name}", map(_nameless, argv))


def _nameless(word):
    flag, equals, value = word.partition("=")
    if word.startswith("/"):
        return "DIR"
    return f"{flag}=DIR" if equals and value.startswith("/") else word


if __name__ == "__main__":
    sys.exit(main())
