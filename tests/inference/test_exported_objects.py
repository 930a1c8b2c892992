"""Networks that find objects as ONNX: from what onnxruntime computes, NumPy picks the objects that
the package itself finds."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime
import pytest
from scipy.ndimage import maximum_filter

from cnn_jax import tasks
from cnn_jax.benchmarks.networks import data_info
from cnn_jax.configuration.schema import (
    DetectionConfig,
    InstanceConfig,
    ObjectDataConfig,
    ObjectEvaluationConfig,
)
from cnn_jax.errors import InputError
from cnn_jax.inference import export
from cnn_jax.inference.predictor import Run
from cnn_jax.training.detection import NMS_IOU
from cnn_jax.training.devices import Devices
from tests.models.test_all import filled

pytestmark = pytest.mark.usefixtures("quick_compilation")

MODELS: dict[str, tuple[Any, str, dict]] = {
    "centernet": (DetectionConfig, "centernet", {"encoder": "resnet20", "neck_width": 8}),
    "fcos": (
        DetectionConfig,
        "fcos",
        {"encoder": "resnet20", "fpn_width": 32, "head_depth": 1, "strides": (2, 4), "further": 1},
    ),
    "instances": (InstanceConfig, "unet", {"base_width": 4, "depth": 2}),
}
SIZE_PX = 64, 96


def made(kind: str, dtype: str = "float32") -> Run:
    """A run of three classes that nobody trained."""
    make, name, options = MODELS[kind]
    config = make(
        experiment="x",
        model=tasks.model_config(name, dtype=dtype, **options),
        data=ObjectDataConfig(crop_px=SIZE_PX, scene_px=SIZE_PX, scene_counts=(1, 1, 1)),
        evaluation=ObjectEvaluationConfig(window_px=SIZE_PX, most_objects=10),
    )
    learner = tasks.of(config.task).learner(config, data_info(3))
    variables = filled(learner.module(), np.zeros((1, *SIZE_PX, 3), np.float32))
    summary = {"evaluated_step": 0}
    return Run(Path("run"), config, learner.info, summary, learner, variables, Devices())


@pytest.fixture(
    scope="module", params=["centernet", pytest.param("fcos", marks=pytest.mark.long), "instances"]
)
def run(request):
    return made(request.param)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, *SIZE_PX, 3), np.uint8)


@pytest.fixture(scope="module")
def computed(run, images):
    """What onnxruntime makes of images as files store them."""
    model = export.to_onnx(run, parts=["normalization"])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"images": images.astype(np.float32)})
    return found


def iou(box, others):
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.maximum(high - low, 0).prod(-1)
    areas = [np.maximum(of[..., 2:] - of[..., :2], 0).prod(-1) for of in (box, others)]
    return both / np.maximum(areas[0] + areas[1] - both, 1e-6)


def test_objects_can_be_picked_from_what_the_program_gives(run, images, computed):
    detect = jax.jit(run.learner.detect)
    expected = {name: np.asarray(of) for name, of in detect(run.variables, images).items()}
    if run.config.task == "instances":
        return check_instances(expected, computed)
    assert computed.shape[2] == 3 + 4
    for index, cells in enumerate(computed):
        scores, boxes = cells[:, :3], cells[:, 3:]
        if run.config.model.name == "fcos":  # what overlaps a better one of its class falls away
            kept = np.zeros_like(scores)
            for label in range(3):
                left = np.argsort(-scores[:, label], kind="stable")[:1000]
                while len(left):
                    best, left = left[0], left[1:]
                    kept[best, label] = scores[best, label]
                    left = left[iou(boxes[best], boxes[left]) <= NMS_IOU]
            scores = kept
        order = np.argsort(-scores.ravel(), kind="stable")[:5]
        np.testing.assert_allclose(scores.ravel()[order], expected["score"][index, :5], atol=1e-4)
        np.testing.assert_array_equal(order % 3, expected["label"][index, :5])
        np.testing.assert_allclose(boxes[order // 3], expected["box"][index, :5], atol=1e-2)


def check_instances(expected, computed):
    """Centres are above all within 2 px; each pixel of a class goes to the one that its offset
    points nearest to."""
    assert computed.shape == (2, *SIZE_PX, 1 + 3 + 3)
    places = np.stack(np.mgrid[: SIZE_PX[0], : SIZE_PX[1]], -1)
    for pixels, numbers in zip(computed, expected["numbers"], strict=True):
        np.testing.assert_allclose(pixels[..., :4].sum(-1), 1, atol=1e-5)
        heat = pixels[..., 4]
        peaks = (maximum_filter(heat, 5, mode="constant", cval=-np.inf) == heat) & (heat > 0.1)
        centres = sorted(np.argwhere(peaks), key=lambda at: -heat[tuple(at)])[:20]
        assert len(centres) > 2
        points = places + pixels[..., 5:]
        away = np.linalg.norm(points[..., None, :] - np.array(centres), axis=-1)
        nearest = np.where(pixels[..., :4].argmax(-1) > 0, away.argmin(-1) + 1, 0)
        assert (nearest == numbers).mean() > 0.999


@pytest.mark.parametrize("kind", ["centernet", "instances"])
def test_what_computes_in_bfloat16_is_written_in_float32(kind, images):
    models = [export.to_onnx(made(kind, dtype)) for dtype in ("float32", "bfloat16")]
    sessions = [onnxruntime.InferenceSession(model.SerializeToString()) for model in models]
    inputs = {"images": images / np.float32(127.5) - 1}
    np.testing.assert_array_equal(*(session.run(None, inputs)[0] for session in sessions))


def test_what_it_takes_and_gives_is_said(run):
    said = export.described(run)
    assert "64 x 96 px" in said
    assert ("cells [batch" in said) == (run.config.task == "detection")
    assert export.about(run)["task"] == run.config.task


def test_what_makes_no_sense_is_refused(run):
    with pytest.raises(InputError, match="gives probabilities without --with softmax"):
        export.to_onnx(run, parts=["softmax"])
    if run.config.task == "detection":
        with pytest.raises(InputError, match="leave out --any-size, and give --size-px"):
            export.to_onnx(run, any_size=True)
    else:
        model = export.to_onnx(run, any_size=True)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        (found,) = session.run(None, {"images": np.zeros((1, 32, 64, 3), np.float32)})
        assert found.shape == (1, 32, 64, 7)


def test_instances_of_any_size_are_multiples_of_what_their_unet_halves():
    """Twice here: a side of 12 px or 20 will do."""
    run = made("instances")
    model = export.to_onnx(run, any_size=True)
    held = {entry.key: entry.value for entry in model.metadata_props}
    assert held["multiple_px"] == "4"
    assert "multiples of 4 px" in export.described(run, any_size=True)
    images = np.random.default_rng(0).normal(size=(2, 20, 12, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"images": images})
    np.testing.assert_allclose(found, export.network(run)(images), atol=1e-4)
