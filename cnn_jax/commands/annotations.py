"""Convert annotations of objects from one format into another.

python -m cnn_jax.commands.annotations convert SOURCE OUTPUT --read FORMAT --write FORMAT
[--images DIR] [--classes NAME ...] [--faulty error|ignore]

FORMAT is coco, labelme, via, cvat, yolo, yolo_polygons, voc, geojson, index_masks or palette_masks.
Masks become polygons that give back every pixel. What a format can't hold is said; nothing that
exists is overwritten.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.configuration import command_line
from cnn_jax.configuration.schema import setting
from cnn_jax.errors import InputError
from cnn_jax.run import guarded

MODULE = "cnn_jax.commands.annotations"
MOST_LISTED = 10


@dataclass
class Options:
    """What is converted, and into what."""

    paths: tuple[str, ...] = command_line.positional(
        (),
        "convert SOURCE OUTPUT",
        "word convert, a file or folder of annotations, and the file or folder to be written",
    )
    read: str = setting("", "format of SOURCE")
    write: str = setting("", "format of OUTPUT")
    images: str = setting(
        "", "folder of the images, which give sizes and places, or are held to SOURCE's", path=True
    )
    classes: tuple[str, ...] = setting((), "names, in the order of labels; empty: as SOURCE says")
    faulty: str = setting(
        "error", "what to do with objects that can't be used", choices=("error", "ignore")
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, or 2 for what the user can mend."""
    with guarded() as outcome:
        options = command_line.options(Options, argv, MODULE, __doc__)
        if options.paths[0] != "convert" or len(options.paths) != 3:
            raise InputError(
                "annotations takes: convert SOURCE OUTPUT, and --read and --write with formats."
            )
        for name in ("read", "write"):
            if not getattr(options, name):
                raise InputError(f"--{name} is missing: give a format, such as coco or labelme.")
        from cnn_jax.data import annotations, objects
        from cnn_jax.data.folders import file_named

        annotations.of(options.write, "--write")
        left_out: list[str] = []
        _, source, output = options.paths
        images = Path(options.images) if options.images else None
        report = left_out.append if options.faulty == "ignore" else objects.refuse
        found = annotations.read(options.read, Path(source), images, options.classes, report)
        if options.read in annotations.SIZED:
            # Boxes of an image that is of another size, or is turned, would lie elsewhere in it.
            beside = Path(source) if Path(source).is_dir() else Path(source).parent
            for image in found.images:
                within = annotations.lies_within(image.name)
                if images or (within and file_named(beside, image.name).is_file()):
                    annotations.open_image(image, images or beside, in_parts=True)
        lost = annotations.write(found, options.write, Path(output), images)
        count = sum(len(image.objects) for image in found.images)
        print(
            f"{len(found.images):,} images, {count:,} objects, {len(found.classes)} classes:"
            f" {output}"
        )
        for sentence in lost:
            print(f"lost: {sentence}")
        for sentence in left_out[:MOST_LISTED]:
            print(f"left out: {sentence}")
        if len(left_out) > MOST_LISTED:
            print(f"left out: {len(left_out) - MOST_LISTED:,} more")
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
