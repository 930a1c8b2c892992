"""The page needs nothing but itself, is sound HTML, and shows what the records hold."""

import base64
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from cnn_jax.errors import InputError
from cnn_jax.evaluation import metrics
from cnn_jax.reporting import page
from cnn_jax.reporting.comparison import compare
from cnn_jax.reporting.page import page as page_of
from tests.reporting.fake_records import CLASSES, write_run, write_study

VOID = {"meta", "img", "br", "input", "wbr"}


class Reader(HTMLParser):
    """Elements in order with their attributes, text by element; refuses tags that don't nest, and
    ids that stand twice."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        assert self.open == []
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(
        tmp_path_factory.mktemp("page") / "study",
        {"unet": 0.5, 'a<b> & "c"\'d': 0.9},
        seeds=(0, 1),
        scenes=3,
    )


@pytest.fixture(scope="module")
def made(study):
    text = page_of(compare(study))
    return text, Reader(text)


def test_nothing_is_fetched(made):
    text, reader = made
    assert not reader.all("link")
    assert not any("src" in script for script in reader.all("script"))
    sources = [image["src"] for image in reader.all("img")]
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert not any(
        attribute in element
        for _, element in reader.elements
        for attribute in ("href", "srcset", "onclick", "action")
    )


def test_names_are_escaped_and_all_images_are_described(made):
    text, reader = made
    assert "<b> &" not in text
    assert 'a<b> & "c"\'d' in reader.text
    assert all(image["alt"] for image in reader.all("img"))
    assert reader.elements[0] == ("html", {"lang": "en"})


def test_charts_are_sound_svg(made):
    charts = [
        image["src"] for image in made[1].all("img") if image["src"].startswith("data:image/svg")
    ]
    assert (
        len(charts) == 2 + 4 + len(CLASSES) + 2
    )  # curves, costs, classes, reliability of each variant
    for chart in charts:
        root = ElementTree.fromstring(unquote(chart.partition(",")[2]))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert not [
            node
            for node in root.iter()
            for key, value in node.attrib.items()
            if key.endswith("href") and not value.startswith("#")
        ]


def test_scenes_stand_worst_first_with_the_first_seeds_scores(made, study):
    text, _ = made
    first = {record.config["variant"]: record for record in study if record.config["seed"] == 0}
    scores = {
        name: [
            metrics.miou(np.array(scene["confusion"]))
            for scene in json.loads((record.folder / "scenes.json").read_text())["scenes"]
        ]
        for name, record in first.items()
    }
    means = np.mean(list(scores.values()), axis=0)
    shown = re.findall(
        r'<h3>(?:<span class="kind">[^<]*</span> )?tile 8, part (\d)'
        r" <small>mean mIoU ([\d.]+)</small>",
        text,
    )
    worst, middle, best = np.argsort(means)  # the first view has both ends
    assert shown == [(str(i + 1), f"{means[i]:.3f}") for i in (worst, best, middle)]
    worst = text[text.index('class="scene"') :]
    worst = worst[: worst.index("</article>")]
    assert re.findall(r"<b>([\d.]+)</b>", worst) == [
        f"{scores[name][means.argmin()]:.3f}" for name in ("unet", 'a<b> & "c"\'d')
    ]
    pictures = re.findall(r'src="data:image/(png|jpeg);base64,([^"]+)"', worst)
    assert [kind for kind, _ in pictures] == ["jpeg", "png", "png", "png"]
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(pictures[2][1]))))
    assert np.array_equal(
        shown,
        np.array(
            Image.open(first["unet"].folder / "scenes" / f"{means.argmin():03d}-prediction.png")
        ),
    )


def test_confusions_are_shares_of_truth(made, study):
    matrix = sum(
        np.array(record.summary["test/confusion"])
        for record in study
        if record.config["variant"] == "unet"
    )
    share = 100 * matrix[2, 2] / matrix[2].sum()
    assert f'style="--share:{share:.0f}%">{share:.1f}</td>' in made[0]


def test_tables_sort_by_keyboard_and_number(made):
    text, _ = made
    heads = re.findall(r"<table class=\"sortable\"><thead><tr>(.*?)</tr>", text)
    assert len(heads) == 3  # scores, costs, pairs
    assert all(head.count("<th ") == head.count('<button type="button">') for head in heads)
    assert 'data-key="400000.0">400,000</td>' in text
    assert 'data-key="">\N{EN DASH}</td>' in text  # no memory is known of one variant
    assert 'setAttribute("aria-sort"' in text


def test_pictures_shrink_until_they_fit(study, made, monkeypatch):
    monkeypatch.setattr(page, "_PICTURE_BYTES", 1500)
    reader = Reader(page_of(compare(study)))
    pictures = [
        image["src"] for image in reader.all("img") if not image["src"].startswith("data:image/svg")
    ]
    whole = [
        image["src"]
        for image in made[1].all("img")
        if not image["src"].startswith("data:image/svg")
    ]
    assert len(pictures) == len(whole)
    size = Image.open(io.BytesIO(base64.b64decode(pictures[1].partition(",")[2]))).size
    assert max(size) < 36


def test_what_was_forced_is_marked(tmp_path):
    one = write_run(tmp_path / "study" / "one", "one", 0, {"test/miou": 0.2})
    odd = write_run(
        tmp_path / "study" / "odd",
        "odd",
        0,
        {"test/miou": 0.1},
        environment={"data_fingerprint": "<other>"},
    )
    text = page_of(compare([one, odd], force=True))
    mark = text[text.index('class="mark"') : text.index("</aside>")]
    assert "Not comparable" in mark
    assert "&lt;other&gt;" in mark
    assert "odd †" in text
    assert text.index('class="mark"') < text.index("At a glance")


def test_old_records_without_scenes_calibration_or_lines_make_a_page(tmp_path):
    records = [
        write_run(tmp_path / "study" / f"a{seed}", "a", seed, {"test/miou": 0.5 + 0.01 * seed})
        for seed in (0, 1)
    ]
    text = page_of(compare(records))
    Reader(text)
    assert "Calibration" not in text
    assert "Learning curves" not in text
    assert "0.505 <small>± 0.007</small>" in text


def test_a_damaged_picture_is_named(tmp_path):
    path = tmp_path / "000-truth.png"
    path.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"000-truth\.png is no picture"):
        page._checked(path)


def test_pictures_that_are_missing_are_named_and_the_others_shown(tmp_path):
    records = write_study(tmp_path / "study", {"unet": 0.5, "fcn": 0.9}, seeds=(0,), scenes=3)
    for record in records:
        (record.folder / "scenes" / "001-truth.png").unlink()
    for index in range(3):
        (records[1].folder / "scenes" / f"{index:03d}-prediction.png").unlink()
    text = page_of(compare(records))
    Reader(text)
    assert "fcn-seed0/scenes: 000-prediction.png and 2 more" in text
    assert "unet-seed0/scenes: 001-truth.png" in text
    assert text.count("no picture") == 4
    assert str(tmp_path) not in text
    for record in records:
        shutil.rmtree(record.folder / "scenes")
    text = page_of(compare(records))
    assert "unet-seed0/scenes: 000-image.jpg and 8 more" in text
    assert 'class="scene"' not in text


def test_errors_have_a_colour_that_no_class_has(made):
    assert 'data-error-color="#00FFFF"' in made[0], "water is as orange as errors otherwise are"
