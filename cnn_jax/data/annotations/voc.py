"""Pascal VOC's XML (Everingham et al., 2010), one file an image: boxes in whole pixels, counted
from 1, with the last pixel inside. What is `difficult` counts nowhere, as a crowd."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from cnn_jax.data import objects
from cnn_jax.data.annotations.files import (
    Classes,
    beside,
    check_size,
    files_in,
    number,
    size_of,
    xml_of,
)
from cnn_jax.data.folders import file_named
from cnn_jax.data.objects import AnnotatedImage, Annotation, AnnotationSet, Report
from cnn_jax.errors import InputError

WHAT = "Pascal VOC file"


def read(path: Path, images: Path | None, classes: Sequence[str], report: Report) -> AnnotationSet:
    """As `annotations.read`: of one file, or a folder of them. Where it says no size, it is that of
    the image."""
    known, found = Classes(classes), []
    path = path / "Annotations" if (path / "Annotations").is_dir() else path
    for file in files_in(path, (".xml",), "Pascal VOC's XML files"):
        root = xml_of(file, "annotation", WHAT)
        size = [number(root.findtext(f"size/{side}", "")) for side in ("height", "width")]
        name = (root.findtext("filename") or "").strip().replace("\\", "/")
        height, width = (0 if side is None or side % 1 else int(side) for side in size)
        if not path.is_file() and name and "/" not in name:
            name = (file.parent.relative_to(path) / name).as_posix()
        if images and min(height, width) < 1:  # some programs write 0
            stored = file_named(images, name)
            height, width = size_of(stored) if stored.is_file() else (0, 0)
        if not name or min(height, width) < 1:
            raise InputError(f"{file} has no filename, or no size with height and width: add them.")
        check_size(str(file), height, width)
        image = AnnotatedImage(name, height, width)
        every = []
        for index, raw in enumerate(root.findall("object")):
            about = f"{file}: object {index}"
            label = known.label((raw.findtext("name") or "").strip(), about, report)
            sides = ("xmin", "ymin", "xmax", "ymax")
            at = [number(raw.findtext(f"bndbox/{side}", "")) for side in sides]
            if None in at:
                report(f"{about} has no bndbox of four numbers: add them.")
                continue
            left, top, right, bottom = at
            box = (left - 1, top - 1, right, bottom)  # type: ignore[operator]
            if label is None:
                continue
            crowd = (raw.findtext("difficult") or "").strip().lower() in ("1", "true")
            one = objects.checked(Annotation(label, box, None, crowd), image, about, report)  # type: ignore[arg-type]
            if one is not None:
                every.append(one)
        found.append((image, tuple(every)))
    return known.set_of(found)


def write(found: AnnotationSet, path: Path, images: Path | None = None) -> None:
    """As `annotations.write`: a folder `Annotations` with one file an image."""
    path.mkdir(exist_ok=True)
    for image in found.images:
        root = ElementTree.Element("annotation")

        def add(parent, name, text):
            ElementTree.SubElement(parent, name).text = str(text)

        add(root, "filename", image.name)
        size = ElementTree.SubElement(root, "size")
        for name, value in (("width", image.width_px), ("height", image.height_px), ("depth", 3)):
            add(size, name, value)
        add(root, "segmented", 0)
        for one in image.objects:
            element = ElementTree.SubElement(root, "object")
            add(element, "name", found.classes[one.label])
            add(element, "difficult", int(one.crowd))
            box = ElementTree.SubElement(element, "bndbox")
            left, top, right, bottom = objects.clipped_px(one.box, image.height_px, image.width_px)
            left, top = min(left, image.width_px - 1), min(top, image.height_px - 1)
            add(box, "xmin", left + 1)
            add(box, "ymin", top + 1)
            add(box, "xmax", max(right, left + 1))
            add(box, "ymax", max(bottom, top + 1))
        ElementTree.indent(root)
        text = ElementTree.tostring(root, encoding="unicode")
        to = beside(Path(image.name), path / "Annotations", ".xml")
        to.write_text(f"{text}\n", encoding="utf-8")
