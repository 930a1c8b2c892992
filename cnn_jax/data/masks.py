"""Masks from files: the values that are stored become labels, as a description says."""

import functools
from collections import Counter
from typing import Any

import numpy as np

from cnn_jax.data.descriptions import ANY_OTHER, Description, is_range, numbers
from cnn_jax.data.rasters import Raster, greatest_of, holding_nothing, spread
from cnn_jax.data.scenes import IGNORED
from cnn_jax.errors import InputError

UNKNOWN = 254
"""The label, while a mask is read, of what no class lists."""


def check_lossless(mask: Raster, description: Description) -> None:
    """Raises InputError for a mask whose compression, or that of a file it is a mosaic of, changes
    values, unless the description says how such values are read."""
    tolerant = description.threshold or description.distance
    ranges = any(is_range(v) or v == ANY_OTHER for c in description.classes for v in c.values)
    if tolerant or ranges:
        return
    lossy = next((one for one in (mask, *mask.sources()) if one.lossy), None)
    if lossy is not None:
        kind = {"JPEG": "a JPEG", "WebP": "a lossy WebP"}.get(lossy.format)
        kind = kind or f"a {lossy.format} of lossy compression ({lossy.codec})"
        way = (
            "distance" if description.mask_values == "palette" else "threshold, or ranges of values"
        )
        raise InputError(
            f"{lossy.name} is {kind}, whose compression changes labels: export the masks again as"
            f" PNG, or say in the description how changed values are read ({way})."
        )


def read_mask(mask: Raster, description: Description) -> tuple[np.ndarray, dict[str, int], int]:
    """A mask as labels, uint8 `[height, width]` with class indices or `IGNORED`; its unknown
    values with their pixels; and how many pixels are uncertain.

    Unknown values ("#RRGGBB", or "17" in index masks) are labelled `IGNORED`, and so is without
    more ado the value that the file itself calls no data, where no class claims it, and what a mask
    of its own hides. Alpha says nothing. Uncertain is what a threshold or a distance decided and
    what lies nearer to the border between two classes than to a value that the description lists.

    Raises:
        InputError: the file is damaged, or not of the kind that the description says.
    """
    labels = np.empty((mask.height_px, mask.width_px), np.uint8)
    unknown, uncertain = Counter(), 0
    index = description.mask_values == "index"
    held = None if mask.palette is None else np.zeros(len(mask.palette), bool)
    masked = mask.hidden() if mask.masked else None
    void = _unlisted(description, mask)
    for rows, strip in mask.strips():
        values = _numbers(mask, strip) if index else _colors(mask, strip)
        table = _label_table(description)
        nothing = _nothing(values, void) if index else holding_nothing(strip, void)
        if index and held is not None:
            held[values] = True
        if index and values.dtype not in (np.uint8, np.uint16):
            # Wider first: a type of 8 or 16 bits would take 65536 for 0.
            wide = values if values.dtype.kind == "f" else values.astype(np.int64)
            values = np.where((wide >= 0) & (wide <= 65535), wide, 65536).astype(np.int64)
        part = labels[rows]
        for top in range(0, len(part), 256):  # strips that stay in the processor's cache
            some = slice(top, top + 256)
            np.take(table, values[some], out=part[some], mode="clip")
        if masked is not None:
            part[masked(rows, slice(None))] = IGNORED
        if nothing is not None:
            part[nothing] = IGNORED
        if index and description.threshold:
            uncertain += int(np.count_nonzero(_near_threshold(description)[values]))
        where = part == UNKNOWN
        if not where.any():
            continue
        stored = _numbers(mask, strip)[where] if index else values[where]
        found, place, counts = np.unique(stored, return_inverse=True, return_counts=True)
        given = np.full(len(found), IGNORED, np.uint8)
        told = np.ones(len(found), bool)
        if description.distance:
            given, told, doubtful = _nearest(description, found)
            uncertain += int(counts[doubtful].sum())
        part[where] = given[place]
        unknown.update(dict(zip(found[told].tolist(), counts[told].tolist(), strict=True)))
    if index and held is not None:
        _check_palette(mask, description, held)
    form = "{:.15g}" if index else "#{:06X}"
    return labels, {form.format(value): unknown[value] for value in sorted(unknown)}, uncertain


def _check_palette(mask, description, held):
    """Refuses numbers, bool `[colors]` where there are any, that a palette turns into greys in
    another order: programs that save few colours number them as they like, and what a viewer shows
    is another class then."""
    classes = np.flatnonzero(held)
    classes = classes[_label_table(description)[classes] < UNKNOWN]
    shown = mask.palette[classes].astype(int)
    if (shown == shown[:, :1]).all() and (np.diff(shown[:, 0]) < 0).any():
        raise InputError(
            f"{mask.name} holds numbers that its palette shows as greys in another order"
            f" ({classes[0]} as {shown[0, 0]}), so which are meant is unknown: set mask_values to"
            " palette, or save the mask as grey."
        )


def _unlisted(description, mask):
    """The value of pixels that hold nothing, though a threshold or "any other value" would give
    them a class: None where there is none, or a class lists it, or its colour."""
    nodata, meant = mask.nodata, False
    listed = [v for known in description.classes for v in known.values if v != ANY_OTHER]
    if nodata is not None and description.mask_values == "index":
        meant = any(nodata in numbers(value) for value in listed)
    elif nodata is not None and 0 <= nodata <= greatest_of(mask.dtype):
        [[color]] = _colors(mask, np.full((1, 1, mask.bands), nodata, mask.dtype))
        meant = any(int(value[1:], 16) == color for value in listed)
    return None if meant else nodata


def _nothing(values, void):
    """Where values are no numbers or are `void`, None being none: bool; None: nowhere."""
    empty = np.isnan(values) if values.dtype.kind == "f" else None
    if void is None:
        return empty
    with np.errstate(over="ignore"):
        same = values == void
    return same if empty is None else empty | same


def _numbers(mask, strip):
    """The numbers of an index mask, [height, width]."""
    if strip.shape[-1] >= 3 and (strip[..., :3] == strip[..., :1]).all():
        strip = strip[..., :1]  # a grey mask saved as RGB
    # Programs burn classes into floating point too.
    with np.errstate(invalid="ignore"):
        fractions = strip.dtype.kind == "f" and np.nan_to_num(strip % 1).any()
    if strip.shape[-1] > 1 + (mask.alpha == "last") or fractions:
        raise InputError(
            f"{mask.name} holds colours or fractions where the description says index: say"
            " mask_values = 'palette' and the colours of the classes, or replace the mask."
        )
    return strip[..., 0]


def _colors(mask, strip):
    """The colours of a mask as 0xRRGGBB, uint32 [height, width]."""
    if mask.palette is not None:
        return _codes(mask.palette)[strip[..., 0]]
    if strip.shape[-1] <= 2 and strip.dtype == np.uint8:
        grey = spread(strip, mask.bits) if mask.bits < 8 else strip
        return _codes(np.repeat(grey[..., :1], 3, axis=-1))
    if strip.dtype != np.uint8 or mask.photometric not in ("RGB", "YCbCr"):
        raise InputError(
            f"{mask.name} holds {mask.photometric} values of {mask.bits} bits, which are no exact"
            " colours: save the mask as RGB."
        )
    return _codes(strip)


def _codes(colors):
    """uint8 [..., 3 or more] as uint32 [...] 0xRRGGBB."""
    codes = colors[..., 0].astype(np.uint32)
    for channel in (1, 2):
        codes <<= 8
        codes |= colors[..., channel]
    return codes


@functools.lru_cache(maxsize=4)
def _label_table(description):
    """Mask value -> label, uint8: [2**24] by colour 0xRRGGBB, or [2**16 + 1] by number, the last
    for what lies beyond."""
    palette = description.mask_values == "palette"
    table = np.full(2**24 if palette else 2**16 + 1, UNKNOWN, np.uint8)
    if description.threshold:
        upper = description.upper_class
        table[: description.threshold], table[description.threshold : -1] = 1 - upper, upper
    for label, value in owners(description):
        if value != ANY_OTHER:
            table[int(value[1:], 16) if palette else numbers(value)] = label
    for label, value in owners(description):
        if value == ANY_OTHER:
            table[table == UNKNOWN] = label
    return table


def owners(description: Description) -> list[tuple[int, Any]]:
    """(Label, value) of every value that the description lists."""
    labelled = [*enumerate(known.values for known in description.classes)]
    return [(label, v) for label, of in [*labelled, (IGNORED, description.ignored)] for v in of]


@functools.lru_cache(maxsize=4)
def _near_threshold(description):
    """Which numbers, bool [2**16 + 1], lie nearer to the threshold than to a listed value of their
    class."""
    every = np.arange(2**16 + 1)
    border = np.abs(every - (description.threshold - 0.5))
    near = np.zeros(len(every), bool)
    for label, known in enumerate(description.classes):
        side = (every >= description.threshold) == (label == description.upper_class)
        listed = np.sort(np.concatenate([numbers(value) for value in known.values]))
        place = np.searchsorted(listed, every)
        before, after = (listed[np.clip(place - i, 0, len(listed) - 1)] for i in (1, 0))
        near |= side & (border < np.minimum(np.abs(every - before), np.abs(every - after)))
    for value in description.ignored:
        near[numbers(value)] = False
    near[-1] = False
    return near


def _nearest(description, codes):
    """The labels of unknown colours, uint32 [n] 0xRRGGBB: labels uint8, whether each is too far
    from every listed colour, and whether it is nearer to the border between two labels than to
    that colour, bool."""
    colored = [(label, value) for label, value in owners(description) if value != ANY_OTHER]
    labels = np.array([label for label, _ in colored], np.uint8)
    listed = [int(value[1:], 16) for _, value in colored]

    def channels(of):
        return (np.asarray(of)[:, None] >> np.array([16, 8, 0])).astype(np.float64) % 256

    given = np.full(len(codes), IGNORED, np.uint8)
    far, doubtful = np.ones(len(codes), bool), np.zeros(len(codes), bool)
    for first in range(0, len(codes), 2**16):
        part = slice(first, first + 2**16)
        apart = channels(codes[part])[:, None] - channels(listed)
        apart = np.sqrt((apart**2).sum(-1))
        nearest = apart.argmin(1)
        least = apart.min(1)
        other = np.where(labels == labels[nearest][:, None], np.inf, apart).min(1)
        far[part] = least > description.distance
        given[part] = np.where(far[part], IGNORED, labels[nearest])
        # Of two colours apart by d, the border lies at d / 2.
        doubtful[part] = ~far[part] & (3 * least > other)
    return given, far, doubtful
