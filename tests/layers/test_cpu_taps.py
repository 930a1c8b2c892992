"""What the places of a window meet, against NumPy's sliding windows."""

import numpy as np
import pytest

from cnn_jax.layers.cpu_arithmetic import taps


@pytest.mark.parametrize("window_px", [(1, 1), (2, 3), (3, 3), (5, 2)])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 2), (1, 3)])
@pytest.mark.parametrize("size", [(9, 14), (13, 11), (4, 7)])
def test_each_place_of_the_window_meets_what_numpy_slides_over_it(
    window_px, stride, dilation, size
):
    x = np.arange(2 * np.prod(size) * 3).reshape(2, *size, 3)
    reach = [(length - 1) * dilation + 1 for length in window_px]
    got = taps(x, window_px, stride, dilation)
    if any(length > side for length, side in zip(reach, size, strict=True)):
        assert [one.size for one in got] == [0] * np.prod(window_px)
        return
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, (1, 2))[
        :, ::stride, ::stride, :, ::dilation, ::dilation
    ]
    np.testing.assert_array_equal(np.stack(got, -1), windows.reshape(*windows.shape[:4], -1))
