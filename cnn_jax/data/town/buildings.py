"""The buildings of a town: houses, sheds, halls and barns, each with its roof."""

from dataclasses import dataclass

import numpy as np

from cnn_jax.data.town.layers import BUILDING, OBJECTS, Layers, around
from cnn_jax.data.town.plan import BARE, COMMERCIAL, RESIDENTIAL, Plan

ROOFS = np.array(
    [
        [0.67, 0.34, 0.22],  # terracotta
        [0.54, 0.27, 0.21],  # brick
        [0.38, 0.27, 0.24],  # brown tile
        [0.33, 0.35, 0.38],  # slate
        [0.50, 0.49, 0.49],  # as grey as a road
        [0.74, 0.64, 0.51],  # as beige as bare ground
        [0.66, 0.66, 0.65],  # light metal
        [0.79, 0.78, 0.75],  # white membrane
        [0.39, 0.45, 0.38],  # copper green
        [0.33, 0.41, 0.50],  # blue metal
    ],
    np.float32,
)


def build(rng: np.random.Generator, plan: Plan, layers: Layers) -> None:
    """Houses along the streets of residential cells, large flat roofs in commercial ones, barns on
    bare ground."""
    seen = np.bincount(
        (plan.cell_u * plan.uses.shape[1] + plan.cell_v).ravel(), minlength=plan.uses.size
    )
    favourites = rng.permutation(len(ROOFS))[:5]  # a town has its materials
    buildings = []
    for i, j in np.argwhere(seen.reshape(plan.uses.shape)):
        if plan.uses[i, j] == RESIDENTIAL:
            buildings += _houses(rng, plan, i, j, favourites)
        elif plan.uses[i, j] in (COMMERCIAL, BARE):
            buildings += _halls(rng, plan, i, j)
    if buildings:
        u, v = np.array([building.place for building in buildings]).T
        frames = plan.frames(u, v, np.array([building.axis for building in buildings]))
        for building, *frame in zip(buildings, *frames, strict=True):
            _erect(rng, plan, layers, building, *frame)


@dataclass(frozen=True)
class _Building:
    place: tuple[float, float]  # the middle, in street coordinates
    size: tuple[float, float]  # along its axis, and across
    axis: int  # 0: it lies along u, 1: along v
    kind: str  # of roof: flat, gable or hip
    roof: int
    wing: bool  # L-shaped


def _houses(rng, plan, i, j, favourites):
    """Rows of houses on those sides of a cell that have a street, and sheds in the gardens
    behind."""
    low, high = _corners(plan, i, j)
    terraced = rng.random() < 0.3
    streets = (
        plan.widths[1][j, i],
        plan.widths[1][j + 1, i],
        plan.widths[0][i, j],
        plan.widths[0][i + 1, j],
    )
    for side, width in enumerate(streets):
        axis, far = divmod(side, 2)  # the two sides that run along u, then the two along v
        at, setback = low[axis] + streets[2 - 2 * axis] / 2 + rng.uniform(4, 10), rng.uniform(4, 8)
        while width > 0 and at < high[axis] - 8:
            length = rng.uniform(34, 60) if terraced else rng.uniform(13, 22)
            deep = rng.uniform(10.5, 16)
            behind_kerb = width / 2 + setback + rng.uniform(0, 2) + deep / 2
            across = high[1 - axis] - behind_kerb if far else low[1 - axis] + behind_kerb
            place = (at + length / 2, across) if axis == 0 else (across, at + length / 2)
            kind = "hip" if not terraced and rng.random() < 0.4 else "gable"
            roof = favourites[min(int(rng.exponential(1.3)), 4)]
            yield _Building(
                place, (length, deep), axis, kind, roof, not terraced and rng.random() < 0.35
            )
            at += length + rng.uniform(3.5, 7)
    for _ in range(4):
        yield _Building(
            rng.uniform(low + 12, high - 12),
            rng.uniform(7, 11, 2),
            0,
            "flat",
            rng.integers(len(ROOFS)),
            False,
        )


def _halls(rng, plan, i, j):
    """Tries at placing large buildings anywhere in a cell."""
    low, high = _corners(plan, i, j)
    commercial = plan.uses[i, j] == COMMERCIAL
    for _ in range(30 if commercial else 3):
        size = (
            (rng.uniform(18, 62), rng.uniform(16, 40))
            if commercial
            else (rng.uniform(14, 30), rng.uniform(10, 14))
        )
        roof = rng.choice([0, 3, 4, 5, 6, 6, 7, 7, 8, 9])
        kind, axis = "flat" if commercial else "gable", int(rng.random() < 0.4)
        yield _Building(
            rng.uniform(low + 14, np.maximum(high - 14, low + 15)),
            size,
            axis,
            kind,
            roof,
            rng.random() < 0.35,
        )


def _corners(plan, i, j):
    return np.array([plan.lines[0][i], plan.lines[1][j]]), np.array(
        [plan.lines[0][i + 1], plan.lines[1][j + 1]]
    )


def _erect(rng, plan, layers, building, x, y, along_x, along_y):
    """One building, if nothing is in its way: its middle at pixel (x, y), its axis along a unit
    vector."""
    if 0 <= x < plan.shape[1] and 0 <= y < plan.shape[0] and layers.taken[int(y), int(x)]:
        return
    kind, wing = building.kind, building.wing
    length, deep = building.size
    side = rng.choice([-1, 1])
    wing_length, wing_deep = (
        (rng.uniform(0.35, 0.5) * length, deep / 2 + rng.uniform(0.4, 0.8) * deep)
        if wing
        else (0, 0)
    )
    wing_at = rng.choice([-1, 1]) * (length - wing_length) / 2
    window = around(plan.shape, x, y, np.hypot(length, deep) / 2 + wing_deep + 3)
    if window is None:
        return
    slices, columns, rows = window
    a, b = columns * along_x + rows * along_y, rows * along_x - columns * along_y
    inset_main = np.minimum(length / 2 - np.abs(a), deep / 2 - np.abs(b))
    inset_wing = np.minimum(
        wing_length / 2 - np.abs(a - wing_at), np.minimum(b * side, wing_deep - b * side)
    )
    inset = np.maximum(inset_main, inset_wing) if wing else inset_main
    if layers.taken[slices][inset > -3].any():
        return
    inside = inset > 0
    sun_a, sun_b = (
        plan.sun[0] * along_x + plan.sun[1] * along_y,
        plan.sun[1] * along_x - plan.sun[0] * along_y,
    )

    # The height of each roof, and how much its face is turned to the sun.
    if kind == "flat":
        storeys = rng.uniform(4.5, 6.5) if length < 11.5 else rng.uniform(7, 15)
        height = np.full(inset.shape, storeys, np.float32)
        light = np.where(
            inset < 1.4, 1.15, 1 + 0.02 * rng.standard_normal(inset.shape)
        )  # a parapet around it
        for _ in range(int(length * deep / 160)):
            unit_a, unit_b = rng.uniform(-0.4, 0.4, 2) * (length, deep)
            unit = (
                (np.abs(a - unit_a) < rng.uniform(1, 3))
                & (np.abs(b - unit_b) < rng.uniform(1, 3))
                & (inset > 2)
            )
            height[unit] += 2.5
            light[unit] = rng.choice([0.7, 1.15])
    else:
        eaves, pitch, steep = rng.uniform(5.5, 8), rng.uniform(0.5, 0.8), rng.uniform(0.28, 0.42)
        rise, light = deep / 2 - np.abs(b), 1 + steep * np.sign(b) * sun_b
        if kind == "hip":
            end = length / 2 - np.abs(a)
            light = np.where(end < rise, 1 + steep * np.sign(a) * sun_a, light)
            rise = np.minimum(rise, end)
        if wing:
            rise_wing = np.where(inset_wing > 0, wing_length / 2 - np.abs(a - wing_at), -1)
            over = (rise_wing > np.where(inset_main > 0, rise, -1)) & (inset_wing > 0)
            light = np.where(over, 1 + steep * np.sign(a - wing_at) * sun_a, light)
            rise = np.where(over, rise_wing, rise)
        light = (
            light
            * (1 + 0.03 * np.sign(np.sin(b * 2.4)))
            * (1 + 0.03 * rng.standard_normal(inset.shape))
        )
        light = np.where(
            (np.abs(b) < 0.6) & (inset_main > 0) & (rise > deep / 2 - 1.2), light * 1.1, light
        )
        height = eaves + pitch * rise
    shade = (light * rng.uniform(0.88, 1.1))[..., None]
    color = ROOFS[building.roof] * shade
    if kind == "gable" and length > 10 and rng.random() < 0.18:  # solar panels on the sunny side
        panel = (np.abs(a) < length * 0.3) & (b * np.sign(sun_b) > 1.2) & (inset_main > 1.2)
        color = np.where(
            panel[..., None], np.array([0.13, 0.16, 0.26]) + 0.05 * (a % 3 < 0.8)[..., None], color
        )
    layers.color[slices][inside] = color[inside]
    layers.mask[slices][inside] = BUILDING
    layers.height[slices][inside] = height[inside]
    layers.own(slices, inside, OBJECTS.index("building"))
    layers.taken[slices][inside] = True
    layers.wet[slices][inset > -1.5] = True
