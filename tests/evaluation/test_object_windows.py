"""Objects that windows cut are joined, and none is doubled."""

import numpy as np
import pytest
import scipy

from cnn_jax.data import objects
from cnn_jax.evaluation.object_windows import Seen, find, grid, joined

HEIGHT, WIDTH = 200, 260


def scene():
    """Values are numbers of objects: a cross over four windows, small ones in overlaps, one alone,
    a long one over three, and two that lie side by side across an edge."""
    numbers = np.zeros((HEIGHT, WIDTH), np.int32)
    numbers[70:130, 90:110] = 1
    numbers[90:110, 60:140] = 1
    numbers[20:30, 95:103] = 2
    numbers[5:15, 5:20] = 3
    numbers[160:170, 30:240] = 4
    numbers[40:56, 80:96] = 5
    numbers[40:56, 98:114] = 6
    return numbers


def oracle(masks, numbers):
    """Sees what is visible of each object in a window whose pixels are numbers."""

    def see(images):
        every = []
        for image in images:
            seen = []
            for number, where in enumerate(scipy.ndimage.find_objects(image[..., 0]), 1):
                if where is None:
                    continue
                rows, columns = where
                box = (columns.start, rows.start, columns.stop, rows.stop)
                mask = image[where][..., 0] == number
                label = number % 2
                seen.append(Seen(label, 0.5 + number / 100, box, mask if masks else None))
            every.append(seen)
        return every

    return see


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(
    ("window", "overlap"), [((112, 112), 32), ((100, 150), 50), ((400, 400), 0)]
)
def test_each_object_is_found_once(masks, window, overlap):
    numbers = scene()
    places = grid(HEIGHT, WIDTH, window, overlap)
    if window == (112, 112):
        assert len(places.rows) >= 2
        cut = [places.rectangle((r, c)) for r in (0, 1) for c in (0, 1)]
        assert all(a < 110 and b < 130 and c > 90 and d > 70 for a, b, c, d in cut)
    found = find(places, lambda a, b: numbers[a:b, :, None], oracle(masks, numbers), batch_size=3)
    wanted = objects.of_map(numbers, {n: n % 2 for n in range(1, 7)})
    assert sorted(one.box for one in found) == sorted(one.box for one in wanted)
    assert [one.score for one in found] == sorted(
        (0.5 + n / 100 for n in range(1, 7)), reverse=True
    )
    if masks:
        ours = {one.box: objects.mask(one, HEIGHT, WIDTH) for one in found}
        for one in wanted:
            np.testing.assert_array_equal(ours[one.box], objects.mask(one, HEIGHT, WIDTH))


def test_a_scene_smaller_than_its_window_is_padded():
    numbers = scene()[:90, :80]
    places = grid(90, 80, (128, 128), 32)
    seen = []

    def see(images):
        seen.append(images.shape)
        return [
            [Seen(0, 0.9, (70.0, 80.0, 100.0, 120.0)), Seen(0, 0.8, (90.0, 95.0, 100.0, 120.0))]
        ]

    [one] = find(places, lambda a, b: numbers[a:b, :, None], see, 1)
    assert seen == [(1, 128, 128, 1)]
    assert one.box == (70, 80, 80, 90)


def test_an_uncut_answer_is_preferred_and_the_best_score_kept():
    places = grid(100, 180, (100, 100), 20)
    whole = Seen(0, 0.6, (82.0, 10.0, 98.0, 30.0), window=(0, 1))
    part = Seen(0, 0.9, (82.0, 10.0, 100.0, 30.0), window=(0, 0))
    [one] = joined({(0, 0): [part], (0, 1): [whole]}, places)
    assert (one.box, one.score) == (whole.box, 0.9)
    other = Seen(1, 0.6, (82.0, 10.0, 98.0, 30.0), window=(0, 1))
    assert len(joined({(0, 0): [part], (0, 1): [other]}, places)) == 2
