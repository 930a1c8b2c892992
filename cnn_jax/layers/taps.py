"""What the places of a window meet as it moves over a map."""


def taps(x, window_px: tuple[int, int], stride: int = 1, dilation: int = 1) -> list:
    """For each place of a window, from left to right and down, the map of what stands there,
    `[batch, height, width, channels]`.

    Args:
        x: `[batch, height, width, channels]`, with whatever is to be outside added to it: only
            whole windows count.
        window_px: height and width, before its places are spread by `dilation`.
        stride: by which the window moves, down and across.
        dilation: from one place of the window to the next.
    """
    reaches = [(length - 1) * dilation + 1 for length in window_px]
    ends = [
        max((size - reach) // stride * stride + 1, 0)
        for size, reach in zip(x.shape[1:3], reaches, strict=True)
    ]
    return [
        x[:, down : down + ends[0] : stride, right : right + ends[1] : stride]
        for down in range(0, reaches[0], dilation)
        for right in range(0, reaches[1], dilation)
    ]
