"""Records with objects compared: the test over images, what is kept of each, and their page."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data.objects import AnnotatedImage, of_mask
from cnn_jax.errors import InputError
from cnn_jax.evaluation import coco
from cnn_jax.records import object_record
from cnn_jax.records.run_record import read, read_records
from cnn_jax.reporting import comparison, page
from tests.browser import CHROMIUM, browser
from tests.reporting import fake_objects


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(the folder of two variants of two seeds, one of which sees far better, their records)."""
    folder = tmp_path_factory.mktemp("study")
    return folder, fake_objects.write_study(folder, {"sharp": 0.6, "dim <b>": 6.0})


def test_pairs_are_tested_over_images(study):
    _, records = study
    compared = comparison.compare(records)
    [pair] = compared.groups[0].pairs
    assert (pair.better, pair.worse) == ("sharp", "dim <b>")
    # By hand: each seed's AP over the four images, whole and drawn.
    by_name = {record.folder.name: record for record in records}
    differences = [
        by_name[f"sharp-seed{seed}"].summary["test/mask_ap"]
        - by_name[f"dim <b>-seed{seed}"].summary["test/mask_ap"]
        for seed in (0, 1)
    ]
    assert pair.images.difference == pytest.approx(np.mean(differences))
    assert pair.images.pairs == 4
    low, high = pair.images.interval
    assert 0 < low < pair.images.difference < high < 1
    assert pair.bootstrap == pair.images.interval
    # Of the 16 ways to swap four images none but all and none of them differ as much.
    assert pair.images.p == 2 / 16
    assert "4 test images" in pair.sentence
    for words in ("changes places, in all ways", "images drawn again 2,000 times"):
        assert words in compared.assumed


def test_other_objects_are_not_paired(study, tmp_path):
    folder, _ = study
    shutil.copytree(folder, tmp_path / "study")
    for path in (tmp_path / "study").glob("dim*/objects.json"):
        content = json.loads(path.read_text("utf-8"))
        content["images"][0]["name"] = "another"
        path.write_text(json.dumps(content), "utf-8")
    records = [read(path) for path in sorted((tmp_path / "study").iterdir())]
    [pair] = comparison.compare(records).groups[0].pairs
    assert pair.images is None
    assert "not tested across images" in pair.sentence


def test_records_without_objects_compare_as_before(study, tmp_path):
    folder, _ = study
    shutil.copytree(folder, tmp_path / "study")
    for path in (tmp_path / "study").glob("*/objects.json"):
        path.unlink()
    records = [read(path) for path in sorted((tmp_path / "study").iterdir())]
    assert all(record.objects is None for record in records)
    compared = comparison.compare(records)
    assert compared.groups[0].pairs[0].images is None
    assert "photo-" not in page.page(compared)


def changed(content, path, value):
    *places, last = path
    for place in places:
        content = content[place]
    content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("images", 0, "box", "scores"), [], "doesn't hold what a run writes"),
        (("images", 0, "mask", "labels", 0), 2, "doesn't hold what a run writes"),
        (("images", 0, "found", 0, "kind"), "<b>", "doesn't hold what a run writes"),
        (("images", 0, "found", 0, "outlines", 0, 0), "1e999", "doesn't hold what a run writes"),
        (("colors", 0), "red;", "doesn't hold what a run writes"),
        (("images", 0, "box", "scores", 0), int("9" * 400), "too large a number"),
    ],
)
def test_what_no_run_wrote_is_refused(study, tmp_path, path, value, words):
    folder, _ = study
    run = shutil.copytree(folder / "sharp-seed0", tmp_path / "run")
    content = json.loads((run / "objects.json").read_text("utf-8"))
    changed(content, path, value)
    (run / "objects.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(InputError, match=words):
        read(run)


def test_ap_of_other_predictions_is_refused_when_compared(study, tmp_path):
    folder, _ = study
    run = shutil.copytree(folder / "sharp-seed0", tmp_path / "run")
    content = json.loads((run / "objects.json").read_text("utf-8"))
    right = content["images"][0]["box"]["right"]
    right[:] = [0] * len(right)
    (run / "objects.json").write_text(json.dumps(content), "utf-8")
    records = [read(run), read(folder / "dim <b>-seed0")]
    with pytest.raises(InputError, match=r"objects\.json gives 0\.\d+ as test/box_ap"):
        comparison.compare(records)


def test_marks_say_what_was_found(study):
    _, records = study
    record = records[0].objects
    drawn = fake_objects.pictures()
    assert record.names == tuple(truth.name for _, truth in drawn)
    every = record.counted["mask"]
    for index, (known, told) in record.marks.items():
        kinds = [mark.kind for mark in told]
        truth = drawn[index][1]
        counting = [one for one in truth.objects if not one.crowd]
        assert kinds.count("found") + kinds.count("missed") == len(counting)
        assert kinds.count("found") == sum(int(right) & 1 for right in every[index].right)
        assert len(known) == len(truth.objects)
        assert all(mark.outlines for mark in known if mark.kind == "true")
        # The even-odd area of an outline is nearly that of the mask.
        largest = max(range(len(known)), key=lambda i: truth.objects[i].box_area)
        area = sum(_area(outline) for outline in known[largest].outlines)
        of_mask = coco.objects.mask(truth.objects[largest], *fake_objects.SIZE_PX).sum()
        assert area == pytest.approx(of_mask, rel=0.15)


def test_an_outline_has_points_where_it_turns_alone():
    """An L of 60x10 and 10x60 px: six corners, each cut off between two pixels' middles."""
    pixels = np.zeros((80, 90), bool)
    pixels[5:65, 20:30] = pixels[55:65, 20:80] = True
    image = AnnotatedImage("l.png", 80, 90, (of_mask(pixels, 0),))
    nothing = coco.matches(image, (), 1)
    known, _ = object_record.marks(image, (), nothing, True)
    [outline] = known[0].outlines
    assert len(outline) == 2 * 12
    assert _area(outline) == pytest.approx(pixels.sum() - 5 / 8 + 1 / 8)


def _area(outline):
    x, y = np.reshape(outline, (-1, 2)).T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def test_the_page_shows_every_model_on_the_same_photographs(study):
    _, records = study
    made = page.page(comparison.compare(records))
    assert made.count("<image id=") == 4
    assert made.count('<svg class="objects" ') == 4 * (2 + 2)
    assert "dim <b>" not in made
    for words in ("1 missed", "Masks, IoU 0.5", "Boxes: small, under 32² px", "F1 is twice"):
        assert words in made, words
    assert 'id="errors"' not in made
    assert len(re.findall(r'class="false-alarm"', made)) > 4


def test_boxes_alone_have_no_outlines(tmp_path):
    records = fake_objects.write_study(tmp_path / "study", {"one": 1.0}, kinds=("box",))
    made = page.page(comparison.compare(records))
    assert '<svg class="objects" ' in made
    assert '<path d="M' not in made.split("<main>")[1].split("data:image/svg")[0]
    assert object_record.NAME in {path.name for path in records[0].folder.iterdir()}
    assert read_records(tmp_path)[0].objects is not None


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_in_a_browser(study, tmp_path):
    """Photographs lie under the boxes, and nothing is wider than the window."""
    _, records = study
    comparison.write(comparison.compare(records), tmp_path)
    with browser(tmp_path / "browser") as tab:
        tab.size(1280, 900)
        tab.call("Page.navigate", url=(tmp_path / "index.html").absolute().as_uri())
        tab.wait("document.readyState === 'complete' && document.querySelector('.objects rect')")
        shapes = "[...document.querySelectorAll('svg.objects:not(.sample)')]"
        assert tab.run(f"{shapes}.every(s => s.getBoundingClientRect().height > 30)")
        assert tab.run("document.documentElement.scrollWidth <= innerWidth")
        assert not tab.errors
        screenshot = tmp_path / "page.png"
        tab.picture(screenshot)
        with Image.open(screenshot) as picture:
            assert len(picture.convert("RGB").getcolors(2**24)) > 500
