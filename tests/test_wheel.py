"""The package as it is installed: a wheel of this tree, and what it runs away from the checkout."""

import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.running import ROOT, environment, finish, read

RUN = "cnn_jax.run"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the tree's package."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("cnn_jax", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(made), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    (path,) = made.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def away(wheel, tmp_path_factory):
    """Function that runs a Python with the wheel, and the packages that are here, in a folder that
    has nothing to do with the checkout."""
    folder = tmp_path_factory.mktemp("away")
    python = folder / "venv" / "bin" / "python"
    env = {k: v for k, v in environment().items() if k != "PYTHONPATH"}
    env["PATH"] = os.pathsep.join([str(python.parent), env["PATH"]])
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", folder / "venv"],
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel],
    ):
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=env, cwd=folder
        )
        assert done.returncode == 0, done.stderr
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # Their own .pth files, such as that of an editable install of this checkout, aren't read.
    (packages / "here.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")

    def run(*words):
        process = subprocess.Popen(
            list(map(str, words)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=env,
        )
        return finish(process)

    run.folder = folder
    return run


@pytest.fixture(scope="module")
def trained(away, reference):
    """The folder of a run that `python -m cnn_jax.run` made from a recorded configuration."""
    config = shutil.copy(reference[0] / "config.json", away.folder)
    finished = away("python", "-m", RUN, "--config", Path(config).name, "--workdir", "run")
    assert finished.code == 0, finished.err
    return away.folder / "run"


def test_wheel_holds_the_package_with_its_data_and_no_experiments(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"cnn_jax", f"{wheel.name.partition('-py3')[0]}.dist-info"}
    tree = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "cnn_jax").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert tree == {name for name in names if name.startswith("cnn_jax/")}
    assert "cnn_jax/py.typed" in names
    assert any("/templates/" in name for name in names)


def test_a_recorded_configuration_trains_without_the_checkout(away, trained, reference):
    code = (
        "import cnn_jax, importlib.util as u; print(cnn_jax.__file__, u.find_spec('experiments'))"
    )
    where, _, experiments = away("python", "-c", code).out.strip().rpartition(" ")
    assert Path(where).is_relative_to(away.folder)
    assert experiments == "None"
    assert read(trained / "config.json") == read(reference[0] / "config.json")
    ours, theirs = (read(folder / "summary.json") for folder in (trained, reference[0]))
    assert ours["test/miou"] == theirs["test/miou"]
    assert read(trained / "environment.json")["commit"] is None


def test_without_a_configuration_it_asks_for_one(away):
    finished = away("python", "-m", RUN, "--config", "smoke")
    assert finished.code == 2
    assert finished.err == (
        "error: --config must be the path of a recorded config.json, not 'smoke'.\n"
    )


@pytest.mark.long
def test_every_command_runs_without_the_checkout(away, trained):
    (away.folder / "results" / "one").mkdir(parents=True)
    shutil.copytree(
        trained, away.folder / "results" / "one" / "run", ignore=shutil.ignore_patterns("*points")
    )
    commands = (
        "evaluate run",
        "inspect-run run --what overlays",
        "inspect-data --config run/config.json --output sheet.png",
        "compare run --output comparison",
        "summarize --model.name unet --input 64x96x3",
        "table",
        "benchmark",
    )
    for command in commands:
        finished = away("cnn-jax", *command.split())
        assert finished.code == 0, (command, finished.err)
    assert (away.folder / "comparison" / "index.html").stat().st_size > 10_000
    assert (away.folder / "results" / "README.md").exists()
