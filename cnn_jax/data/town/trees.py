"""The trees of a town: woods, groups in parks and gardens, rows along streets."""

import numpy as np

from cnn_jax.data.town.layers import VEGETATION, Layers, around, noise
from cnn_jax.data.town.plan import FOREST, Plan

TREES = np.array(
    [
        [0.17, 0.29, 0.13],
        [0.22, 0.34, 0.16],
        [0.27, 0.37, 0.17],
        [0.19, 0.29, 0.19],
        [0.38, 0.34, 0.16],
    ],
    np.float32,
)
UNDERGROWTH = np.array([0.17, 0.25, 0.12], np.float32)


def plant(rng: np.random.Generator, plan: Plan, layers: Layers) -> None:
    """Trees: dense in woods, in groups in parks and gardens and on shores, in rows along some
    streets."""
    spacing = 6.5
    rows, columns = np.mgrid[-1 : plan.shape[0] / spacing + 1, -1 : plan.shape[1] / spacing + 1]
    x, y = (
        spacing * (part + rng.uniform(-0.45, 0.45, part.shape)).ravel() for part in (columns, rows)
    )
    column = np.clip(np.rint(x), 0, plan.shape[1] - 1).astype(int)
    row = np.clip(np.rint(y), 0, plan.shape[0] - 1).astype(int)
    use, groups = plan.uses[plan.cell_u, plan.cell_v], noise(rng, plan.shape, 22)
    grown = (
        np.array([9, 9, 0.75, -1.3, 9, 0.75], np.float32)[use] < groups
    )  # over undergrowth that leaves no gaps
    clumps, leaves = (
        0.24 * noise(rng, plan.shape, 2.6),
        rng.standard_normal(plan.shape, np.float32),
    )
    thicket = grown & ~layers.wet
    layers.color[thicket] = UNDERGROWTH * (1 + 0.5 * clumps + 0.1 * leaves)[thicket, None]
    layers.mask[thicket] = VEGETATION
    layers.height[thicket] = 2

    use, crowded = use[row, column], groups[row, column] > 0.75
    chance = (
        np.array([0.09, 0.03, 0.06, 0.1, 0.02, 0.1])[use]
        + np.array([0.2, 0.1, 0.3, 0.1, 0.25, 0.3])[use] * crowded
    )
    grows = (rng.random(len(x)) < np.where(grown[row, column], 0.9, chance)) & ~layers.wet[
        row, column
    ]
    radius = np.where(
        use == FOREST, rng.uniform(4, 6.5, len(x)), rng.gamma(7, 0.7, len(x)).clip(3.2, 8.5)
    )
    x, y, radius = x[grows], y[grows], radius[grows]

    avenue_x, avenue_y = _rows_of_trees(rng, plan)
    inside = (
        (avenue_x > -5)
        & (avenue_x < plan.shape[1] + 5)
        & (avenue_y > -5)
        & (avenue_y < plan.shape[0] + 5)
    )
    avenue_x, avenue_y = avenue_x[inside], avenue_y[inside]
    column = np.clip(np.rint(avenue_x), 0, plan.shape[1] - 1).astype(int)
    row = np.clip(np.rint(avenue_y), 0, plan.shape[0] - 1).astype(int)
    free = ~layers.wet[row, column]
    x, y = np.append(x, avenue_x[free]), np.append(y, avenue_y[free])
    radius = np.append(radius, rng.uniform(2.8, 4.5, free.sum()))

    texture = 0.88 + 0.12 * leaves + 0.55 * clumps
    sun_x, sun_y = plan.sun
    kinds = TREES[rng.integers(len(TREES) - 1, size=3)]
    if rng.random() < 0.25:
        kinds[2] = TREES[-1]  # a species that has turned
    colors = kinds[rng.choice(3, len(x), p=[0.5, 0.35, 0.15])] * rng.uniform(
        0.85, 1.15, (len(x), 1)
    ).astype(np.float32)
    for x_px, y_px, crown, color in zip(
        x.tolist(), y.tolist(), radius.tolist(), colors, strict=True
    ):
        window = around(plan.shape, x_px, y_px, crown * 1.35)
        if window is None:
            continue
        slices, columns, rows = window
        round_ = (columns * columns + rows * rows) / (crown * crown)
        dome = 1 - round_ + clumps[slices]
        height = 2 + crown * (0.5 + 0.9 * np.sqrt(np.maximum(dome, 0)))
        seen = (dome > 0) & (round_ < 1.7) & (height > layers.height[slices])
        light = texture[slices] + columns * (0.28 / crown * sun_x) + rows * (0.28 / crown * sun_y)
        layers.color[slices][seen] = light[seen, None] * color
        layers.mask[slices][seen] = VEGETATION
        layers.owner[slices][seen] = 0
        layers.height[slices][seen] = height[seen]


def _rows_of_trees(rng, plan):
    """Pixel positions of trees on both sides of some streets."""
    places = []
    for axis in (0, 1):
        for line, widths in zip(plan.lines[axis], plan.widths[axis], strict=True):
            if rng.random() < 0.4 and widths.max() > 8:
                along = np.arange(
                    plan.lines[1 - axis][0], plan.lines[1 - axis][-1], rng.uniform(13, 20)
                )
                for side in (-1, 1):
                    places.append(
                        np.stack(
                            [np.full_like(along, line + side * (widths.max() / 2 + 2.5)), along][
                                :: 1 - 2 * axis
                            ]
                        )
                    )
    return plan.to_pixels(*np.concatenate(places, axis=1)) if places else (np.zeros(0), np.zeros(0))
