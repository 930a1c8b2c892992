"""`cnn-jax NAME` and what every command promises: help with units and choices, completion, ~."""

import subprocess
import sys
import tomllib

import pytest

from cnn_jax import run
from cnn_jax.commands import __main__ as cnn_jax
from cnn_jax.commands import compare, evaluate, inspect_data, summarize, table
from tests.reporting.fake_records import write_run
from tests.running import ROOT, finish, start

NAMES = ("average", "benchmark", "compare", "evaluate", "export", "inspect-data", "inspect-run")
NAMES += ("page", "predict", "summarize", "table")


def test_commands_are_listed_with_a_line_each(capsys):
    assert cnn_jax.main([]) == cnn_jax.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in NAMES:
        assert any(line.startswith(f"  {name} ") and line.endswith(".") for line in lines), name


def test_an_unknown_command_names_the_nearest(capsys):
    assert cnn_jax.main(["sumarize"]) == 2
    assert "error: sumarize is no command: did you mean summarize" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["inspect-data", "inspect_data"])
def test_cnn_jax_and_the_module_are_the_same(name, tmp_path, capsys):
    arguments = ["--data.scene-px", "32", "48", "--data.scene-counts", "2", "1", "1"]
    arguments += ["--output", str(tmp_path / "sheet.png")]
    assert inspect_data.main(arguments) == 0
    ours, drawn = capsys.readouterr(), (tmp_path / "sheet.png").read_bytes()
    assert cnn_jax.main([name, *arguments]) == 0
    assert capsys.readouterr() == ours
    assert (tmp_path / "sheet.png").read_bytes() == drawn


def test_the_script_is_the_modules_main_and_imports_only_the_command_asked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"cnn-jax": "cnn_jax.commands.__main__:main"}
    assert not any(name.startswith(("absl", "ml-coll")) for name in project["dependencies"])
    finished = finish(start("--help", module="cnn_jax.commands"))
    assert finished.code == 0
    heavy = "import sys; from cnn_jax.commands.__main__ import main; main(['--help']);"
    heavy += " sys.exit(any(name in sys.modules for name in ('jax', 'numpy', 'tyro')))"
    assert subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, check=False).returncode == 0


def test_importing_the_package_and_the_tasks_is_light():
    light = "import cnn_jax, cnn_jax.tasks, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", light], cwd=ROOT, check=False).returncode == 0


def test_the_command_of_recorded_configurations_has_help_too(capsys):
    assert run.main("cnn_jax.run", {}, ["--help"]) == 0
    assert "--workdir" in capsys.readouterr().out
    assert run.main("cnn_jax.run", {}, []) == 2
    assert "--config must be the path of a recorded config.json" in capsys.readouterr().err


def test_help_shows_units_and_choices(capsys):
    assert compare.main(["--help"]) == 0
    assert "[0 to 1]" in capsys.readouterr().out
    assert evaluate.main(["--help"]) == 0
    assert "--split {train,validation,test}" in capsys.readouterr().out
    assert summarize.main(["--model.name", "vgg16", "--help"]) == 0
    assert "--model.norm {" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_prints_a_script(shell, capsys):
    assert evaluate.main(["--tyro-print-completion", shell]) == 0
    script = capsys.readouterr().out
    assert "--split" in script
    assert "validation" in script


def test_the_home_folder_may_be_called_by_its_sign(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert evaluate.main(["~/run"]) == 2
    assert str(tmp_path / "run") in capsys.readouterr().err
    assert compare.main(["~/runs", "~/more"]) == 2
    assert f"{tmp_path / 'runs'} is no folder" in capsys.readouterr().err


def test_a_run_is_no_folder_of_results(tmp_path, capsys):
    run = tmp_path / "results" / "a"
    write_run(run, "unet", 0, {"test/miou": 0.5})
    assert table.main(["--results", str(run)]) == 2
    assert f"{run} is a run itself: give the folder of all" in capsys.readouterr().err
    assert not (run / "README.md").exists()


@pytest.mark.parametrize(
    ("main", "arguments", "words"),
    [
        (compare.main, [], "RUN is missing: give the folders of finished runs"),
        (evaluate.main, [], "RUN is missing: give the folder of a finished run."),
        (evaluate.main, ["a", "b"], "'b' is not understood"),
        (evaluate.main, ["a", "--spilt", "test"], "--spilt is no flag: did you mean --split"),
        (evaluate.main, ["a", "--split", "tst"], "--split is 'tst': did you mean test"),
        (inspect_data.main, ["--config", "dubay"], "did you mean dubai"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(main, arguments, words, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert line.endswith(".")
