"""What the painters of a town share: its classes, the layers they paint over, and noise."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cnn_jax.data.scenes import SceneClass

# Evenly spaced in luma (33, 71, 109, 150, 188, 236), so that pictures can be read in grey and with
# any colour vision.
CLASSES = (
    SceneClass("road", (150, 150, 155)),
    SceneClass("building", (204, 80, 10)),
    SceneClass("vegetation", (0, 110, 60)),
    SceneClass("water", (8, 29, 120)),
    SceneClass("land", (255, 236, 190)),
    SceneClass("grass", (170, 215, 90)),
)
"""road: streets, footpaths, paved yards and the cars on them; vegetation: trees and shrubs; land:
bare ground; grass: lawns and meadows. A pixel has the class of what is seen from above: a crown
over a path is vegetation, a shadow is what it falls on."""

ROAD, BUILDING, VEGETATION, WATER, LAND, GRASS = range(len(CLASSES))

OBJECTS = ("building", "car")
"""What is known one by one."""

OBJECT_COLORS = ((204, 80, 10), (0, 114, 178))


@dataclass(frozen=True)
class Layers:
    """What is seen at each pixel, painted over as the scene is built: arrays [height, width], and
    three channels of colour."""

    color: np.ndarray
    mask: np.ndarray
    height: np.ndarray
    owner: np.ndarray  # the building or car that is seen, by its number from 1; 0: none
    objects: list[tuple[int, int]]  # of each, its class and the pixels that it covers unhidden
    taken: np.ndarray  # streets, paths, water and buildings: nothing is built here
    wet: np.ndarray  # water, streets, paths, and close to buildings: nothing grows here

    def paint(self, where: np.ndarray, base: np.ndarray, light: np.ndarray, label: int) -> None:
        """Paint some pixels in a colour, or in one each, times how light each pixel of the scene
        is."""
        self.color[where] = base * light[where, None]
        self.mask[where] = label

    def own(self, slices: tuple[slice, slice], where: np.ndarray, label: int) -> None:
        """Give pixels to a new object; those before it lose them."""
        self.objects.append((label, int(where.sum())))
        self.owner[slices][where] = len(self.objects)


def noise(
    rng: np.random.Generator, shape: tuple[int, int], scale_y: float, scale_x: float = 0
) -> np.ndarray:
    """Smooth noise, float32 of mean 0 and standard deviation about 0.8, whose bumps are `scale`
    pixels apart."""
    scale_x = scale_x or scale_y
    (height, width), steps = shape, (scale_y, scale_x)
    coarse = rng.standard_normal((int(height / scale_y) + 4, int(width / scale_x) + 4), np.float32)
    box = (1, 1, 1 + width / steps[1], 1 + height / steps[0])
    return np.asarray(
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC, box)
    )


def around(
    shape: tuple[int, int], x: float, y: float, reach: float
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray] | None:
    """The slices around a position that fit in the scene, and the pixels' offsets from it; None
    where nothing fits."""
    top, left = max(int(y - reach), 0), max(int(x - reach), 0)
    bottom, right = min(int(y + reach) + 2, shape[0]), min(int(x + reach) + 2, shape[1])
    if top >= bottom or left >= right:
        return None
    rows, columns = (
        np.arange(top, bottom, dtype=np.float32)[:, None] - y,
        np.arange(left, right, dtype=np.float32) - x,
    )
    return (slice(top, bottom), slice(left, right)), columns, rows
