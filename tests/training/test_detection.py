"""Detectors' targets, losses and decoding: by hand, and beside plain NumPy."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.training import detection

# Compiled: each of their operations by itself would be compiled, too.
heat_targets = jax.jit(detection.heat_targets, static_argnums=(1, 2))
centernet_loss = jax.jit(detection.centernet_loss, static_argnums=(2, 3, 4))
centernet_boxes = jax.jit(detection.centernet_boxes, static_argnums=(1, 2))
fcos_loss = jax.jit(detection.fcos_loss, static_argnums=(2, 3))
fcos_boxes = jax.jit(detection.fcos_boxes, static_argnums=1)


def labels(boxes, classes, size=(32, 32), counted=None, ignored=None, numbers=None):
    """Of one image."""
    count = len(boxes)
    return {
        "boxes": jnp.array(boxes, jnp.float32).reshape(1, count, 4),
        "labels": jnp.array([classes], jnp.int32),
        "counted": jnp.array([counted or [True] * count]),
        "ignored": jnp.array([ignored or [False] * count]),
        "numbers": jnp.zeros((1, *size), jnp.int32) if numbers is None else numbers[None],
    }


def test_a_crop_cuts_objects_by_the_stated_rule():
    boxes = jnp.array(
        [[[-10, 0, 10, 10], [-30, 0, 10, 10], [40, 0, 50, 9], [0, 0, 9, 9]]], jnp.float32
    )
    found = detection.cut_to_crop(boxes, jnp.array([[0, 1, 0, -1]]), (20, 20), 0.3)
    assert found["counted"].tolist() == [[True, False, False, False]]
    assert found["ignored"].tolist() == [[False, True, False, False]]
    assert found["boxes"][0, 0].tolist() == [0, 0, 10, 10]


def test_the_radius_keeps_the_overlap():
    """A corner moved by the radius leaves an IoU of 0.7 or more in each of the three cases."""
    for width, height in itertools.product((3.0, 10.0, 40.0), repeat=2):
        r = float(detection.radius(jnp.float32(width), jnp.float32(height)))
        area = width * height
        both = (width - r) * (height - r)
        ious = [
            both / (2 * area - both),
            (width - 2 * r) * (height - 2 * r) / area,
            area / ((width + 2 * r) * (height + 2 * r)),
        ]
        assert min(ious) == pytest.approx(0.7, abs=1e-3)


def test_the_heat_map_is_that_of_plain_numpy():
    boxes, classes = [[2, 3, 15, 12], [10, 10, 20, 26], [0, 0, 8, 8]], [0, 1, 1]
    given = labels(boxes, classes, counted=[True, True, False])
    found = np.asarray(heat_targets(given, (8, 8, 2), 4))[0]
    wanted = np.zeros((8, 8, 2))
    for (left, top, right, bottom), label in list(zip(boxes, classes, strict=True))[:2]:
        w, h = (right - left) / 4, (bottom - top) / 4
        r = float(detection.radius(jnp.float32(w), jnp.float32(h)))
        sigma = (2 * r + 1) / 6
        row, column = int((top + bottom) / 8), int((left + right) / 8)
        for y, x in itertools.product(range(8), repeat=2):
            value = math.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))
            wanted[y, x, label] = max(wanted[y, x, label], value)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert (found == 1).sum() == 2


def test_centernets_loss_by_hand():
    """One object over the whole of a 1x1 map: every term is a number that paper gives."""
    outputs = {
        "heat": jnp.full((1, 1, 1, 1), math.log(0.6 / 0.4)),
        "size": jnp.array([1.5, 0.5]).reshape(1, 1, 1, 2),
        "offset": jnp.array([0.25, 0.5]).reshape(1, 1, 1, 2),
    }
    given = labels([[0, 0, 4, 4]], [0], size=(4, 4))
    found = centernet_loss(outputs, given, 4, 0.1, 1.0)
    assert float(found["heat_loss"][0]) == pytest.approx(-(0.4**2) * math.log(0.6), rel=1e-5)
    assert float(found["size_loss"][0]) == pytest.approx(1.0)
    assert float(found["offset_loss"][0]) == pytest.approx(0.25)
    assert float(found["loss"][0]) == pytest.approx(0.16 * -math.log(0.6) + 0.1 + 0.25, rel=1e-5)
    assert float(found["loss"][1]) == 1


def test_ignored_boxes_and_crowds_are_no_false_alarms():
    heat = jnp.full((1, 8, 8, 1), 2.0)
    outputs = {"heat": heat, "size": jnp.ones((1, 8, 8, 2)), "offset": jnp.ones((1, 8, 8, 2))}
    numbers = jnp.zeros((32, 32), jnp.int32).at[:, 16:].set(-1)
    given = labels([[0, 0, 16, 32]], [0], counted=[False], ignored=[True], numbers=numbers)
    found = centernet_loss(outputs, given, 4, 0.1, 1.0)
    assert float(found["loss"][0]) == 0
    assert float(found["loss"][1]) == 0
    half = labels([[0, 0, 16, 16]], [0], counted=[False], ignored=[True], numbers=numbers)
    alarms = float(centernet_loss(outputs, half, 4, 0.1, 1.0)["loss"][0])
    p = 1 / (1 + math.exp(-2))
    assert alarms == pytest.approx(-16 * p**2 * math.log(1 - p), rel=1e-4)


def test_centernet_decodes_what_it_should_learn():
    boxes, classes = [[2, 3, 15, 12], [10, 10, 20, 26]], [0, 1]
    heat = heat_targets(labels(boxes, classes), (8, 8, 2), 4)
    heat = jnp.log(jnp.clip(heat, 1e-6, 0.99)) - jnp.log1p(-jnp.clip(heat, 1e-6, 0.99))
    size, offset = np.zeros((1, 8, 8, 2)), np.zeros((1, 8, 8, 2))
    for left, top, right, bottom in boxes:
        x, y = (left + right) / 8, (top + bottom) / 8
        size[0, int(y), int(x)] = (right - left) / 4, (bottom - top) / 4
        offset[0, int(y), int(x)] = x % 1, y % 1
    outputs = {"heat": heat, "size": jnp.array(size), "offset": jnp.array(offset)}
    found = centernet_boxes(outputs, 4, 5)
    order = np.argsort(np.asarray(found["label"])[0, :2])
    np.testing.assert_allclose(np.asarray(found["box"])[0, :2][order], boxes, atol=1e-5)
    np.testing.assert_allclose(found["score"][0, :2], 0.99, atol=1e-3)
    assert float(found["score"][0, 2]) < 0.5


def naive_targets(boxes, places):
    """FCOS's assignment, loop by loop."""
    strides = [s for s, _, _ in places]
    found = []
    for stride, x, y in places:
        best, which = math.inf, -1
        for index, (left, top, right, bottom) in enumerate(boxes):
            sides = x - left, y - top, right - x, bottom - y
            near = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2)) < 1.5 * stride
            low = 0 if stride == min(strides) else 4 * stride
            high = math.inf if stride == max(strides) else 8 * stride
            fits = min(sides) > 0 and near and low <= max(sides) < high
            area = (right - left) * (bottom - top)
            if fits and area < best:
                best, which = area, index
        found.append(which)
    return found


def test_fcos_assigns_cells_as_loops_do():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (12, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(4, 120, (12, 2))], 1)
    places = [
        (stride, (x + 0.5) * stride, (y + 0.5) * stride)
        for stride in (8, 16, 32)
        for y, x in itertools.product(range(128 // stride), repeat=2)
    ]
    stride, x, y = jnp.array(places, jnp.float32).T
    given = labels(boxes, [0] * 12, size=(128, 128))
    which, wanted = detection.fcos_targets(given, stride, x, y)
    assert which[0].tolist() == naive_targets(boxes.astype(np.float32), places)
    index = int(np.flatnonzero(np.asarray(which)[0] >= 0)[0])
    left, top, right, bottom = boxes[int(which[0, index])]
    _, px, py = places[index]
    np.testing.assert_allclose(
        wanted[0, index], [px - left, py - top, right - px, bottom - py], atol=1e-4
    )


def test_generalised_iou_by_hand():
    same = jnp.array([2.0, 2, 2, 2])
    assert float(detection.generalised_iou(same, same)) == pytest.approx(1)
    # 4x4 about the point, and 2x4 to its right: both 8, union 16, box about both 4x4... all covered
    half = jnp.array([0.0, 2, 2, 2])
    assert float(detection.generalised_iou(same, half)) == pytest.approx(0.5)
    # A corner each: both 1, union 2 * 4 - 1 = 7, about 3x3 = 9: 1/7 - 2/9.
    one, other = jnp.array([1.0, 1, 1, 1]), jnp.array([0.0, 0, 2, 2])
    assert float(detection.generalised_iou(one, other)) == pytest.approx(1 / 7 - 2 / 9)


def maps(classes=2, sizes=((8, 4), (16, 2))):
    return {
        stride: {
            "class": jnp.full((1, side, side, classes), -9.0),
            "box": jnp.ones((1, side, side, 4)),
            "centre": jnp.zeros((1, side, side, 1)),
        }
        for stride, side in sizes
    }


def test_fcos_loss_by_hand():
    """An object that one cell stands for, whose box it has: class and centre alone are left."""
    outputs = maps(classes=1)
    outputs[8]["class"] = jnp.full((1, 4, 4, 1), -40.0).at[0, 1, 1, 0].set(0.0)
    outputs[16]["class"] = jnp.full((1, 2, 2, 1), -40.0)
    given = labels([[4, 4, 20, 20]], [0])
    # On the first level cells within 12 px of (12, 12) and inside: middles 12 and 4 (edge: out).
    cells = detection._cells(outputs)
    which, wanted = detection.fcos_targets(given, cells["stride"], cells["x"], cells["y"])
    assert int((which >= 0).sum()) == 1
    sides = np.asarray(wanted)[0, int(np.argmax(np.asarray(which)[0] >= 0))]
    assert sides.tolist() == [8, 8, 8, 8]
    found = fcos_loss(outputs, given, 1.0, 1.0)
    assert float(found["box_loss"][0]) == pytest.approx(0, abs=1e-6)
    assert float(found["class_loss"][0]) == pytest.approx(0.25 * 0.25 * math.log(2), rel=1e-4)
    assert float(found["centre_loss"][0]) == pytest.approx(math.log(2), rel=1e-4)
    assert float(found["loss"][1]) == 1


def test_suppression_is_that_of_a_loop():
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 8, (40, 2))
    box = np.concatenate([corners, corners + rng.uniform(10, 14, (40, 2))], 1).astype(np.float32)
    score = np.sort(rng.random(40))[::-1].astype(np.float32)
    label = rng.integers(0, 2, 40)
    found = np.asarray(jax.jit(detection.suppressed)(box, score, label))
    kept = []
    for i in range(40):
        ok = True
        for j in kept:
            low, high = np.maximum(box[i, :2], box[j, :2]), np.minimum(box[i, 2:], box[j, 2:])
            both = np.prod(np.maximum(high - low, 0))
            union = np.prod(box[i, 2:] - box[i, :2]) + np.prod(box[j, 2:] - box[j, :2]) - both
            ok &= not (label[i] == label[j] and both / union > detection.NMS_IOU)
        kept += [i] if ok else []
    assert np.flatnonzero(found).tolist() == kept
    assert 5 < len(kept) < 40


def test_fcos_decodes_boxes_in_pixels():
    outputs = maps()
    outputs[8]["class"] = outputs[8]["class"].at[0, 1, 2, 1].set(9.0)
    outputs[16]["class"] = outputs[16]["class"].at[0, 0, 1, 0].set(3.0)
    found = fcos_boxes(outputs, 3)
    assert found["label"][0, :2].tolist() == [1, 0]
    np.testing.assert_allclose(found["box"][0, 0], [12, 4, 28, 20])
    np.testing.assert_allclose(found["box"][0, 1], [8, -8, 40, 24])
    assert float(found["score"][0, 0]) == pytest.approx(math.sqrt(0.5), abs=1e-3)
