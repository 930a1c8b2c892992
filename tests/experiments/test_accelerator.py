"""The folder for a machine with an accelerator: what it holds, what it weighs, what is printed."""

import subprocess
from types import SimpleNamespace

import pytest

from cnn_jax import tasks
from experiments import accelerator
from experiments.aerial_compare import STUDIES
from tests.data.fake_sets import write_dubai
from tests.running import Finished, assert_refused


@pytest.fixture
def command(capsys, tmp_path):
    """Function that fills a folder with photographs, and returns (what a child would, the
    folder)."""
    write_dubai(tmp_path / "dubai")
    folder = tmp_path / "filled"

    def run(*arguments):
        capsys.readouterr()
        code = accelerator.main([str(folder), "--data", str(tmp_path / "dubai"), *arguments])
        return Finished(code, *capsys.readouterr()), folder

    return run


def test_it_holds_photographs_and_configurations(command):
    finished, folder = command("--no-wheels")
    assert finished.code == 0, finished.err
    assert len(list((folder / "photographs").rglob("*.jpg"))) == 8
    study = STUDIES["dubai_whole"]()
    configurations = sorted((folder / "configurations").glob("*.json"))
    assert [path.stem for path in configurations] == sorted(study.variants)
    for path in configurations:
        config = tasks.read_config(path)
        assert (config.configuration, config.variant) == ("dubai_whole", path.stem)
        assert config.model == study.variants[path.stem].model
    lines = finished.out.strip().splitlines()
    assert lines[-1].endswith(f"benchmark --accelerator --data {folder}")
    assert [line.split()[0] for line in lines[:4]] == [
        *("configurations", "photographs", "checkout", "all")
    ]


def test_wheels_are_fetched_for_the_machine_and_installed_there(command, monkeypatch):
    called = []
    run = subprocess.run

    def recorded(words, **options):
        if "pip" not in words:
            return run(words, **options)
        called.append(words)
        return SimpleNamespace(returncode=len(called) - 1, stderr="log\nno such wheel\n")

    monkeypatch.setattr(accelerator.subprocess, "run", recorded)
    finished, folder = command("--packages", "grain", "tyro")
    assert finished.code == 0, finished.err
    (words,) = called
    assert {"--no-deps", "--only-binary=:all:", "manylinux2014_x86_64"} <= set(words)
    assert words[-4:] == ["--dest", str(folder / "wheels"), "grain", "tyro"]
    line = f"--no-index --no-deps --find-links {folder / 'wheels'} grain tyro\n"
    assert line in finished.out
    assert_refused(command()[0], "no such wheel", "--no-wheels")


def test_rasterio_does_not_travel():
    assert "rasterio" not in accelerator.PACKAGES


def test_what_is_too_heavy_is_refused(command, monkeypatch):
    monkeypatch.setattr(accelerator, "MOST_BYTES", 2**20)
    finished, _ = command("--no-wheels")
    assert finished.code == 2
    assert finished.err.startswith("error: that is more than 1 MiB, checkout the most of it")


def test_photographs_must_be_there(capsys, tmp_path):
    assert accelerator.main([str(tmp_path / "filled")]) == 2
    assert "--data is missing" in capsys.readouterr().err
    assert accelerator.main([str(tmp_path / "filled"), "--data", str(tmp_path)]) == 2
    assert not (tmp_path / "filled").exists()
