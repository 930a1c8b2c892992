"""How a folder of photographs and masks is laid out: a typed description, the built-in ones, and a
user's own from TOML.

A description is plain data, so that a new data set is a dozen lines of TOML and no code. Paths are
templates: `{name}` stands for a part of one folder or file name, `{part:train|val}` for one of the
words given, and `.*` at the end for any image suffix. An image and a mask whose fields have the
same values are a pair.

Whatever a description says, only files within the data set's folder are read; links that lie there
are followed.
"""

import dataclasses
import json
import re
import tomllib
import types
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cnn_jax.configuration.schema import nearest
from cnn_jax.data.file_names import IMAGE_SUFFIXES, can_be_shown, composed
from cnn_jax.errors import InputError

ANY_OTHER = "any other value"
"""As a mask value: all that no class names and that isn't ignored by name."""

MOST_CLASSES = 254
"""Labels are uint8; 255 is ignored, and 254 marks values that no class claims while a mask is
decoded."""


@dataclass(frozen=True)
class LabelClass:
    """A class that is scored: its name, the mask values that mean it, and the colour that pictures
    show it in.

    Values are colours ("#3C1098"), whole numbers (0 to 65535) and ranges of them ("128-255"), or a
    property's text or numbers, as the description's `mask_values` says; `ANY_OTHER` stands for all
    that nothing else names. Where
    `color` is empty, a palette class is shown in its first value and an index class in a colour of
    ours.
    """

    name: str
    values: tuple[str | int, ...]
    color: str = ""


@dataclass(frozen=True)
class Splits:
    """Which scenes are for training, validation and test.

    `by` says what `train`, `validation` and `test` name: "group" (values of the description's
    `group`), "list" (text files with one `entry` a line), or a field of the path templates (such as
    the folder "train"). Scenes that nothing names are for training, unless `train` is given; then
    they are left out. Where nothing falls to validation or test, that share of the training groups
    is held out: the last ones in natural order, as neighbours in number are often neighbours on the
    ground; with `within`, so much of each value of that field.
    """

    by: str = "group"
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    entry: str = "{name}"
    validation_share: float = 0.0
    test_share: float = 0.0
    within: str = ""


@dataclass(frozen=True)
class Description:
    """A data set on disk.

    `image` and `mask` are path templates with the same fields, relative to the data set's folder.
    `mask_values` is "palette" (the mask's colours mean classes), "index" (its numbers do) or
    "polygons" (masks are GeoJSON, and the property `attribute` of their areas does).
    `group` is a template over the fields: scenes with the same value are never parted by a split of
    ours; empty, each scene is a group of its own. Pixels with `ignored` values count in no loss and
    no metric. `about` tells people what the set is and which split stands for which.

    Masks that are soft, anti-aliased or compressed with losses hold values between those of their
    classes. With a `threshold`, an index mask of two classes is the one below it and the other from
    it on. With a `distance`, a colour that isn't listed is read as the nearest listed one, if that
    is no further (Euclidean, of red, green and blue from 0 to 255).

    `bands` are the numbers, from 1, of the bands of images that a network sees; empty: all.
    `greatest` is the value that becomes 1 (2047 for 11 bits in files of 16); 0: the greatest of the
    files' integer type, and 1, which changes nothing, where they hold floating-point numbers.
    """

    image: str
    mask: str
    mask_values: Literal["palette", "index", "polygons"]
    classes: tuple[LabelClass, ...]
    ignored: tuple[str | int, ...] = ()
    group: str = ""
    splits: Splits = Splits()
    about: str = ""
    threshold: int = 0
    distance: float = 0.0
    bands: tuple[int, ...] = ()
    greatest: float = 0.0
    attribute: str = "class"

    @property
    def upper_class(self) -> int:
        """Of the two classes that a threshold parts, the one from it on: 0 or 1."""
        return 1 if min(numbers(self.classes[1].values[0])) >= self.threshold else 0

    def to_dict(self) -> dict[str, Any]:
        """As a record's JSON holds it."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], where: str) -> "Description":
        """What `to_dict` gave.

        Raises:
            InputError: it was changed into no description; names `where` and the key.
        """
        description = _fill(cls, table, where, "")
        check(description, where)
        return description


def _classes(*rows):
    """Rows of (name, value, ..., [display colour]): a row of numbers ends with the display colour;
    a row of colours needs none."""
    return tuple(
        (
            LabelClass(name, tuple(rest))
            if isinstance(rest[0], str)
            else LabelClass(name, tuple(rest[:-1]), rest[-1])
        )
        for name, *rest in rows
    )


BUILT_IN = {
    "dubai": Description(
        image="Tile {tile}/images/{name}.jpg",
        mask="Tile {tile}/masks/{name}.png",
        mask_values="palette",
        # The classes.json that ships with the set lists other colours, which occur in no mask.
        classes=_classes(
            ("building", "#3C1098"),
            ("land", "#8429F6"),
            ("road", "#6EC1E4"),
            ("vegetation", "#FEDD3A"),
            ("water", "#E2A929"),
        ),
        ignored=("#9B9B9B", "#000000"),
        group="{tile}",
        splits=Splits(validation=("4",), test=("8",)),
        about=(
            "Semantic segmentation of aerial imagery: Dubai from MBRSC satellites, 72 scenes in 8"
            " tiles (Humans in the Loop, CC0). The publisher gives no split. The parts of a tile"
            " are neighbours, so ours keeps tiles whole: 8 is test, 4 is validation. Unlabeled"
            " (#9B9B9B) and black, which is no class, are ignored."
        ),
    ),
    "folders": Description(
        image="{part:train|validation|val|test}/images/{name}.*",
        mask="{part:train|validation|val|test}/masks/{name}.*",
        mask_values="index",
        classes=_classes(("background", 0, "#606060"), ("foreground", 1, 255, "#E69F00")),
        splits=Splits(
            by="part", validation=("validation", "val"), test=("test",), validation_share=0.1
        ),
        about=(
            "Folders train/images, train/masks, test/images, test/masks, and validation (or val)"
            " likewise. Without a validation folder, the last tenth of train, by name, is held out"
            " in its place. Classes can't be read off folders: background (0) and foreground (1 or"
            " 255) unless a TOML file with base = 'folders' names others."
        ),
    ),
    "aeroscapes": Description(
        image="JPEGImages/{sequence}_{frame}.jpg",
        mask="SegmentationClass/{sequence}_{frame}.png",
        mask_values="index",
        classes=_classes(
            ("background", 0, "#000000"),
            ("person", 1, "#C08080"),
            ("bike", 2, "#008000"),
            ("car", 3, "#808080"),
            ("drone", 4, "#800000"),
            ("boat", 5, "#000080"),
            ("animal", 6, "#C00080"),
            ("obstacle", 7, "#C00000"),
            ("construction", 8, "#C08000"),
            ("vegetation", 9, "#004000"),
            ("road", 10, "#808000"),
            ("sky", 11, "#008080"),
        ),
        group="{sequence}",
        splits=Splits(
            by="list",
            train=("ImageSets/trn.txt",),
            test=("ImageSets/val.txt",),
            entry="{sequence}_{frame}",
            validation_share=0.1,
        ),
        about=(
            "AeroScapes, 3,269 frames of 141 drone videos (Nigam, Huang and Ramanan, WACV 2018)."
            " The official val.txt is test here, being the only public one; validation is the last"
            " tenth of the sequences in trn.txt."
        ),
    ),
    "uavid": Description(
        image="uavid_{part:train|val}/{sequence}/Images/{name}.png",
        mask="uavid_{part:train|val}/{sequence}/Labels/{name}.png",
        mask_values="palette",
        classes=_classes(
            ("background clutter", "#000000"),
            ("building", "#800000"),
            ("road", "#804080"),
            ("static car", "#C000C0"),
            ("tree", "#008000"),
            ("low vegetation", "#808000"),
            ("human", "#404000"),
            ("moving car", "#400080"),
        ),
        group="{sequence}",
        splits=Splits(by="part", test=("val",), validation_share=0.1),
        about=(
            "UAVid 1.5, 4K frames of drone videos (Lyu, Vosselman, Xia, Yilmaz and Yang, ISPRS"
            " Journal 2020). The masks of the official test are not public: its val is test here,"
            " and validation is the last tenth of the training sequences."
        ),
    ),
    "drone": Description(
        image="training_set/images/{name}.jpg",
        mask="training_set/gt/semantic/label_images/{name}.png",
        mask_values="palette",
        classes=_classes(
            ("paved-area", "#804080"),
            ("dirt", "#824C00"),
            ("grass", "#006600"),
            ("gravel", "#706757"),
            ("water", "#1C2AA8"),
            ("rocks", "#30291E"),
            ("pool", "#003259"),
            ("vegetation", "#6B8E23"),
            ("roof", "#464646"),
            ("wall", "#66669C"),
            ("window", "#FEE40C"),
            ("door", "#FE940C"),
            ("fence", "#BE9999"),
            ("fence-pole", "#999999"),
            ("person", "#FF1660"),
            ("dog", "#663300"),
            ("car", "#098F96"),
            ("bicycle", "#770B20"),
            ("tree", "#333300"),
            ("bald-tree", "#BEFABE"),
            ("ar-marker", "#709692"),
            ("obstacle", "#028773"),
        ),
        ignored=("#000000", "#FF0000"),
        splits=Splits(validation_share=0.1, test_share=0.2),
        about=(
            "Semantic Drone Dataset, 400 public scenes of 6000 x 4000 px (ICG, Graz University of"
            " Technology). Its official test of 200 is private and it has no other split: by"
            " number, the last fifth is test here and the last tenth of the rest validation."
            " Unlabeled (#000000) and conflicting (#FF0000) are ignored, which leaves 22 classes."
        ),
    ),
    "loveda": Description(
        image="{part:Train|Val}/{area:Rural|Urban}/images_png/{name}.png",
        mask="{part:Train|Val}/{area:Rural|Urban}/masks_png/{name}.png",
        mask_values="index",
        classes=_classes(
            ("background", 1, "#FFFFFF"),
            ("building", 2, "#FF0000"),
            ("road", 3, "#FFFF00"),
            ("water", 4, "#0000FF"),
            ("barren", 5, "#9F81B7"),
            ("forest", 6, "#00FF00"),
            ("agricultural", 7, "#FFC380"),
        ),
        ignored=(0,),
        splits=Splits(by="part", test=("Val",), validation_share=0.1, within="area"),
        about=(
            "LoveDA (Wang, Zheng, Ma, Lu and Zhong, NeurIPS 2021 Datasets and Benchmarks). The"
            " masks of the official Test are not public: Val is test here, and validation is the"
            " last tenth of Train, by number, of the rural and of the urban scenes. 0 is no data."
        ),
    ),
    "landcover": Description(
        image="output/{name}.jpg",
        mask="output/{name}_m.png",
        mask_values="index",
        classes=_classes(
            ("background", 0, "#000000"),
            ("building", 1, "#614A4A"),
            ("woodland", 2, "#267300"),
            ("water", 3, "#00C5FF"),
            ("road", 4, "#CFCFCF"),
        ),
        splits=Splits(by="list", train=("train.txt",), validation=("val.txt",), test=("test.txt",)),
        about=(
            "LandCover.ai v1 (Boguszewski and others, CVPR Workshops 2021), as chips of 512 x 512"
            " px: run the split.py that comes with it first. Splits are the official lists, which"
            " part neighbouring chips of one orthophoto."
        ),
    ),
    "potsdam": Description(
        image="2_Ortho_RGB/top_potsdam_{row}_{column}_RGB.tif",
        mask="5_Labels_all/top_potsdam_{row}_{column}_label.tif",
        mask_values="palette",
        classes=_classes(
            ("impervious surface", "#FFFFFF"),
            ("building", "#0000FF"),
            ("low vegetation", "#00FFFF"),
            ("tree", "#00FF00"),
            ("car", "#FFFF00"),
            ("clutter", "#FF0000"),
        ),
        # #FCFF00 is a stray in the published labels: it may be meant for a car, and isn't guessed
        # at.
        ignored=("#000000", "#FCFF00"),
        group="{row}_{column}",
        splits=Splits(
            test=(
                *("2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15"),
                *("5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13"),
            ),
            validation=("2_10", "7_12"),
        ),
        about=(
            "ISPRS 2D Semantic Labeling, Potsdam: 38 tiles of 6000 x 6000 px. Test is the official"
            " one of 14 tiles, with the full reference and not the one with eroded boundaries; of"
            " the official 24 training tiles, 2_10 and 7_12 are validation. Black, which marks"
            " eroded boundaries, and the stray #FCFF00 are ignored."
        ),
    ),
}
"""The data sets known by name."""

# Okabe and Ito's colours (2008), which most people can tell apart, then darker ones.
_DISPLAY_COLORS = (
    *("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999"),
    *("#7F4F00", "#20507F", "#004F3A", "#807A20", "#003A59", "#6A2F00", "#663C53", "#404040"),
)


def load_description(source: str, recorded: Mapping[str, Any] | None = None) -> Description:
    """The description that `source` names: one of `BUILT_IN`, or the path of a TOML file with the
    fields of `Description`.

    A TOML file may say `base = "dubai"` to start from a built-in description and give only what
    differs. Where a record holds the description (`recorded`, of `Description.to_dict`), it is that
    one, wherever the TOML file lies now.

    Raises:
        InputError: no such name or file, or a file whose keys, types or values are wrong; names the
            file and the key.
    """
    if recorded is not None:
        return Description.from_dict(recorded, f"the recorded description of {source}")
    if source in BUILT_IN:
        return BUILT_IN[source]
    path = Path(source).expanduser()
    if path.suffix.lower() != ".toml":
        known = nearest(source, ("synthetic", *BUILT_IN))
        raise InputError(
            f"data.source {source!r} is neither a built-in description nor the path of a .toml"
            f" file: {known}."
        )
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise InputError(f"data.source {source} is no file: check the path.")
        table = tomllib.loads(composed(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise InputError(
            f"data.source {source} can't be read ({error.strerror}): check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"data.source {source} is not UTF-8 text: save it as UTF-8.") from error
    except ValueError as error:
        raise InputError(f"data.source {source} is not valid TOML: {error}.") from error
    except RecursionError:
        raise InputError(
            f"data.source {source} is not valid TOML: it is nested too deeply."
        ) from None
    base = table.pop("base", None)
    if base is not None and not (isinstance(base, str) and base in BUILT_IN):
        raise InputError(
            f"{source}: base is {base!r}, which is no built-in description:"
            f" {nearest(str(base), BUILT_IN)}."
        )
    description = _fill(Description, table, source, "", None if base is None else BUILT_IN[base])
    check(description, source)
    return description


def fields(template: str) -> tuple[str, ...]:
    """The names of a template's fields, in order."""
    return tuple(dict.fromkeys(re.findall(r"\{([^{}:]*)", template)))


def value(template: str, values: Mapping[str, str]) -> str:
    """A template with its fields replaced by their values."""
    return re.sub(r"\{([^{}:]*)[^{}]*\}", lambda match: values[match[1]], template)


def patterns(template: str) -> list[re.Pattern]:
    """A path template as one regular expression for each folder and file name, with a group for
    each field."""
    return [_pattern(part) for part in unicodedata.normalize("NFC", template).split("/")]


def is_range(mask_value: str | int) -> bool:
    """Whether a mask value is a range of numbers, such as "128-255"."""
    return isinstance(mask_value, str) and bool(re.fullmatch(r"\d{1,5}-\d{1,5}", mask_value))


def numbers(mask_value: str | int) -> range:
    """The numbers that a value of an index mask, 17 or "128-255", stands for."""
    first, _, last = str(mask_value).partition("-")
    return range(int(first), int(last or first) + 1)


def rgb(color: str) -> tuple[int, int, int]:
    """ "#3C1098" as (60, 16, 152)."""
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue


def display_color(description: Description, index: int) -> tuple[int, int, int]:
    """The sRGB colour, 0 to 255, that pictures show a class in."""
    known = description.classes[index]
    first = str(known.values[0]) if description.mask_values == "palette" else ""
    return rgb(
        known.color
        or (first if first.startswith("#") else _DISPLAY_COLORS[index % len(_DISPLAY_COLORS)])
    )


def check(description: Description, where: str) -> None:
    """Holds the fields of a description to each other.

    Raises:
        InputError: names `where`, the key and the mend.
    """

    def refuse(key, problem):
        raise InputError(f"{where}: {key} {problem}.")

    for key, template in (("image", description.image), ("mask", description.mask)):
        _check_path(template, key, refuse)
        for field in re.findall(r"\{([^{}]*)\}", template):
            name = field.partition(":")[0]
            identifier = name.isidentifier() and unicodedata.normalize("NFKC", name) == name
            if not identifier or not re.fullmatch(r"\w+(:[^|:/]+(\|[^|:/]+)*)?", field):
                refuse(key, f"has a field {{{field}}}: write {{name}} or {{name:one|another}}")
        if re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", template)):
            refuse(key, f"is {template!r}, where a brace has no partner")
        for part in template.split("/"):
            names = re.findall(r"\{([^{}:]*)", part)
            if len(set(names)) > 2 and len(set(names)) < len(
                names
            ):  # of these, matching would try all ways to part a name
                refuse(key, f"has a field twice in {part!r}, among more than two: write each once")
    known = fields(description.image)
    if set(known) != set(fields(description.mask)):
        refuse(
            "mask",
            f"has the fields {_braced(fields(description.mask))} and image {_braced(known)}: both"
            " need the same",
        )
    if not known:
        refuse("image", "has no field: write {name} where file names differ")

    splits = description.splits
    for key, template in (
        ("group", description.group),
        ("splits.entry", splits.entry if splits.by == "list" else ""),
    ):
        for field in fields(template):
            if field not in known:
                refuse(key, f"uses {{{field}}}, which image has not: {nearest(field, known)}")
    if splits.by not in ("group", "list", *known):
        refuse("splits.by", f"is {splits.by!r}: {nearest(splits.by, ('group', 'list', *known))}")
    if splits.within and splits.within not in known:
        refuse("splits.within", f"is {splits.within!r}: {nearest(splits.within, known)}")
    words = re.search(rf"\{{{splits.by}:([^{{}}]+)\}}", description.image)
    named = {}
    for split in ("train", "validation", "test"):
        for name in getattr(splits, split):
            if words and name not in words[1].split("|"):
                refuse(
                    f"splits.{split}",
                    f"names {name!r}, which {{{splits.by}}} can't be:"
                    f" {nearest(name, words[1].split('|'))}",
                )
            if splits.by == "list":
                _check_path(name, f"splits.{split}", refuse)
            if name in named:
                refuse(
                    f"splits.{split}",
                    f"shares {name!r} with splits.{named[name]}: name it in one of them",
                )
            named[name] = split
    for key in ("validation_share", "test_share"):
        if not 0 <= getattr(splits, key) < 1:
            refuse(
                f"splits.{key}", f"is {getattr(splits, key)}; it must be 0 or more and less than 1"
            )

    if not 2 <= len(description.classes) <= MOST_CLASSES:
        refuse(
            "classes", f"has {len(description.classes)} entries; there must be 2 to {MOST_CLASSES}"
        )
    names, claimed = set(), {}
    for index, known_class in enumerate(description.classes):
        if (
            not known_class.name.strip()
            or known_class.name in names
            or not can_be_shown(known_class.name)
        ):
            refuse(
                f"classes[{index}].name",
                f"is {known_class.name!r}; names must differ, be on one line and not be empty",
            )
        names.add(known_class.name)
        if known_class.color:
            _check_color(known_class.color, f"classes[{index}].color", refuse)
        if not known_class.values:
            refuse(
                f"classes[{index}].values",
                f"is empty: give the mask values that mean {known_class.name}",
            )
    owners = [
        (f"classes[{i}].values", v) for i, c in enumerate(description.classes) for v in c.values
    ]
    for key, mask_value in [*owners, *(("ignored", v) for v in description.ignored)]:
        meant: Sequence[str | int] = [mask_value]
        if mask_value == ANY_OTHER:
            pass
        elif description.mask_values == "polygons":
            meant = [str(mask_value).strip()]  # 7, "7" and "7 " mean the same
        elif description.mask_values == "palette":
            _check_color(mask_value, key, refuse)
            meant = [str(mask_value).upper()]
        elif is_range(mask_value) or isinstance(mask_value, int):
            meant = numbers(mask_value) if is_range(mask_value) else [mask_value]
        else:
            meant = ()
        if not meant or any(
            isinstance(v, int) and not 0 <= v <= 65535 for v in (meant[0], meant[-1])
        ):
            refuse(
                key,
                f"has {mask_value!r}; for index masks it must be a whole number from 0 to 65535, or"
                " a range of them such as '128-255'",
            )
        for one in meant:
            if one in claimed:
                refuse(key, f"has {one!r}, which {claimed[one]} has already")
            claimed[one] = key
    _check_reading(description, refuse)


def _check_reading(description, refuse):
    """Holds `threshold`, `distance`, `bands` and `greatest` to the rest."""
    threshold, classes = description.threshold, description.classes
    if not 0 <= threshold <= 65535:
        refuse("threshold", f"is {threshold}; it must be a whole number from 1 to 65535")
    if threshold:
        if description.mask_values != "index" or len(classes) != 2:
            refuse("threshold", "is for index masks of two classes: leave it out")
        if any(value == ANY_OTHER for known in classes for value in known.values):
            refuse("threshold", f"leaves no {ANY_OTHER}: take that out of the classes")
        upper = [
            {number >= threshold for value in known.values for number in numbers(value)}
            for known in classes
        ]
        if upper not in ([{False}, {True}], [{True}, {False}]):
            refuse(
                "threshold",
                f"is {threshold}, which doesn't part the values of {classes[0].name} from those of"
                f" {classes[1].name}: one class must lie below it, the other from it on",
            )
    of_polygons = description.mask_values == "polygons"
    if of_polygons and not description.mask.lower().endswith((".geojson", ".json")):
        refuse("mask", f"is {description.mask!r}; polygons are GeoJSON: end it in .geojson")
    if of_polygons and not description.attribute.strip():
        refuse("attribute", "is empty: name the property that tells the classes of areas")
    if not 0 <= description.distance <= 442:
        refuse("distance", f"is {description.distance}; it must lie between 0 and 442")
    if description.distance and description.mask_values != "palette":
        refuse("distance", "is for palette masks: leave it out, or give a threshold")
    if any(band < 1 for band in description.bands):
        refuse("bands", f"is {list(description.bands)}; bands are numbered from 1")
    if not 0 <= description.greatest < float("inf"):
        refuse("greatest", f"is {description.greatest}; it must be above 0 and finite")


def _check_path(path, key, refuse):
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\\" in path or re.match(r"[A-Za-z]:", path):
        refuse(
            key,
            f"is {path!r}; it must stay inside the data set's folder: relative, with / and"
            " without ..",
        )
    if not all(parts) or "." in parts:
        refuse(key, f"is {path!r}, which has an empty part; write it as folder/file")


def _check_color(color, key, refuse):
    if not isinstance(color, str) or not re.fullmatch(r"#[0-9A-Fa-f]{6}", color):
        refuse(key, f"has {color!r}; a colour is written as '#RRGGBB'")


def _braced(names):
    return ", ".join(f"{{{name}}}" for name in names) or "none"


def _pattern(part):
    suffix = re.search(r"\.(\*|[A-Za-z0-9]+)$", part)
    stem = part[: suffix.start()] if suffix else part
    pieces, bound = (
        [""],
        set(),
    )  # what stands before the first field of any text, then each such field with what follows it
    for token in re.split(r"(\{[^{}]*\})", stem):
        if not token.startswith("{"):
            pieces[-1] += re.escape(token)
            continue
        name, _, words = token[1:-1].partition(":")
        if name in bound:
            pieces[-1] += f"(?P={name})"
        elif words:
            pieces[-1] += f"(?P<{name}>{'|'.join(map(re.escape, words.split('|')))})"
        else:
            # Names that start with a dot are left behind by other programs, and aren't photographs.
            first = r"(?!\.)" if not any(pieces) else ""
            pieces.append(f"(?P<{name}>{first}.+?)")
        bound.add(name)
    if "(?P=" not in "".join(pieces):
        # A field ends where what follows it is first found. To try other ends can't help, and with
        # many fields would take for ever.
        pieces[1:-1] = [f"(?>{piece})" for piece in pieces[1:-1]]
    expression = "".join(pieces)
    if suffix:
        suffixes = IMAGE_SUFFIXES if suffix[1] == "*" else (suffix[0],)
        expression += f"(?i:{'|'.join(map(re.escape, suffixes))})"
    return re.compile(expression, re.DOTALL)  # a name with an end of line is matched, and refused


# ---- TOML


def _fill(kind, table, where, prefix, base=None):
    """A dataclass from a TOML table; every key must be a field, and every field without a default
    (or a base) a key."""
    kinds = get_type_hints(kind)
    for key in table:
        if key not in kinds:
            raise InputError(f"{where}: key {prefix}{key} is unknown: {nearest(key, kinds)}.")
    given = {
        key: _typed(kinds[key], entry, where, prefix + key, getattr(base, key, None))
        for key, entry in table.items()
    }
    if base is not None:
        return dataclasses.replace(base, **given)
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.name not in given:
            raise InputError(
                f"{where}: key {prefix}{field.name} is missing, which takes"
                f" {_words(kinds[field.name])}."
            )
    return kind(**given)


def _typed(kind, entry, where, key, base=None):
    if dataclasses.is_dataclass(kind) and isinstance(entry, dict):
        return _fill(kind, entry, where, f"{key}.", base)
    if get_origin(kind) is tuple and isinstance(entry, list):
        return tuple(
            _typed(get_args(kind)[0], item, where, f"{key}[{i}]") for i, item in enumerate(entry)
        )
    if get_origin(kind) is Literal:
        if entry not in get_args(kind):
            raise InputError(f"{where}: {key} is {entry!r}: {nearest(str(entry), get_args(kind))}.")
        return entry
    if kind is float and type(entry) is int:
        return float(entry)
    if isinstance(kind, type | types.UnionType) and type(entry) in (get_args(kind) or (kind,)):
        return entry
    raise InputError(f"{where}: key {key} takes {_words(kind)}, not {entry!r}.")


def _words(kind):
    if dataclasses.is_dataclass(kind):
        return "a table"
    if get_origin(kind) is tuple:
        return f"a list, each {_words(get_args(kind)[0])}"
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    return {str: "text", float: "a number", int: "a whole number"}.get(
        kind, "a colour as text or a whole number"
    )
