"""`cnn-jax NAME ...`: one of the commands of this package."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from cnn_jax import commands
from cnn_jax.configuration.schema import nearest


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code, 2 if no command has that name; lists them without one."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    known = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    if name in ("-h", "--help"):
        print("usage: cnn-jax COMMAND [--help | OPTIONS]\n\ncommands:")
        for command in known:
            line = commands.summary(commands, command)
            print(f"  {command.replace('_', '-'):<14}{line}")
        return 0
    if name.replace("-", "_") not in known:
        shown = [command.replace("_", "-") for command in known]
        print(f"error: {name} is no command: {nearest(name, shown)}.", file=sys.stderr)
        return 2
    found = importlib.import_module(f"cnn_jax.commands.{name.replace('-', '_')}")
    if argv is None:  # the command then knows that it is a process of its own
        sys.argv = [sys.argv[0], *rest]
        return found.main()
    return found.main(rest)


if __name__ == "__main__":
    sys.exit(main())
