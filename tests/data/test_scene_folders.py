"""Folders of photographs and masks: built-in layouts, a user's own, image modes, and what is said
of bad input."""

import dataclasses
import re
import shutil
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cnn_jax import tasks
from cnn_jax.configuration.schema import DataConfig, SegmentationConfig
from cnn_jax.data.descriptions import (
    BUILT_IN,
    LabelClass,
    check,
    display_color,
    load_description,
    rgb,
)
from cnn_jax.data.normalization import moments
from cnn_jax.data.scene_folders import _dealt, class_counts, open_folder, open_scenes
from cnn_jax.data.scenes import IGNORED
from cnn_jax.errors import InputError
from cnn_jax.tasks import model_config
from tests.data import fake_sets
from tests.data.fake_sets import HEIGHT_PX, WIDTH_PX, label_map, photograph, save

DUBAI = Path(__file__).parents[2].parent / "shared" / "data" / "dubai"

TOML = """
image = "photos/{name}.png"
mask = "labels/{name}.png"
mask_values = "index"
ignored = [9]
[splits]
test = ["b"]
[[classes]]
name = "Dächer 屋根"
values = [0]
[[classes]]
name = "ground"
values = [1, 2]
color = "#123456"
"""


def config(source, directory, **changes):
    return DataConfig(source=str(source), directory=str(directory), **changes)


def names(scenes):
    return {
        split: [scene.name.rsplit("/", 1)[-1] for scene in scenes.splits[split]]
        for split in scenes.splits
    }


def refusal(*args, **changes):
    with pytest.raises(InputError) as caught:
        open_folder(config(*args, **changes))
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.fixture
def dubai(tmp_path):
    fake_sets.write_dubai(tmp_path / "dubai")
    return tmp_path / "dubai"


@pytest.fixture
def own(tmp_path):
    """A TOML description and its folder, with scenes a and b."""
    (tmp_path / "mine.toml").write_text(TOML, encoding="utf-8")
    for name in "ab":
        save(photograph(), tmp_path / f"photos/{name}.png")
        save(label_map(3), tmp_path / f"labels/{name}.png")
    return tmp_path / "mine.toml", tmp_path


# ---- layouts

SPLITS = {
    "dubai": (4, 2, 2),
    "folders": (18, 2, 20),
    "aeroscapes": (4, 2, 2),
    "uavid": (4, 2, 2),
    "drone": (7, 1, 2),
    "loveda": (6, 2, 2),
    "landcover": (1, 1, 1),
    "potsdam": (1, 2, 14),
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_descriptions_read_their_publishers_layout(name, tmp_path):
    check(BUILT_IN[name], name)
    fake_sets.WRITERS[name](tmp_path)
    scenes = open_scenes(config(name, tmp_path))
    assert (
        tuple(len(scenes.splits[split]) for split in ("train", "validation", "test"))
        == SPLITS[name]
    )
    for scene in (scene for split in scenes.splits.values() for scene in split):
        image, mask = scene.read()
        assert image.shape == (HEIGHT_PX, WIDTH_PX, 3) == (scene.height_px, scene.width_px, 3)
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) == set(
            range(len(scenes.classes))
        )  # every class was written, in order
    counts = class_counts([scene.read() for scene in scenes.splits["train"]], len(scenes.classes))
    assert counts.dtype == np.int64
    assert counts.sum() == SPLITS[name][0] * HEIGHT_PX * WIDTH_PX


@pytest.mark.parametrize("name", BUILT_IN)
def test_splits_share_no_group_of_a_description_that_names_them(name, tmp_path):
    fake_sets.WRITERS[name](tmp_path)
    scenes = open_folder(config(name, tmp_path))
    all_names = [scene.name for split in scenes.splits.values() for scene in split]
    assert len(all_names) == len(set(all_names))


def test_masks_are_decoded_to_the_class_of_each_pixel(dubai):
    scene = open_folder(config("dubai", dubai)).splits["test"][0]
    assert scene.name == "Tile 8/image_part_001"
    assert np.array_equal(scene.read()[1], label_map(5, seed=9))


def test_groups_in_the_configuration_replace_the_descriptions(dubai):
    scenes = open_folder(config("dubai", dubai, test_groups=("10",), validation_groups=("1",)))
    assert {scene.name.split("/")[0] for scene in scenes.splits["train"]} == {"Tile 4", "Tile 8"}
    assert {scene.name.split("/")[0] for scene in scenes.splits["test"]} == {"Tile 10"}
    assert {scene.name.split("/")[0] for scene in scenes.splits["validation"]} == {"Tile 1"}


def test_groups_replace_lists_and_folders_too(tmp_path):
    fake_sets.write_aeroscapes(tmp_path)
    scenes = open_folder(
        config("aeroscapes", tmp_path, test_groups=("000001",), validation_groups=("000002",))
    )
    assert names(scenes)["test"] == ["000001_001", "000001_002"]
    assert names(scenes)["train"] == ["000003_001", "000003_002", "000004_001", "000004_002"]


def test_a_validation_folder_is_used_where_there_is_one(tmp_path):
    fake_sets.write_folders(tmp_path, ("train", "val", "test"), count=3)
    assert {
        split: len(s) for split, s in open_folder(config("folders", tmp_path)).splits.items()
    } == dict.fromkeys(("train", "validation", "test"), 3)


def test_held_out_scenes_are_the_last_in_natural_order(tmp_path):
    fake_sets.write_folders(tmp_path)
    assert names(open_folder(config("folders", tmp_path)))["validation"] == ["18", "19"]


def test_the_fingerprint_follows_files_and_splits_only(dubai, tmp_path):
    first = open_folder(config("dubai", dubai)).fingerprint
    moved = tmp_path / "elsewhere"
    shutil.copytree(dubai, moved)
    assert open_folder(config("dubai", moved)).fingerprint == first
    assert open_folder(config("dubai", moved, test_groups=("10",))).fingerprint != first
    save(photograph(99), moved / "Tile 1/images/image_part_001.jpg")
    assert open_folder(config("dubai", moved)).fingerprint != first


def test_non_ascii_folders_and_names(tmp_path, dubai):
    folder = tmp_path / "Übersicht 図"
    dubai.rename(folder)
    for kind in ("images", "masks"):
        (file,) = (folder / f"Tile 1/{kind}").glob("*1.*")
        file.rename(file.with_stem("straße_é"))
    scenes = open_folder(config("dubai", folder))
    assert "straße_é" in names(scenes)["train"]
    assert scenes.splits["train"][0].read()[0].shape == (HEIGHT_PX, WIDTH_PX, 3)


def test_groups_are_the_same_however_their_letters_are_composed(tmp_path, dubai):
    (dubai / "Tile 1").rename(dubai / unicodedata.normalize("NFD", "Tile España"))
    for form in ("NFC", "NFD"):
        group = unicodedata.normalize(form, "España")
        scenes = open_folder(config("dubai", dubai, test_groups=(group,)))
        of_test = [unicodedata.normalize("NFC", one.name) for one in scenes.splits["test"]]
        assert of_test
        assert all(name.startswith("Tile España/") for name in of_test)
        toml = f'base = "dubai"\n[splits]\ntest = ["{group}"]\nvalidation = []\n'
        (tmp_path / "set.toml").write_text(toml, encoding="utf-8")
        by_toml = open_folder(config(tmp_path / "set.toml", dubai))
        assert names(by_toml)["test"] == names(scenes)["test"]


@pytest.mark.parametrize("name", ["a\nb", "a\n", "\tb"])
def test_names_that_no_line_can_show_are_refused(name, dubai):
    for kind in ("images", "masks"):
        (file,) = (dubai / f"Tile 1/{kind}").glob("*1.*")
        file.rename(file.with_name(name + file.suffix))
    with pytest.raises(InputError, match=r"a name with control characters.*rename it"):
        open_folder(config("dubai", dubai))


def test_hidden_files_and_other_files_are_passed_by(dubai):
    (dubai / "Tile 1/images/._image_part_001.jpg").write_bytes(b"finder")
    (dubai / "Tile 1/images/Thumbs.db").write_bytes(b"thumbs")
    open_folder(config("dubai", dubai))


def test_of_two_templates_the_more_particular_one_claims_a_file(own):
    toml, folder = own
    toml.write_text(TOML.replace("labels/{name}.png", "photos/{name}_mask.png"), encoding="utf-8")
    for name in "ab":
        (folder / f"labels/{name}.png").rename(folder / f"photos/{name}_mask.png")
    assert names(open_folder(config(toml, folder)))["test"] == ["b"]


# ---- TOML


def test_a_users_own_description(own):
    toml, folder = own
    scenes = open_folder(config(toml, folder))
    assert scenes.classes[0].name == "Dächer 屋根"
    assert scenes.classes[1].color == (0x12, 0x34, 0x56)
    assert names(scenes) == {"train": ["a"], "validation": [], "test": ["b"]}
    assert np.array_equal(scenes.splits["train"][0].read()[1], np.minimum(label_map(3), 1))


def test_a_description_based_on_a_built_in_one(tmp_path):
    path = tmp_path / "roofs.toml"
    path.write_text(
        'base = "folders"\n[splits]\nvalidation_share = 0.5\n'
        '[[classes]]\nname = "a"\nvalues = [0]\n[[classes]]\nname = "b"\nvalues = [7]\n'
    )
    description = load_description(str(path))
    assert description.image == BUILT_IN["folders"].image
    assert description.splits == dataclasses.replace(
        BUILT_IN["folders"].splits, validation_share=0.5
    )
    assert [known.name for known in description.classes] == ["a", "b"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ignored =", "ignroed =", "key ignroed is unknown: did you mean ignored"),
        ("test = [", "tets = [", "key splits.tets is unknown: did you mean test"),
        ("values = [0]", "value = [0]", "key classes[0].value is unknown: did you mean values"),
        ('mask_values = "index"', "", "key mask_values is missing, which takes palette or index"),
        ("values = [0]", "", "key classes[0].values is missing"),
        ('"index"', '"indexes"', "mask_values is 'indexes': did you mean index"),
        ('"index"', '"colors"', "mask_values is 'colors': it must be one of index, palette, poly"),
        ("ignored = [9]", "ignored = 9", "key ignored takes a list"),
        (
            "ignored = [9]",
            "ignored = [0.5]",
            "key ignored[0] takes a colour as text or a whole number, not 0.5",
        ),
        ("ignored = [9]", "ignored = [true]", "key ignored[0] takes"),
        ("ignored = [9]", "ignored = [70000]", "whole number from 0 to 65535"),
        ("ignored = [9]", 'ignored = ["#000000"]', "whole number from 0 to 65535"),
        ("ignored = [9]", "ignored = [1]", "ignored has 1, which classes[1].values has already"),
        ('test = ["b"]', "test = [8]", "key splits.test[0] takes text, not 8"),
        (
            'test = ["b"]',
            'test = ["b"]\nvalidation = ["b"]',
            "splits.test shares 'b' with splits.validation",
        ),
        ('test = ["b"]', 'by = "nmae"', "splits.by is 'nmae': did you mean name"),
        ('test = ["b"]', "test_share = 1.5", "splits.test_share is 1.5"),
        ('test = ["b"]', 'by = "list"\ntest = ["../b.txt"]', "must stay inside"),
        ("[splits]", 'group = "{tile}"\n[splits]', "group uses {tile}, which image has not"),
        (
            "labels/{name}.png",
            "../labels/{name}.png",
            "mask is '../labels/{name}.png'; it must stay inside",
        ),
        ("labels/{name}.png", "/labels/{name}.png", "must stay inside"),
        ("labels/{name}.png", "C:/labels/{name}.png", "must stay inside"),
        ("labels/{name}.png", "labels//{name}.png", "empty part"),
        ("labels/{name}.png", "labels/{tile}.png", "both need the same"),
        ("labels/{name}.png", "labels/{name.png", "a brace has no partner"),
        ("labels/{name}.png", "labels/{na me}.png", "has a field {na me}"),
        ("#123456", "blue", "a colour is written as '#RRGGBB'"),
        ('name = "ground"', 'name = "Dächer 屋根"', "names must differ"),
        ("[[classes]]", "[[classes]", "is not valid TOML"),
        (
            'image = "photos',
            'base = "dubay"\nimage = "photos',
            "base is 'dubay', which is no built-in description: did you mean dubai",
        ),
    ],
)
def test_a_bad_description_is_refused_with_file_and_key(own, old, new, said):
    toml, folder = own
    toml.write_text(TOML.replace(old, new, 1), encoding="utf-8")
    message = refusal(toml, folder)
    assert said in message
    assert "mine.toml" in message


def test_a_field_of_few_words_can_only_be_one_of_them():
    splits = dataclasses.replace(BUILT_IN["loveda"].splits, test=("val",))
    with pytest.raises(
        InputError, match=r"splits\.test names 'val', which \{part\} can't be: did you mean Val"
    ):
        check(dataclasses.replace(BUILT_IN["loveda"], splits=splits), "loveda")


def test_one_class_is_too_few():
    with pytest.raises(InputError, match="there must be 2 to 254"):
        check(
            dataclasses.replace(BUILT_IN["dubai"], classes=BUILT_IN["dubai"].classes[:1]), "dubai"
        )


def test_description_files_that_cannot_be_read(tmp_path):
    assert "can't be read" in refusal(tmp_path / "absent.toml", tmp_path)
    (tmp_path / "latin.toml").write_bytes('about = "Dächer"'.encode("latin-1"))
    assert "save it as UTF-8" in refusal(tmp_path / "latin.toml", tmp_path)


# ---- bad folders


def test_unknown_source(tmp_path):
    assert "did you mean dubai" in refusal("dubia", tmp_path)


def test_missing_and_empty_directories(tmp_path):
    assert "data.directory is empty" in refusal("dubai", "")
    assert "is not a folder" in refusal("dubai", tmp_path / "absent")
    assert "holds no image at Tile {tile}/images/{name}.jpg" in refusal("dubai", tmp_path)


def test_images_and_masks_without_partner(dubai):
    (dubai / "Tile 1/masks/image_part_001.png").unlink()
    (dubai / "Tile 4/images/image_part_002.jpg").unlink()
    message = refusal("dubai", dubai)
    assert "1 image (Tile 1/images/image_part_001.jpg) without a mask" in message
    assert "1 mask (Tile 4/masks/image_part_002.png) without an image" in message


def test_many_images_without_mask_are_counted_and_the_first_named(tmp_path):
    fake_sets.write_folders(tmp_path)
    shutil.rmtree(tmp_path / "test/masks")
    assert (
        "20 images (test/images/0.png, test/images/1.png, test/images/2.png, ...) without a mask"
        in refusal("folders", tmp_path)
    )


def test_two_files_for_one_image(tmp_path):
    fake_sets.write_folders(tmp_path, count=2)
    save(photograph(), tmp_path / "train/images/0.jpg")
    assert "train/images/0.jpg and train/images/0.png are the same image" in refusal(
        "folders", tmp_path
    )


def test_sizes_that_differ(dubai):
    save(photograph(size=(5, 7)), dubai / "Tile 1/images/image_part_002.jpg")
    assert "Tile 1/masks/image_part_002.png is 12 x 8 px for an image of 7 x 5 px" in refusal(
        "dubai", dubai
    )


def test_a_file_that_is_no_image(dubai):
    (dubai / "Tile 1/images/image_part_001.jpg").write_text("<html>not found</html>")
    assert "image_part_001.jpg is no JPEG, PNG, TIFF, BMP or WebP image" in refusal("dubai", dubai)


def test_a_header_that_is_cut_short(dubai):
    mask = dubai / "Tile 1/masks/image_part_001.png"
    mask.write_bytes(mask.read_bytes()[:20])
    assert "image_part_001.png can't be decoded" in refusal("dubai", dubai)


@pytest.mark.parametrize("file", ["images/image_part_001.jpg", "masks/image_part_001.png"])
def test_pixels_that_are_cut_short(dubai, file):
    path = dubai / "Tile 1" / file
    path.write_bytes(path.read_bytes()[:-60])
    scene = open_folder(config("dubai", dubai)).splits["train"][0]
    with pytest.raises(InputError, match=r"image_part_001.*can't be decoded"):
        scene.read()


def test_a_mask_as_jpeg(tmp_path):
    fake_sets.write_folders(tmp_path, count=2)
    (tmp_path / "train/masks/0.png").unlink()
    save(label_map(2), tmp_path / "train/masks/0.jpg")
    assert "0.jpg is a JPEG, whose compression changes labels" in refusal("folders", tmp_path)


def test_a_size_that_only_the_header_claims(dubai):
    (dubai / "Tile 1/masks/image_part_001.png").write_bytes(fake_sets.raw_png(2**16, 2**16, 8, b""))
    assert "claims 65536 x 65536 px, over the limit of 536,870,912 pixels" in refusal(
        "dubai", dubai
    )


def test_orientations_that_differ(dubai):
    exif = Image.Exif()
    exif[0x0112] = 3
    save(photograph(), dubai / "Tile 1/images/image_part_001.jpg", exif=exif)
    assert "differ in EXIF orientation (3 and 1)" in refusal("dubai", dubai)


def test_orientations_that_agree_turn_nothing(own):
    toml, folder = own
    exif = Image.Exif()
    exif[0x0112] = 6
    save(photograph(), folder / "photos/a.png", exif=exif)
    save(label_map(3), folder / "labels/a.png", exif=exif)
    image, mask = open_folder(config(toml, folder)).splits["train"][0].read()
    assert np.array_equal(image, photograph())
    assert np.array_equal(mask, np.minimum(label_map(3), 1))


def test_groups_that_are_not_there(dubai, tmp_path):
    assert (
        "data.test_groups names group '88', which the folder has not: name one of 1, 4, 8, 10"
        in refusal("dubai", dubai, test_groups=("88",))
    )
    shutil.rmtree(dubai / "Tile 8")
    assert "splits.test of the description names group '8'" in refusal("dubai", dubai)
    open_folder(config("dubai", dubai, test_groups=("10",)))


def test_groups_in_two_splits(dubai):
    message = refusal("dubai", dubai, test_groups=("1",), validation_groups=("1", "4"))
    assert "group '1' is in data.test_groups and data.validation_groups" in message
    message = refusal("dubai", dubai, test_groups=("4",))
    assert "group '4' is in data.test_groups and in the validation split of dubai" in message


def test_lists_that_do_not_fit(tmp_path):
    fake_sets.write_landcover(tmp_path)
    (tmp_path / "val.txt").write_text("M-33-20-D-c-4-2_0\n")
    assert "val.txt and train.txt both list M-33-20-D-c-4-2_0" in refusal("landcover", tmp_path)
    (tmp_path / "val.txt").write_text("M-33-20-D-c-4-2_77\n")
    assert "val.txt lists 1 scene (M-33-20-D-c-4-2_77) that the folder has not" in refusal(
        "landcover", tmp_path
    )
    (tmp_path / "val.txt").write_text("M-33-20-D-c-4-2_0\n", encoding="utf-16")
    assert "val.txt, the list of validation scenes, isn't UTF-8: save it so" in refusal(
        "landcover", tmp_path
    )
    (tmp_path / "val.txt").unlink()
    assert "val.txt, the list of validation scenes, can't be read" in refusal("landcover", tmp_path)


def test_an_entry_of_several_scenes_names_them_all(tmp_path):
    """Of a city's scenes the last alone was tested, and the others were trained on."""
    for city in ("austin", "wien"):
        for number in range(3):
            for kind, image in (("images", photograph(number)), ("masks", label_map(2))):
                save(image, tmp_path / city / kind / f"{number}.png")
    (tmp_path / "test.txt").write_bytes("\ufeffwien\r\n".encode())
    (tmp_path / "set.toml").write_text(
        """
        image = "{city}/images/{name}.png"
        mask = "{city}/masks/{name}.png"
        mask_values = "index"
        classes = [{name = "a", values = [0]}, {name = "b", values = [1]}]
        splits = {by = "list", test = ["test.txt"], entry = "{city}"}
        """
    )
    scenes = open_folder(config(tmp_path / "set.toml", tmp_path))
    found = {split: [scene.name for scene in of] for split, of in scenes.splits.items()}
    assert found["train"] == ["austin/0", "austin/1", "austin/2"]
    assert found["test"] == ["wien/0", "wien/1", "wien/2"]


# ---- unknown mask values


def test_an_unknown_colour_is_named_counted_and_can_be_ignored(dubai):
    path = dubai / "Tile 1/masks/image_part_001.png"
    mask = np.array(Image.open(path))
    mask[:2, :3] = (1, 2, 255)
    save(mask, path)
    scene = open_folder(config("dubai", dubai)).splits["train"][0]
    with pytest.raises(InputError) as caught:
        scene.read()
    assert (
        "image_part_001.png has the mask values #0102FF (6 pixels), which dubai doesn't list"
        in str(caught.value)
    )
    assert "--data.unknown_colors=ignore" in str(caught.value)

    scene = open_folder(config("dubai", dubai, unknown_colors="ignore")).splits["train"][0]
    assert (scene.read()[1] == IGNORED).sum() == 6
    assert class_counts([scene.read()], 5).sum() == HEIGHT_PX * WIDTH_PX - 6

    told = {}
    open_folder(config("dubai", dubai), told.__setitem__).splits["train"][0].read()
    assert told == {path: {"#0102FF": 6}}


def test_an_index_out_of_range_is_named(own):
    toml, folder = own
    save(np.full((HEIGHT_PX, WIDTH_PX), 17, np.uint8), folder / "labels/a.png")
    with pytest.raises(InputError, match=r"a\.png has the mask values 17 \(96 pixels\)"):
        open_folder(config(toml, folder)).splits["train"][0].read()


# ---- numbers


def test_channel_statistics_agree_with_numpy():
    image = photograph()
    mean, std = (moments(image) + moments(image)).statistics(255)
    assert np.allclose(mean, (image / 255).mean((0, 1)))
    assert np.allclose(std, (image / 255).std((0, 1)))


def test_display_colours():
    assert rgb("#3C1098") == (60, 16, 152)
    assert display_color(BUILT_IN["dubai"], 0) == (60, 16, 152)
    assert len({display_color(BUILT_IN["loveda"], i) for i in range(7)}) == 7
    plain = dataclasses.replace(
        BUILT_IN["folders"], classes=tuple(LabelClass(str(i), (i,)) for i in range(16))
    )
    assert len({display_color(plain, i) for i in range(16)}) == 16


# ---- the real set


@pytest.mark.skipif(
    not DUBAI.is_dir(), reason="the Dubai set is not in shared/data beside this repository"
)
def test_the_real_dubai_set():
    scenes = open_folder(config("dubai", DUBAI))
    assert {split: len(s) for split, s in scenes.splits.items()} == {
        "train": 54,
        "validation": 9,
        "test": 9,
    }
    palette_scene = scenes.splits["validation"][0]
    image, mask = palette_scene.read()
    assert image.shape == (palette_scene.height_px, palette_scene.width_px, 3)
    assert mask.shape == image.shape[:2]
    assert set(np.unique(mask)) <= {0, 1, 2, 3, 4, IGNORED}
    assert class_counts([scenes.splits["test"][0].read()], 5).sum() > 0


# ---- folds


@pytest.mark.parametrize("folds", [3, 4, 7])
@pytest.mark.parametrize("seed", range(8))
def test_folds_part_no_group_and_test_each_once(folds, seed):
    """Of groups of any sizes; a part has at most one group's scenes more than another needs."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, rng.integers(folds, 20))
    pairs = [
        SimpleNamespace(group=f"tile {g}", name=f"{g}-{i}")
        for g, size in enumerate(sizes)
        for i in range(size)
    ]
    splits = [
        _dealt(pairs, DataConfig(source="own", folds=folds, fold=fold, split_seed=seed))
        for fold in range(folds)
    ]
    for split, again in zip(splits, splits[1:] + splits[:1], strict=True):
        groups = {name: {pair.group for pair in held} for name, held in split.items()}
        assert all(groups.values())
        assert sum(map(len, groups.values())) == len(sizes)
        assert sorted(p.name for held in split.values() for p in held) == sorted(
            p.name for p in pairs
        )
        assert split["validation"] == again["test"]
    tested = [pair.name for split in splits for pair in split["test"]]
    assert sorted(tested) == sorted(pair.name for pair in pairs)
    counts = [len(split["test"]) for split in splits]
    assert max(counts) - min(counts) <= sizes.max()
    config = DataConfig(source="own", folds=folds, split_seed=seed)
    assert _dealt(pairs, config) == splits[0] == _dealt(pairs[::-1], config) | splits[0]
    dealt = {
        str([p.name for p in _dealt(pairs, DataConfig(folds=folds, split_seed=s))["test"]])
        for s in range(20)
    }
    assert len(dealt) > 1


def test_folds_of_a_folder_replace_its_splits(dubai):
    tiles = set()
    for fold in range(4):
        opened = open_folder(config("dubai", dubai, folds=4, fold=fold))
        groups = {
            split: {scene.name.split("/")[0] for scene in scenes}
            for split, scenes in opened.splits.items()
        }
        assert sum(map(len, groups.values())) == 4
        assert [len(groups[split]) for split in ("train", "validation", "test")] == [2, 1, 1]
        assert not tiles & groups["test"]
        tiles |= groups["test"]
    assert len(tiles) == 4
    one, other = (
        open_folder(config("dubai", dubai, folds=4, split_seed=seed)).fingerprint for seed in (0, 1)
    )
    assert one != other
    assert "has 4 groups: ask for no more folds" in refusal("dubai", dubai, folds=9)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"fold": 1}, "data.fold and data.split_seed are of data.folds"),
        ({"split_seed": 1}, "data.fold and data.split_seed are of data.folds"),
        ({"folds": 1}, "data.folds is 1; it must be at least 3"),
        ({"folds": 2}, "data.folds is 2; it must be at least 3"),
        ({"folds": 3, "fold": 3}, "data.fold is 3; with data.folds=3 it must be at most 2."),
        ({"folds": 3, "test_groups": ("8",)}, "data.folds deals all groups"),
        ({"folds": 3, "validation_groups": ("8",)}, "data.folds deals all groups"),
        ({"folds": 3, "source": "synthetic"}, "data.folds is for photographs"),
        ({"folds": -1}, "data.folds is -1; it must be at least 0"),
    ],
)
def test_folds_that_make_no_sense_are_refused(fields, said):
    run = SegmentationConfig(
        model=model_config("unet"), data=DataConfig(**{"source": "dubai", **fields})
    )
    with pytest.raises(InputError, match=f"^{re.escape(said)}"):
        tasks.check(run)
