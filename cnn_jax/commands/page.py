"""Write a finished run's network as one HTML file that computes in the browser.

python -m cnn_jax.commands.page RUN --output page.html [--runtime FOLDER] [--teach] [--overwrite]

The page takes a picture, the camera or a drawing, and shows what every layer makes of it. It needs
no network with `--runtime`, the folder in which npm put onnxruntime-web; without, it loads that
library from a public address, held to a hash.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import setting
from cnn_jax.errors import InputError
from cnn_jax.run import guarded

MODULE = "cnn_jax.commands.page"


@dataclass
class Options:
    """Which network is shown, and what lies inside the page."""

    run: str = command_line.positional("", "RUN", "folder of a finished run")
    output: str = setting("", "the page", path=True)
    runtime: str = setting("", "folder in which npm put onnxruntime-web; empty: outside", path=True)
    teach: bool = setting(False, "classes of one's own can be taught in the page")
    overwrite: bool = setting(False, "replace a page that exists")


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    with guarded() as outcome:
        options = command_line.options(Options, argv, MODULE, __doc__)
        if not options.output:
            raise InputError("--output is missing: give the page to write, such as page.html.")
        path = Path(options.output)
        if path.exists() and not options.overwrite:
            raise InputError(f"{path} exists: give another --output, or --overwrite.")
        from cnn_jax.inference import onnx, page
        from cnn_jax.inference.predictor import load
        from cnn_jax.records.files import write_text

        onnx.library()
        made = page.html(load(options.run), runtime=options.runtime or None, teach=options.teach)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, made)
        where = "inside" if options.runtime else f"loaded from {page.ADDRESS}"
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; the runtime is {where}")
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
