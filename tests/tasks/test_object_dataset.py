"""What is kept and drawn of a split's images, of a learner that never ran."""

from types import SimpleNamespace

import numpy as np

from cnn_jax.configuration.schema import ObjectEvaluationConfig
from cnn_jax.data.objects import AnnotatedImage, Annotation
from cnn_jax.reporting import object_figures
from cnn_jax.tasks.object_dataset import Evaluated, ObjectEvaluator
from cnn_jax.tasks.task import Report

IMAGE = np.zeros((40, 60, 3), np.uint8)


def test_pictures_show_as_many_objects_as_count(tmp_path, monkeypatch):
    """Two objects are seen, but the figures count one of a class: the pictures do too."""
    boxes = (2, 2, 12, 12), (20, 2, 30, 12)
    truth = AnnotatedImage("a.png", 40, 60, tuple(Annotation(0, box) for box in boxes))
    seen = tuple(Annotation(0, box, score=0.9 - 0.1 * i) for i, box in enumerate(boxes))
    learner = SimpleNamespace(
        config=SimpleNamespace(evaluation=ObjectEvaluationConfig(most_objects=1)),
        names=("car",),
        colors=((226, 169, 41),),
        kinds=("box",),
        heat=lambda _, images: np.zeros(images.shape[:3], np.float32),
    )
    evaluator = ObjectEvaluator(learner, [(IMAGE, None)], [], "test", None)
    report = Report({}, Evaluated((truth,), (seen,), {"box": None}, 1, most=1))

    kept = []
    evaluator.keep(SimpleNamespace(write_objects=lambda *given: kept.append(given)), report)
    [(record, _)] = kept
    assert [mark.kind for mark in record.marks[0][1]] == ["found", "missed"]
    assert record.counted["box"][0].labels.tolist() == [0]

    drawn = []
    monkeypatch.setattr(object_figures, "gallery", lambda *given, **_: drawn.extend(given[3]))
    for name in ("heat_maps", "precision_recall", "by_size"):
        monkeypatch.setattr(object_figures, name, lambda *_, **__: None)
    report.evaluation.figures["box"] = SimpleNamespace(precision=None, twelve=None)
    evaluator.draw(tmp_path, [], report, None)
    [matched] = drawn
    assert matched.order.tolist() == [0]
    assert matched.missed.tolist() == [1]
