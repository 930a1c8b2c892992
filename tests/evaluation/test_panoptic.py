"""Panoptic quality and counts, by hand."""

import numpy as np
import pytest

from cnn_jax.data.objects import AnnotatedImage, Annotation
from cnn_jax.evaluation import panoptic


def test_a_case_worked_by_hand():
    truth = AnnotatedImage("a", 10, 20, (
        Annotation(0, (0, 0, 4, 5)),       # 20 px; found with IoU 16 / 20
        Annotation(0, (10, 0, 14, 5)),     # missed: the prediction there is of class 1
        Annotation(1, (0, 6, 10, 10)),     # 40 px; IoU 20 / 40 is not above 0.5: a miss
        Annotation(0, (16, 0, 20, 10), crowd=True),
    ))  # fmt: skip
    found = (
        Annotation(0, (0, 0, 4, 4), score=0.9),
        Annotation(1, (10, 0, 14, 5), score=0.8),
        Annotation(1, (0, 6, 5, 10), score=0.7),
        Annotation(0, (17, 2, 19, 4), score=0.6),  # in the crowd: no false alarm
        Annotation(0, (0, 0, 4, 4), score=0.5),  # wholly under a better one: no pixel is its own
    )
    counts = panoptic.panoptic_counts(truth, found, 3)
    np.testing.assert_allclose(counts, [[0.8, 1, 0, 1], [0, 0, 2, 1], [0, 0, 0, 0]])
    quality = panoptic.panoptic_quality(counts)
    np.testing.assert_allclose(quality["pq"], [0.8 / 1.5, 0, np.nan])
    np.testing.assert_allclose(quality["sq"], [0.8, np.nan, np.nan])
    np.testing.assert_allclose(quality["rq"], [1 / 1.5, 0, np.nan])
    objects = panoptic.object_counts(truth, found, 3)
    assert objects.tolist() == [[2, 2], [1, 2], [0, 0]]


def test_what_is_found_exactly_has_quality_one():
    every = (Annotation(0, (1, 1, 5, 5)), Annotation(1, (5, 1, 9, 5)))
    truth = AnnotatedImage("a", 10, 10, every)
    found = [Annotation(one.label, one.box, score=1.0) for one in every]
    quality = panoptic.panoptic_quality(panoptic.panoptic_counts(truth, found, 2))
    assert quality["pq"].tolist() == pytest.approx([1, 1])
