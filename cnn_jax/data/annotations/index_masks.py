"""Images whose values are numbers of objects, 0 being none, as Penn-Fudan's and many tools' are:
one file an image, of the same name or with `_mask` behind it. All objects are of one class."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cnn_jax.data import objects
from cnn_jax.data.annotations.files import beside, by_stem, files_in, image_files, open_upright
from cnn_jax.data.file_names import composed
from cnn_jax.data.objects import AnnotatedImage, AnnotationSet, Report
from cnn_jax.data.rasters import holding_nothing
from cnn_jax.errors import InputError

SUFFIXES = (".png", ".tif", ".tiff")


def read(path: Path, images: Path | None, classes: Sequence[str], report: Report) -> AnnotationSet:
    """As `annotations.read`. With `images` files are named as there; without, as the masks."""
    names = tuple(classes) or ("object",)
    if len(names) > 1:
        raise InputError(f"--classes has {len(names)} names, and index masks know one class.")
    found = []
    for name, values in masks(path, images):
        ids = np.unique(values)
        # A number may be as great as 2^32 - 1, and `of_map` makes room up to the greatest.
        places = np.searchsorted(ids, values) + 1
        every = objects.of_map(places, {n: 0 for n, id_ in enumerate(ids, 1) if id_})
        every = tuple(objects.replace(one, id=int(ids[one.id - 1])) for one in every)
        height, width = values.shape
        found.append(AnnotatedImage(name, height, width, every))
    return AnnotationSet(names, tuple(found))


def masks(
    path: Path, images: Path | None, void: int | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name of the image, values int64 [height, width], 0 or more) of each mask. What it
    calls nodata is 0, unless it is the value `void`."""
    known = by_stem(image_files(images, "masks")) if images is not None else None
    for file in files_in(path, SUFFIXES, "masks, PNG or TIFF"):
        stem = file.stem if path.is_file() else file.relative_to(path).with_suffix("").as_posix()
        name = f"{stem}{file.suffix}"
        if known is not None:
            stem = composed(stem)
            stem = stem if stem in known else stem.removesuffix("_mask")
            if stem not in known:
                raise InputError(f"{file} has no image {stem} in {images}: add it.")
            name = known[stem]
        raster = open_upright(file)
        if raster.lossy:
            raise InputError(
                f"{file} is compressed with losses ({raster.codec}), which makes other numbers of"
                " some: save the masks anew as PNG."
            )
        stored = raster.height_px, raster.width_px
        if images is not None:
            image = open_upright(images / name, in_parts=True, size_px=stored)
            size = image.height_px, image.width_px
            if size != stored:
                raise InputError(
                    f"{file} is {stored[1]} x {stored[0]} px, and {name} {size[1]} x {size[0]}:"
                    " give the mask of this image."
                )
        if raster.bands != 1:
            raise InputError(f"{file} has {raster.bands} bands, and a mask has one: convert it.")
        values = raster.read()
        nothing = holding_nothing(values, None if raster.nodata == void else raster.nodata)
        if nothing is not None:
            values[nothing] = 0
        if raster.masked and (hidden := raster.hidden()) is not None:
            values[hidden(slice(None), slice(None))] = 0
        wrong = values[(values < 0) | (values % 1 != 0) | (values >= 2**32)]
        if wrong.size:
            raise InputError(
                f"{file} has the value {wrong[0]}, and a mask has whole numbers from 0 on: correct"
                " it, or name it as nodata."
            )
        yield name, values[..., 0].astype(np.int64)


def write(found: AnnotationSet, path: Path, images: Path | None = None) -> None:
    """As `annotations.write`: a folder of PNGs, of 8 bits where numbers fit."""
    path.mkdir(exist_ok=True)
    for image in found.images:
        numbers = numbered(image)
        if numbers.max(initial=0) > 65535:
            raise InputError(f"{image.name} has more than 65,535 objects, which no PNG numbers.")
        dtype = np.uint8 if numbers.max(initial=0) < 256 else np.uint16
        to = beside(Path(image.name), path, ".png")
        Image.fromarray(numbers.astype(dtype)).save(to)


def numbered(image: AnnotatedImage) -> np.ndarray:
    """Numbers from 1 of what is seen of each object, int32 `[height, width]`; crowds are objects
    here."""
    plain = [objects.replace(one, crowd=False) for one in image.objects]
    return objects.number_map(objects.replace(image, objects=tuple(plain)))
