"""The cars of a town, in their lanes and in parking bays."""

import numpy as np

from cnn_jax.data.town.layers import OBJECTS, ROAD, Layers, around
from cnn_jax.data.town.plan import COMMERCIAL, Plan, near

CARS = np.array(
    [
        [0.85, 0.85, 0.85],
        [0.15, 0.15, 0.17],
        [0.55, 0.56, 0.58],
        [0.55, 0.12, 0.10],
        [0.18, 0.27, 0.45],
    ],
    np.float32,
)


def park_cars(rng: np.random.Generator, plan: Plan, layers: Layers) -> None:
    """Cars in their lanes and in parking bays; they keep the class of what they stand on."""
    count = int(np.clip(plan.u.size / 1500, 4, 3000))
    columns, rows = rng.integers(plan.shape[1], size=count), rng.integers(plan.shape[0], size=count)
    u, v = plan.u[rows, columns], plan.v[rows, columns]
    axis = rng.integers(2, size=count)  # along u or along v
    side, bay = rng.choice([-1, 1], count), rng.choice([4, 12], count)
    parks = (plan.uses[plan.cell_u[rows, columns], plan.cell_v[rows, columns]] == COMMERCIAL) & (
        rng.random(count) < 0.6
    )
    lanes = []
    for across, cells, position in zip((0, 1), (plan.cell_u, plan.cell_v), (u, v), strict=True):
        line, _ = near(plan.lines[across], cells[rows, columns], position)
        width = plan.widths[across].max(axis=1)[line]
        lanes.append(
            plan.lines[across][line]
            + side * width * np.where(width > 14, rng.choice([0.12, 0.3], count), 0.2)
        )
    u, v = np.where(axis == 0, u, lanes[0]), np.where(axis == 1, v, lanes[1])
    u = np.where(parks, np.floor(u / 5) * 5 + 2.9, u)
    v = np.where(parks, np.floor(v / 26) * 26 + bay, v)
    paints = CARS[rng.choice(len(CARS), count, p=[0.35, 0.25, 0.2, 0.08, 0.12])]
    for x, y, along_x, along_y, paint in zip(
        *plan.frames(u, v, np.where(parks, 1, axis)), paints, strict=True
    ):
        window = around(plan.shape, x, y, 5)
        if window is None:
            continue
        slices, right, down = window
        a, b = right * along_x + down * along_y, down * along_x - right * along_y
        body = (np.abs(a) < 3.6) & (np.abs(b) < 1.6)
        if not body.any() or (layers.mask[slices][body] != ROAD).any():
            continue
        layers.color[slices][body] = paint
        layers.color[slices][body & (np.abs(a - 0.6) < 1) & (np.abs(b) < 1.3)] = (
            paint * 0.45
        )  # the windscreen
        layers.height[slices][body] += 2
        layers.own(slices, body, OBJECTS.index("car"))
