"""What answers for whole scenes are worth: counted as NumPy counts, compared by hand."""

import json

import numpy as np
import pytest

from cnn_jax import tasks
from cnn_jax.commands import evaluate
from cnn_jax.configuration.schema import EvaluationConfig, SegmentationConfig
from cnn_jax.data.dataset_info import DatasetInfo
from cnn_jax.data.scenes import IGNORED
from cnn_jax.evaluation import metrics
from cnn_jax.inference import answers
from cnn_jax.inference.predictor import Predictor, load
from cnn_jax.training.devices import Devices


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


class Ramp(Predictor):
    """Says of a pixel how far to the right it lies in its window, whatever it shows."""

    def __init__(self):
        self.config = SegmentationConfig(
            model=tasks.model_config("unet"),
            evaluation=EvaluationConfig(window_px=(64, 64), context_px=8, batch_size=1),
        )
        self.info = DatasetInfo(
            *("ramp", ("left", "right"), (), 1, "uint8", 255.0, (0.5,), (0.25,), (1, 1), {}),
            *(None, ""),
        )
        self.devices = Devices()

    def probabilities(self, images):
        right = np.broadcast_to(np.arange(64, dtype=np.float32) / 64, images.shape[:3])
        return np.stack([1 - right, right], -1)


def test_steps_are_those_across_borders():
    image = np.zeros((64, 192, 1), np.uint8)
    # Of 64 px, 48 apart: half way between two middles one is at its 55th pixel and the next at its
    # 8th, while the ramp itself rises by one.
    assert Ramp().windows(64, 192, "none")[1].starts == (-8, 40, 88, 136)
    found = answers.largest_step(Ramp(), [image], "none")
    assert found == pytest.approx((47 - 1) / 64, abs=1.01 / 64)
    assert answers.largest_step(Ramp(), [image], "gaussian") < found / 5
    assert answers.largest_step(Ramp(), [image[:, :64]], "none") is None


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


def test_classifiers_have_no_windows(run, monkeypatch):
    monkeypatch.setattr(run.config, "task", "classification")
    with pytest.raises(Exception, match="are for segmenters"):
        evaluate.evaluate_answers(run, "test")
