"""Fills a folder with all that a machine with an accelerator lacks, where nothing can be fetched:
wheels, photographs and the configurations of the study `dubai_whole`.

python -m experiments.accelerator FOLDER --data DUBAI [--packages NAME ...] [--no-wheels]

The machine has Python 3.12, JAX with Flax, Optax and Orbax, PyTorch with torchvision and timm, and
what these bring. The folder and the checkout travel together, in at most 64 MiB: both are weighed.
It ends with the two lines to type there.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cnn_jax.benchmarks.measuring import figure
from cnn_jax.configuration import command_line, documents
from cnn_jax.configuration.schema import DataConfig, setting
from cnn_jax.data.scene_folders import open_folder
from cnn_jax.errors import InputError
from cnn_jax.records.files import write_text
from cnn_jax.run import guarded
from experiments import aerial_compare

STUDY = "dubai_whole"
MOST_BYTES = 64 * 2**20
ROOT = Path(__file__).parents[1]

PACKAGES = (
    *("grain", "array_record", "portpicker"),
    *("tyro", "docstring_parser", "typeguard"),
    *("dm_pix", "tensorboardX", "segmentation_models_pytorch"),
)
"""What the machine lacks of what is imported there. rasterio is not among them: JPEG and PNG are
read without it."""

PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)] + ["manylinux2014_x86_64"]


@dataclass
class Options:
    """What is put into which folder."""

    folder: str = command_line.positional("", "FOLDER", "folder to fill")
    data: str = setting("", "folder of the Dubai photographs", path=True)
    packages: tuple[str, ...] = setting(PACKAGES, "packages whose wheels are fetched")
    wheels: bool = setting(True, "fetch wheels, where the machine lacks them")


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    with guarded() as outcome:
        prepare(command_line.options(Options, argv, "experiments.accelerator", __doc__))
    return outcome.exit_code


def prepare(options: Options) -> None:
    """Fills the folder, weighs it with the checkout, and prints what to type.

    Raises:
        InputError: the photographs can't be used, a wheel can't be fetched, or all is too heavy.
    """
    if not options.data:
        raise InputError("--data is missing: give the folder of the Dubai photographs.")
    open_folder(DataConfig(source="dubai", directory=options.data))
    folder = Path(options.folder)
    photographs, wheels = folder / "photographs", folder / "wheels"
    shutil.copytree(options.data, photographs, dirs_exist_ok=True)
    (folder / "configurations").mkdir(exist_ok=True)
    for name, config in aerial_compare.STUDIES[STUDY]().variants.items():
        named = replace(config, configuration=STUDY, variant=name)
        write_text(folder / "configurations" / f"{name}.json", documents.to_json(named))
    if options.wheels:
        fetch(options.packages, wheels)
    parts = {path.name: _weight(path.rglob("*")) for path in sorted(folder.iterdir())}
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        raise InputError(f"git lists no files of {ROOT}: begin from a clone of the repository.")
    parts["checkout"] = _weight(ROOT / name for name in listed.stdout.split("\0") if name)
    for name, weight in parts.items():
        print(f"{name:<16}{figure(weight / 2**20):>8} MiB")
    total = sum(parts.values())
    print(f"{'all':<16}{figure(total / 2**20):>8} MiB")
    if total > MOST_BYTES:
        heaviest = max(parts, key=lambda name: parts[name])
        raise InputError(
            f"that is more than {MOST_BYTES // 2**20} MiB, {heaviest} the most of it: leave"
            " something away."
        )
    print("\nto type there, in the checkout:")
    if options.wheels:
        names = " ".join(options.packages)
        print(f"python -m pip install --no-index --no-deps --find-links {wheels} {names}")
    print(f"python -m cnn_jax.commands.benchmark --accelerator --data {folder}")


def fetch(packages: Sequence[str], folder: Path) -> None:
    """Fetches wheels for Python 3.12 on Linux, of the versions in constraints.txt, and nothing that
    they need.

    Raises:
        InputError: pip can't; its last line says why.
    """
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    words += ["--no-deps", "--only-binary=:all:", "--python-version", "3.12"]
    words += [word for platform in PLATFORMS for word in ("--platform", platform)]
    words += ["--constraint", str(ROOT / "constraints.txt"), "--dest", str(folder), *packages]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InputError(f"pip fetched no wheels ({lines[-1]}): mend that, or give --no-wheels.")


def _weight(paths):
    """Bytes of files."""
    return sum(path.stat().st_size for path in paths if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
