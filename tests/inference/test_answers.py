"""What answers for whole scenes are worth: counted as NumPy counts, compared by hand."""

import json

import numpy as np
import pytest

from cnn_jax.commands import benchmark, evaluate
from cnn_jax.data.scenes import IGNORED
from cnn_jax.evaluation import metrics
from cnn_jax.inference import answers, predictor
from cnn_jax.inference.predictor import load


@pytest.fixture(scope="module")
def run(reference):
    return load(reference[0])


def test_counts_are_those_of_the_predictions(run, quick_compilation):
    scenes = run.open_data().scenes["train"]
    scenes = [(image, mask.copy()) for image, mask in (scenes[0], scenes[1])]
    scenes[0][1][:9] = IGNORED
    found = answers.confusions(run, scenes, augment=True, blend="linear")
    assert found.shape == (2, 6, 6)
    for (image, mask), counts in zip(scenes, found, strict=True):
        guess = run.predict(image, augment=True, blend="linear").classes
        for truth in range(6):
            for said in range(6):
                assert counts[truth, said] == ((mask == truth) & (guess == said)).sum()


def test_the_difference_is_that_of_the_sums():
    worse = np.array([[[3, 1], [1, 3]], [[4, 0], [2, 2]]])
    better = np.array([[[4, 0], [1, 3]], [[4, 0], [1, 3]]])
    found = answers.compared(better, worse)
    assert found["miou"] == pytest.approx((8 / 10 + 6 / 8) / 2)
    assert found["other_miou"] == pytest.approx((7 / 11 + 5 / 9) / 2)
    assert found["difference"] == pytest.approx(found["miou"] - found["other_miou"])
    low, high = found["interval"]
    ours, theirs = ([metrics.miou(m) for m in each] for each in (better, worse))
    each = np.subtract(ours, theirs)
    assert low == pytest.approx(each.min())
    assert high == pytest.approx(each.max())
    assert answers.compared(better[:1], worse[:1])["interval"] is None


def test_scenes_without_a_label_are_none_to_draw_from():
    worse = np.array([[[3, 1], [1, 3]], *np.zeros((2, 2, 2), int)])
    better = np.array([[[4, 0], [1, 3]], *np.zeros((2, 2, 2), int)])
    found = answers.compared(better, worse)
    assert (found["scenes"], found["interval"]) == (1, None)
    assert found["difference"] == answers.compared(better[:1], worse[:1])["difference"]


def test_the_command_says_what_blending_brings(reference, quick_compilation, tmp_path, capsys):
    output = tmp_path / "neu" / "answers.json"
    arguments = [str(reference[0]), "--blend", "uniform", "--augment", "--output", str(output)]
    assert evaluate.main(arguments) == 0
    out = capsys.readouterr().out
    assert "with windows blended (uniform) instead of cut: " in out
    assert "averaged over flips and quarter turns, beside blended alone: " in out
    record = json.loads(output.read_text())
    assert record["split"] == "test"
    assert record["blended"]["miou"] == record["augmented"]["other_miou"]


@pytest.mark.parametrize("held", ["mine", "{}", '{"run": "", "results": 1}', "[]"])
def test_a_file_of_somebodys_is_not_replaced(reference, tmp_path, capsys, held):
    output = tmp_path / "notes.json"
    output.write_text(held)
    assert evaluate.main([str(reference[0]), "--output", str(output)]) == 2
    assert "wasn't written by this command: give another --output" in capsys.readouterr().err
    assert benchmark.main(["predict", "--output", str(output), "--without-peers"]) == 2
    assert "wasn't written by this command: give another --output" in capsys.readouterr().err
    assert output.read_text() == held


def test_an_output_that_cant_be_made_is_told_before_the_work(
    reference, tmp_path, capsys, monkeypatch
):
    """It was told once a whole split had been counted again."""
    (tmp_path / "notes").write_text("mine")
    monkeypatch.setattr(predictor.Run, "open_data", lambda *_: pytest.fail("worked"))
    for output in (tmp_path / "notes/answers.json", tmp_path / "notes/deep/answers.json"):
        assert evaluate.main([str(reference[0]), "--output", str(output)]) == 2
        assert f"{output} can't be written (" in capsys.readouterr().err
    assert (tmp_path / "notes").read_text() == "mine"


def test_steps_between_windows_are_divided_by_blending(run, quick_compilation):
    scenes = run.open_data().scenes["train"]
    found = answers.largest_steps(run, [scenes[0]], ("gaussian", "none"))
    assert 0 < found["gaussian"] < found["none"] / 3  # windows of these runs are small


def test_classifiers_have_no_windows(run, monkeypatch, capsys):
    monkeypatch.setattr(run.config, "task", "classification")
    monkeypatch.setattr(predictor, "load", lambda folder: run)
    assert evaluate.main([str(run.folder), "--augment"]) == 2
    assert "are for segmenters" in capsys.readouterr().err
