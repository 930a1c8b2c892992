"""What comes from elsewhere is data: it is not run, not followed out of its folder, not believed
about its size, not shown as markup."""

import ast
import json
import re
import sys
import time
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cnn_jax.configuration.schema import DataConfig, ImageDataConfig
from cnn_jax.data import image_folders
from cnn_jax.data.descriptions import patterns
from cnn_jax.data.images import open_images
from cnn_jax.data.rasters import LARGEST_IMAGE_PX, open_raster
from cnn_jax.data.scene_folders import open_scenes
from cnn_jax.errors import InputError
from cnn_jax.records.run_record import read
from cnn_jax.reporting import comparison, comparison_tables, page, table
from tests.data import fake_images, fake_sets
from tests.reporting import fake_records

ROOT = Path(__file__).parents[2]


def test_no_code_here_unpickles_or_evaluates_text():
    """Neither by name nor by NumPy's loader, and no module is imported whose name isn't written
    here. Two readers of others' pickles derive unpicklers that look no name up."""
    forbidden = {
        "eval",
        "exec",
        "compile",
        "__import__",
        "import_module",
        "literal_eval",
        "load_module",
        "unpickle",
        "full_load",
    }
    for path in [*ROOT.glob("cnn_jax/**/*.py"), *ROOT.glob("experiments/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.partition(".")[0] for alias in node.names} | {
                    getattr(node, "module", None) or ""
                }
                known = {"pickle"} if path.name in ("cifar.py", "torch_files.py") else set()
                unsafe = {"pickle", "dill", "cloudpickle", "marshal", "shelve"} - known
                assert not names & unsafe, (path, names)
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "pickle":
                assert node.attr in ("Unpickler", "UnpicklingError"), (path, node.lineno)
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "yaml":
                # A BaseLoader makes texts, lists and dicts alone.
                safe = ("safe_load", "safe_dump", "BaseLoader", "YAMLError")
                assert node.attr in safe, (path, node.lineno)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                lessons = {"exec", "compile"} if path.name == "building.py" else set()  # our own
                assert node.func.id not in forbidden - lessons, (path, node.lineno)
            if isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", path


def test_a_class_that_features_json_names_is_not_imported(tmp_path, monkeypatch):
    pytest.importorskip(
        "tensorflow_datasets", reason="TFDS is not installed: pip install 'cnn_jax[tfds]'"
    )
    (tmp_path / "stranger.py").write_text("raise SystemExit('was run')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = fake_images.write_mnist(tmp_path / "sets", train=4, test=2)
    text = (folder / "features.json").read_text()
    (folder / "features.json").write_text(
        text.replace("tensorflow_datasets.core.features.image_feature.Image", "stranger.Image")
    )
    with pytest.raises(
        InputError,
        match=r"features\.json names the class 'stranger\.Image', which is not TFDS's own",
    ):
        open_images(ImageDataConfig(source="mnist", directory=str(tmp_path / "sets")))
    assert "stranger" not in sys.modules


def test_a_template_is_matched_in_no_time_whatever_the_name():
    """Eight fields in a name of 255 letters can be parted in 10**14 ways."""
    [pattern] = patterns("_".join(f"{{{letter}}}" for letter in "abcdefgh") + "_x.png")
    started = time.process_time()
    assert pattern.fullmatch("_" * 250 + ".png") is None
    assert time.process_time() - started < 5  # centuries, otherwise
    assert pattern.fullmatch("1_2_3_4_5_6_7_8_9_x.png")["h"] == "8_9"


def test_a_label_pattern_that_never_ends_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(image_folders, "SEARCH_S", 1)
    fake_images.write_folder(
        tmp_path, {f"{'a' * 60}{number}.png": fake_images.picture(0, (8, 8)) for number in range(2)}
    )
    with pytest.raises(InputError, match=r"data\.label_pattern .* took more than 1 s over 2 names"):
        open_images(
            ImageDataConfig(source="folders", directory=str(tmp_path), label_pattern=r"((a+)+)$")
        )


@pytest.mark.parametrize("claimed", [(65535, 65535), (LARGEST_IMAGE_PX, 2), (23_171, 23_171)])
def test_a_size_beyond_the_limit_takes_no_memory(claimed, tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(fake_sets.raw_png(*claimed, 8, b""))
    tracemalloc.start()
    try:
        for read in (open_raster, lambda path: open_raster(path.read_bytes(), path, small=True)):
            with pytest.raises(
                InputError,
                match=f"{claimed[0]} x {claimed[1]} px, over the limit of 536,870,912 pixels",
            ):
                read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_an_orthophoto_of_400_megapixels_is_within_the_limit(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(fake_sets.raw_png(20_000, 20_000, 8, b""))
    assert open_raster(path).width_px == 20_000


def test_links_that_lie_in_a_folder_are_followed(tmp_path):
    """Large sets are kept elsewhere and linked: who lays out the folder says what belongs to it."""
    fake_sets.write_dubai(tmp_path / "elsewhere")
    (tmp_path / "data").mkdir()
    for tile in (1, 4, 8):
        (tmp_path / "data" / f"Tile {tile}").symlink_to(tmp_path / "elsewhere" / f"Tile {tile}")
    scenes = open_scenes(DataConfig(source="dubai", directory=str(tmp_path / "data")))
    assert len(scenes.splits["train"]) == 2


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_names_in_a_record_are_no_markup(tmp_path):
    """Of variants, scenes and classes, in the page and in the tables."""
    evil = (
        "\"><script>alert(1)</script><img src=x onerror='alert(2)'>|\n# [a](javascript:alert(3)) `b"
    )
    [plain] = fake_records.write_study(tmp_path / "study", {"unet": 0.3}, seeds=(0,), scenes=2)
    folder = plain.folder
    config, summary, scenes = (
        json.loads((folder / f"{name}.json").read_text())
        for name in ("config", "summary", "scenes")
    )
    config["variant"] = summary["variant"] = evil
    config["data"]["source"] = f"a|{evil}"
    summary = {key.replace("building", evil): value for key, value in summary.items()}
    scenes["classes"][0] = scenes["scenes"][0]["name"] = evil
    for name, content in (("config", config), ("summary", summary), ("scenes", scenes)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    record = read(fake_records.digested(folder))
    compared = comparison.compare([record])
    tags = _Tags()
    tags.feed(page.page(compared))
    assert [attributes for tag, attributes in tags.seen if tag == "script"] == [{}]
    assert not [
        attributes
        for tag, attributes in tags.seen
        if {"onerror", "onclick", "onload"} & attributes.keys()
    ]
    sources = [attributes["src"] for tag, attributes in tags.seen if tag == "img"]
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    for markdown in (
        comparison_tables.as_markdown(compared),
        table.results_page([record]),
    ):
        assert "script" in markdown
        assert not re.search(r"(?<!\\)<(script|img)|(?<!\\)\]\(javascript", markdown)
        rows = [line for line in markdown.splitlines() if line.startswith("|")]
        for block in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}) == 1
        assert len(rows) > 2
