"""Folders of photographs and masks, and their descriptions, that can't be used."""

import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from cnn_jax import run
from cnn_jax.configuration.schema import DataConfig
from cnn_jax.data.descriptions import load_description
from cnn_jax.data.rasters import LARGEST_IMAGE_PX
from cnn_jax.data.scene_folders import open_scenes
from experiments import aerial_unet
from tests.data import fake_sets
from tests.malformed.refusals import SHARES, changed, generated, refused

SMALLEST = (
    "--config=smoke",
    "--model.base_width=1",
    "--model.depth=0",
    "--data.crop_px",
    "8",
    "8",
    "--evaluation.window_px",
    "8",
    "8",
    "--evaluation.context_px=1",
)


def command(argv):
    return run.main("experiments.aerial_unet", aerial_unet.CONFIGURATIONS, argv)


def refused_set(source, directory):
    never = directory.parent / "never"
    said = refused(
        command,
        *SMALLEST,
        f"--data.source={source}",
        f"--data.directory={directory}",
        "--workdir",
        never,
    )
    assert not never.exists()
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set that can be used, in the layout of dubai: an image and a mask in each of three
    tiles."""
    folder = tmp_path_factory.mktemp("sets") / "whole"
    for tile in (1, 4, 8):
        fake_sets.write_pair(
            folder, f"Tile {tile}/images/part.jpg", f"Tile {tile}/masks/part.png", "dubai", tile
        )
    return folder


def saved(array, path, mode=None, **options):
    path.unlink()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)


def grey_png(path, width_px, height_px):
    path.write_bytes(fake_sets.raw_png(width_px, height_px, 8, b""))


PHOTOGRAPH, MASK = fake_sets.photograph(), fake_sets.label_map(5)
OF_FILES = {
    "nothing": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>404</html>"),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "missing": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
    "link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "link to the folder": lambda path: (path.unlink(), path.symlink_to(path.parent)),
    "wide": lambda path: saved(np.zeros((8, 13, 3), np.uint8), path),
    "high": lambda path: saved(np.zeros((9, 12, 3), np.uint8), path),
    "bomb": lambda path: grey_png(path, 65536, 65536),
    "just too large": lambda path: grey_png(path, LARGEST_IMAGE_PX, 2),
    "no pixels": lambda path: grey_png(path, 12, 8),
    "no width": lambda path: grey_png(path, 0, 8),
    "gif": lambda path: saved(PHOTOGRAPH, path, "P", format="GIF"),
    "pnm": lambda path: saved(PHOTOGRAPH, path, format="PPM"),
    "fractions": lambda path: saved(np.zeros((8, 12), np.float32), path, format="TIFF"),
    "beyond 16 bits": lambda path: saved(np.full((8, 12), 70000, np.int32), path, format="TIFF"),
    "same name twice": lambda path: shutil.copy(
        path, path.with_suffix(".PNG" if path.suffix == ".png" else ".JPG")
    ),
}
OF_MASKS = {
    "unknown colour": lambda path: saved(np.full((8, 12, 3), (1, 2, 3), np.uint8), path),
    "grey": lambda path: saved(np.full((8, 12), 7, np.uint8), path),
    "16 bits": lambda path: saved(np.zeros((8, 12), np.uint16), path),
    "cmyk": lambda path: saved(PHOTOGRAPH, path, "CMYK", format="TIFF"),
    "jpeg": lambda path: saved(PHOTOGRAPH, path, format="JPEG"),
    "palette of other colours": lambda path: saved(PHOTOGRAPH, path, "P"),
    "colours with alpha": lambda path: saved(np.full((8, 12, 4), (1, 2, 3, 255), np.uint8), path),
    "animated, of other colours": lambda path: saved(
        PHOTOGRAPH, path, save_all=True, append_images=[Image.fromarray(PHOTOGRAPH)]
    ),
    "lab": lambda path: saved(PHOTOGRAPH, path, "YCbCr", format="TIFF"),
}
ODD_NAMES = [b"p\xffrt", b"pa\nrt", b"part\x1b[2J", b"p\xc2\x85rt", "p\u2028rt".encode()]


@st.composite
def damages(draw):
    """(what is damaged, relative to the set; a function that damages it)."""
    tile, mask = draw(st.sampled_from([1, 4, 8])), draw(st.booleans())
    file = f"Tile {tile}/masks/part.png" if mask else f"Tile {tile}/images/part.jpg"
    kind = draw(st.sampled_from(["file", "file", "mask", "cut", "name", "tile"]))
    if kind == "cut":
        share = draw(SHARES.map(lambda share: 0.7 * share))
        return (
            f"{kind} at {share:.3f}",
            file,
            lambda path: os.truncate(path, int(share * path.stat().st_size)),
        )
    if kind == "name":
        name = draw(st.sampled_from(ODD_NAMES))
        return (
            f"{kind} {name}",
            file,
            lambda path: path.rename(path.with_name(os.fsdecode(name) + path.suffix)),
        )
    if kind == "mask":
        name = draw(st.sampled_from(sorted(OF_MASKS)))
        return name, f"Tile {tile}/masks/part.png", OF_MASKS[name]
    if kind == "tile":
        what = draw(st.sampled_from(["empty", "gone", "linked", "file"]))
        of = {
            "empty": lambda path: [file.unlink() for file in path.glob("*/part.*")],
            "gone": shutil.rmtree,
            "linked": lambda path: (shutil.rmtree(path), path.symlink_to(path)),
            "file": lambda path: (shutil.rmtree(path), path.write_text("")),
        }
        return f"tile {what}", f"Tile {draw(st.sampled_from([4, 8]))}", of[what]
    name = draw(st.sampled_from(sorted(OF_FILES)))
    wrong = {"same name twice", "fractions", "beyond 16 bits"}
    return (
        name,
        file if name not in wrong or not mask else f"Tile {tile}/images/part.jpg",
        OF_FILES[name],
    )


@generated(60, 1000, damages())
def test_folders(damage, folder):
    _, file, apply = damage
    again = folder.parent / "damaged"
    shutil.rmtree(again, ignore_errors=True)
    shutil.copytree(folder, again)
    apply(again / file)
    refused_set("dubai", again)


def test_what_is_not_damaged_is_not_refused(folder):
    """Or the tests here would show nothing."""
    path = folder.parent / "whole.toml"
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in DESCRIPTION.items()))
    assert load_description(str(path)).splits.test == ("8",)
    scenes = open_scenes(DataConfig(source="dubai", directory=str(folder)))
    assert [len(scenes.splits[split]) for split in ("train", "validation", "test")] == [1, 1, 1]


# ---- descriptions

DESCRIPTION = {
    "image": "{tile}/images/{name}.*",
    "mask": "{tile}/masks/{name}.*",
    "mask_values": "index",
    "ignored": [255],
    "group": "{tile}",
    "about": "a set",
    "classes": [
        {"name": "land", "values": [0], "color": "#C2A878"},
        {"name": "sea", "values": [1, 2], "color": "#4C8C2B"},
    ],
    "splits": {"by": "group", "test": ["8"], "validation": ["4"], "test_share": 0.1},
}
NO_TEXT = [3, 0.5, True, [], {}, ["a"], [[]]]
TEMPLATES = [
    *NO_TEXT,
    *(
        "",
        "/",
        "a.png",
        "/etc/{name}.png",
        "../{name}.png",
        "a/../{name}.png",
        "./{name}.png",
        "a//{name}.png",
        "C:/{name}.png",
    ),
    *(
        "a\\{name}.png",
        "{name",
        "name}",
        "{}/a.png",
        "{na me}.png",
        "{1}.png",
        "{name:}.png",
        "{name:a/b}.png",
        "{²}.png",
        "{K}.png",
    ),
    *(
        "{tile}/{other}/{name}.png",
        "{tile}.png",
        "{tile}/{{name}}.png",
        "{tile}{name}{tile}{name}{more}.png",
        "{tile}/../{name}.*",
    ),
]
LISTS = [3, "a", True, {}, [3], [[]], [{}], [None]]
WRONG = {
    ("image",): TEMPLATES,
    ("mask",): TEMPLATES,
    ("mask_values",): [*NO_TEXT, "", "colour", "indexes"],
    ("ignored",): [3, "a", {}, [0], [0.5], [-1], [70000], [True], [[]], ["#000000"], [255, 255]],
    ("group",): [*NO_TEXT, "{area}", "{tile}/{nome}"],
    ("about",): NO_TEXT,
    ("classes",): [
        3,
        "a",
        {},
        [],
        [3],
        [{}],
        [{"name": "land", "values": [0]}],
        [DESCRIPTION["classes"][0]] * 2,
    ],
    ("classes", 0, "name"): [*NO_TEXT, "", " ", "sea", "a\nb", "a\x1b[2J", "\u2029"],
    ("classes", 1, "values"): [
        3,
        "a",
        {},
        [],
        [0],
        [255],
        [1, 1],
        [-1],
        [65536],
        [0.5],
        [True],
        [[]],
        ["#0000FF"],
        [None],
    ],
    ("classes", 1, "color"): [*NO_TEXT, "red", "#12345", "#GGGGGG", "#4C8C2B;x", "url(x)"],
    ("classes", 0, "colour"): ["#000000"],
    ("splits",): [3, "a", [], {"by": 3}],
    ("splits", "by"): [*NO_TEXT, "", "name_of_none", "tiles"],
    ("splits", "test"): [*LISTS, ["99"], ["4"], ["8", "8"], ["../8"]],
    ("splits", "validation"): [*LISTS, [""], ["8"]],
    ("splits", "test_share"): ["a", [], True, -0.1, 1, 1.5, 1e999],
    ("splits", "within"): [*NO_TEXT, "area"],
    ("splits", "validaton"): [["4"]],
    ("base",): [*NO_TEXT, "", "dubay", "../dubai"],
    ("clases",): [[]],
}


def toml(value) -> str:
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(key)} = {toml(entry)}" for key, entry in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return (
        "nan"
        if value is None
        else "inf"
        if value == float("inf")
        else json.dumps(value, ensure_ascii=True)
    )


@st.composite
def descriptions(draw):
    """The content of a TOML file that describes no set."""
    if draw(st.integers(0, 5)) == 0:
        whole = "".join(f"{key} = {toml(value)}\n" for key, value in DESCRIPTION.items()).encode()
        broken = [
            b"",
            b"\xff\xfe",
            b"classes = ",
            b"x = " + b"9" * 5000,
            b"x = " + b"[" * 20_000,
            b"base = 'dubai'\nbase = 'dubai'",
        ]
        broken += [
            b"about = '\xe9'",
            whole + b"\nimage = 'a'",
            whole.replace(b"=", b":", 1),
            whole[: int(draw(SHARES) * len(whole))],
        ]
        return draw(st.sampled_from(broken))
    path = draw(st.sampled_from(sorted(WRONG, key=str)))
    wrong = changed(DESCRIPTION, path, draw(st.sampled_from(WRONG[path])))
    return "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in wrong.items()).encode()


@generated(50, 1000, descriptions())
def test_descriptions(content, folder):
    path = folder.parent / "set.toml"
    path.write_bytes(content)
    said = refused_set(path, folder)
    assert "set.toml" in said or "of the description names group" in said, said
