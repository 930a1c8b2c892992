"""Panoptic quality and counts, by hand."""

import numpy as np
import pytest

from cnn_jax.data import objects
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
    of_classes = panoptic.object_counts(truth, found, 3)
    assert of_classes.tolist() == [[2, 2], [1, 2], [0, 0]]


def test_an_object_within_the_box_of_a_crowd_is_counted():
    """The first has a rim that counts nowhere, as in Pascal VOC's masks, whose box is around both;
    the second lies before a crowd of which the box alone is known."""
    rim = np.zeros((20, 30), bool)
    rim[2:12, 2:12] = True
    rim[3:11, 3:11] = False
    every = (
        *(Annotation(0, (3, 3, 11, 11)), objects.of_mask(rim, 0, crowd=True)),
        *(Annotation(0, (18, 5, 22, 15)), Annotation(0, (15, 2, 28, 18), crowd=True)),
    )
    found = [Annotation(0, one.box, score=0.9) for one in every if not one.crowd]
    found.append(Annotation(0, (23, 8, 27, 12), score=0.9))  # one of the crowd
    counts = panoptic.object_counts(AnnotatedImage("a", 20, 30, every), found, 1)
    assert counts.tolist() == [[2, 2]]


def test_what_is_found_exactly_has_quality_one():
    every = (Annotation(0, (1, 1, 5, 5)), Annotation(1, (5, 1, 9, 5)))
    truth = AnnotatedImage("a", 10, 10, every)
    found = [Annotation(one.label, one.box, score=1.0) for one in every]
    quality = panoptic.panoptic_quality(panoptic.panoptic_counts(truth, found, 2))
    assert quality["pq"].tolist() == pytest.approx([1, 1])
