"""The page that a network computes in: what is in it, what a browser makes of it beside JAX, and
what is refused."""

import base64
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image, ImageDraw

import cnn_jax
from cnn_jax.commands import page as command
from cnn_jax.errors import InputError
from cnn_jax.inference import page
from cnn_jax.run import main
from experiments.classify import CONFIGURATIONS
from tests.browser import CHROMIUM, browser
from tests.inference.test_exported_objects import made
from tests.running import ROOT

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPES = ("cross", "line", "ring")


@pytest.fixture(scope="module")
def segmenter(reference):
    """The reference run: a U-Net on the synthetic set, whose windows are 64x64 px."""
    return cnn_jax.load(reference[0])


def shape(name: str, rng: np.random.Generator, side: int = 28) -> Image.Image:
    """A white drawing on black: of a kind, somewhere, of some size."""
    large = 280
    image = Image.new("L", (large, large))
    pen, width = ImageDraw.Draw(image), int(rng.integers(16, 28))
    x, y = rng.integers(110, 170, 2)
    reach = int(rng.integers(60, 90))
    if name == "ring":
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), outline=255, width=width)
    else:
        pen.line((x, y - reach, x, y + reach), fill=255, width=width)
    if name == "cross":
        pen.line((x - reach, y, x + reach, y), fill=255, width=width)
    return image.resize((side, side), Image.Resampling.BOX)


@pytest.fixture(scope="module")
def drawings(made_once):
    """The folder of a classifier of drawn shapes, trained for seconds."""

    def make(folder):
        rng = np.random.default_rng(0)
        for split, count in (("train", 40), ("test", 10)):
            for name in SHAPES:
                place = folder / "data" / split / name
                place.mkdir(parents=True)
                for number in range(count):
                    shape(name, rng).save(place / f"{number:02}.png")
        words = ["--config=smoke", f"--data.directory={folder / 'data'}", "--data.source=folders"]
        words += ["--data.train_examples=0", "--data.validation_share=0", "--training.steps=60"]
        words += ["--training.batch_size=24", "--training.validate_every_steps=30"]
        words += ["--training.log_every_steps=30", "--evaluation.batch_size=30"]
        words += ["--model.widths", "8", "8", "--model.pool_after", "1", "2", "--model.dense", "16"]
        words += ["--model.norm=batch", "--data.mean=auto", "--data.std=auto"]
        words += ["--augmentation.flip_horizontal_probability=0", "--optimizer.learning_rate=0.01"]
        words += ["--workdir", str(folder / "run")]
        assert main("experiments.classify", CONFIGURATIONS, words) == 0

    return made_once("drawings", make)


@pytest.fixture(scope="module")
def classifier(drawings):
    return cnn_jax.load(drawings / "run")


def inside(html: str, name: str) -> str:
    """What a script element of the page holds."""
    return re.search(rf'id="{name}">(.*?)</script>', html, re.DOTALL)[1]


# ---- the file


def test_a_page_says_what_it_asks_for(segmenter, tmp_path):
    html = page.html(segmenter)
    about = json.loads(inside(html, "about"))
    assert about["classes"] == list(segmenter.info.classes)
    assert about["multiple_px"] == 2
    assert about["runtime"]["url"].startswith("https://")
    assert all(found.startswith("sha384-") for found in about["runtime"]["files"].values())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1]
    assert f"connect-src {page.ADDRESS}" in policy
    assert "default-src &#39;none&#39;" in policy
    assert not re.search(r"(src|href)=\"(?!data:)", html)


def test_names_of_classes_stay_text(segmenter):
    info = dataclasses.replace(
        segmenter.info, classes=("</script><b>", *segmenter.info.classes[1:])
    )
    html = page.html(dataclasses.replace(segmenter, info=info))
    assert "</script><b>" not in html
    assert json.loads(inside(html, "about"))["classes"][0] == "</script><b>"


def test_both_languages_say_the_same_things():
    source = (ROOT / "cnn_jax/inference/page/words.js").read_text(encoding="utf-8")
    english, spanish = re.split(r"^  es: \{$", source, flags=re.MULTILINE)
    names = [re.findall(r"\b(\w+): (?:\"|\(|\{)", part) for part in (english, spanish)]
    assert names[0][1:] == names[1]  # the first is `en`
    used = "".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "cnn_jax/inference/page").iterdir()
        if path.name in ("page.js", "teach.js", "page.html.jinja")
    )
    for name in {*re.findall(r'data-text="(\w+)"', used), *re.findall(r"words\.(\w+)", used)}:
        assert name in names[1] or name == "kinds", name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": 4}, "4 channels of uint8"),
        ({"dtype": "uint16"}, "3 channels of uint16"),
        ({"description": {"bands": [4, 3, 2]}}, "takes the bands 4, 3, 2 of its files"),
    ],
)
def test_pictures_that_browsers_dont_have_are_refused(segmenter, changes, words):
    info = dataclasses.replace(segmenter.info, **changes)
    with pytest.raises(InputError, match=words):
        page.html(dataclasses.replace(segmenter, info=info))


def test_what_cant_be_written_is_refused(reference, tmp_path, capsys):
    run, output = str(reference[0]), str(tmp_path / "page.html")
    for flags, words in (
        ([run], "--output is missing"),
        ([run, "--output", output, "--runtime", str(tmp_path)], "npm install"),
        ([run, "--output", output, "--teach"], "--teach is for classifiers"),
    ):
        assert command.main(flags) == 2
        assert words in capsys.readouterr().err
    (tmp_path / "page.html").write_text("mine")
    assert command.main([run, "--output", output]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "page.html").read_text() == "mine"


# ---- in a browser


@pytest.fixture(scope="session")
def runtime(tmp_path_factory):
    """A folder with onnxruntime-web; from npm, unless the environment names one."""
    named = os.environ.get("ONNXRUNTIME_WEB")
    if named:
        return Path(named)
    if shutil.which("npm") is None:
        pytest.skip("npm, which brings onnxruntime-web, isn't installed")
    folder = tmp_path_factory.mktemp("runtime")
    wanted = f"onnxruntime-web@{page.VERSION}"
    done = subprocess.run(
        ["npm", "pack", "--prefer-offline", "--silent", wanted],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    if done.returncode:
        pytest.skip(f"npm can't bring {wanted}: {done.stderr[-200:]}")
    shutil.unpack_archive(next(folder.glob("*.tgz")), folder, "gztar", filter="data")
    return folder


@pytest.fixture
def opened(runtime, tmp_path):
    """Function that opens a run's page, the runtime inside, in a headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("Chromium isn't installed")
    held = []

    def open_page(run, **options):
        path = tmp_path / "page.html"
        path.write_text(page.html(run, runtime=runtime, **options), encoding="utf-8")
        within = browser(tmp_path / "profile")
        held.append(within)
        chromium = within.__enter__()
        chromium.size(1280, 900)
        chromium.open(path)
        return chromium

    yield open_page
    for within in held:
        within.__exit__(None, None, None)


def answered(chromium, path, times=1):
    """(probabilities, that the page has of a picture, as one list)."""
    chromium.choose("#file", path)
    chromium.wait(f"document.body.dataset.answers === '{times}'")
    return np.float32(chromium.run("Array.from(page.state().last.probabilities)"))


def stays_at_home(chromium):
    """Whether nothing was asked for but the page itself and what is within it."""
    return (
        all(url.startswith(("file:", "data:", "blob:")) for url in chromium.requests)
        and not chromium.errors
    )


def choose_layer(chromium, kind, number=0):
    """Opens a layer of a kind and looks at a place in the middle of its first map; returns (the sum
    worked out in the page, the network's own value)."""
    index = chromium.run(
        "page.state().layers.map((layer, index) => [layer.kind, index])"
        f".filter(([kind]) => kind === '{kind}')[{number}][1]"
    )
    chromium.run(f"document.querySelectorAll('#layers button')[{index}].click()")
    chromium.wait(f"document.body.dataset.layer === '{index}'")
    chromium.run("document.querySelector('#maps button').click()")
    if not chromium.run("document.getElementById('closer').hidden"):
        chromium.run("document.getElementById('channel').focus()")
        for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
            chromium.press(key)
    found = chromium.run("({...document.getElementById('sum').dataset})")
    return float(found.get("sum", "nan")), float(found["value"])


@pytest.mark.browser
def test_a_segmenter_in_the_browser_gives_what_jax_does(segmenter, opened, tmp_path):
    chromium = opened(segmenter)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (51, 38, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    found = answered(chromium, tmp_path / "image.png").reshape(52, 38, -1)[:51]
    padded = np.concatenate([image, image[-1:]])  # mirrored to what the network's halving divides
    logits = segmenter.model.apply(
        segmenter.variables, segmenter.normalize(padded[None]), train=False
    )
    expected = np.asarray(jax.nn.softmax(logits))[0, :51]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    shown = chromium.run(
        "(() => { const c = document.getElementById('map');"
        " return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data); })()"
    )
    colors = np.array(segmenter.info.colors)[expected.argmax(-1)]
    near = np.abs(np.sort(expected)[..., -1] - np.sort(expected)[..., -2]) < 1e-4
    differs = (np.array(shown).reshape(51, 38, 4)[..., :3] != colors).any(-1)
    assert not (differs & ~near).any()

    for kind, number in (("Conv", 0), ("Conv", 3), ("Conv", -1)):
        if number < 0:  # the head, whose bias counts
            number = chromium.run("page.state().layers.filter((l) => l.kind === 'Conv').length - 1")
        worked_out, held = choose_layer(chromium, kind, number)
        assert worked_out == pytest.approx(held, abs=1e-4)
        assert held != 0
    assert stays_at_home(chromium)


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["centernet", "fcos", "instances"])
def test_objects_in_the_browser_are_those_that_predict_finds(kind, opened, tmp_path):
    """A picture as large as the network takes, and one whose edges are repeated."""
    run = made(kind)
    run = dataclasses.replace(run, info=dataclasses.replace(run.info, source="coco"))
    if kind == "centernet":  # whose boxes are else hundreds of px large, or turned inside out
        for head, value in (("size_head", 9.0), ("offset_head", 0.25)):
            layer = run.variables["params"][head]
            layer |= {"kernel": 1e-3 * layer["kernel"], "bias": 0 * layer["bias"] + value}
    settings = run.config.evaluation
    settings.window_px, settings.least_score = (96, 96), 0.0
    chromium = opened(run)
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(image[:50, :70]).save(tmp_path / "small.png")
    chromium.run("(() => { least.min = '0'; least.value = '0'; })()")
    cells = answered(chromium, tmp_path / "image.png")
    assert len(cells)
    found, expected = chromium.run("page.found().found"), run.predict(image).objects
    assert len(expected) > 2
    for ours in expected[:5]:
        alike = pytest.approx([ours.label, ours.score, *ours.box], abs=1e-2)
        assert any([one["label"], one["score"], *one["box"]] == alike for one in found)
    said = chromium.run(
        "Array.from(document.querySelectorAll('#classes li'), (li) => li.innerText)"
    )
    assert sum(int(text.split()[1]) for text in said) == len(found)

    answered(chromium, tmp_path / "small.png", 2)
    found = chromium.run("page.found().found")
    assert len(found)
    boxes = np.array([one["box"] for one in found])
    assert boxes.min() >= 0
    assert boxes[:, [0, 2]].max() <= 70
    assert boxes[:, [1, 3]].max() <= 50
    if kind == "instances":  # both repeat the edges up to 64 x 96 px
        ours = run.predict(image[:50, :70]).objects[0]
        alike = pytest.approx([ours.label, ours.score, *ours.box], abs=1e-2)
        assert any([one["label"], one["score"], *one["box"]] == alike for one in found)
    chromium.run("(() => { least.value = '0.95'; least.dispatchEvent(new Event('input')); })()")
    assert all(one["score"] >= 0.95 for one in chromium.run("page.found().found"))
    chromium.run("document.getElementById('spanish').click()")
    assert "Puntuación" in chromium.run("document.getElementById('least-line').innerText")
    assert stays_at_home(chromium)


@pytest.mark.browser
def test_a_classifier_in_the_browser_reads_files_and_drawings(
    classifier, drawings, opened, tmp_path
):
    chromium = opened(classifier)
    exact = drawings / "data" / "test" / "ring" / "00.png"
    rng = np.random.default_rng(7)
    other = tmp_path / "other size.png"
    colored = np.stack([np.asarray(shape("line", rng, 90))] * 3, -1) // np.uint8([1, 2, 3])
    Image.fromarray(colored[10:80]).save(other)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for times, path in enumerate((exact, other), 1):
        found = answered(chromium, path, times)
        expected = classifier.predict(path)
        np.testing.assert_allclose(found, expected.probabilities, rtol=0, atol=1e-4)
        first = chromium.run("document.querySelector('#classes .name').textContent")
        assert first == expected.top(1)[0][0]

    chromium.choose("#file", tmp_path / "broken.png")
    chromium.wait("document.getElementById('status').textContent.includes('broken.png')")

    chromium.run("document.getElementById('pencil').click()")
    box = chromium.run("(({left, top}) => [left, top])(board.getBoundingClientRect())")
    spots = [(140 + 70 * np.cos(t), 140 + 70 * np.sin(t)) for t in np.linspace(0, 2 * np.pi, 30)]
    chromium.drag(*((box[0] + x, box[1] + y) for x, y in spots))
    chromium.wait("document.body.dataset.answers === '3'")
    assert chromium.run("document.querySelector('#classes .name').textContent") == "ring"

    for kind, number in (("Conv", 0), ("Conv", 1), ("MatMul", 0), ("MatMul", 1)):
        worked_out, held = choose_layer(chromium, kind, number)
        assert worked_out == pytest.approx(held, abs=1e-4)
    worked_out, held = choose_layer(chromium, "Norm")
    assert worked_out == pytest.approx(held, abs=1e-4)
    for kind in ("MaxPool", "Relu"):
        choose_layer(chromium, kind)

    chromium.run("document.getElementById('spanish').click()")
    assert chromium.run("document.documentElement.lang") == "es"
    assert "capa" in chromium.run("document.getElementById('inside').innerText")
    assert stays_at_home(chromium)


@pytest.mark.browser
def test_classes_are_taught_and_the_result_is_a_run(classifier, opened, tmp_path):
    chromium = opened(classifier, teach=True)
    rng = np.random.default_rng(3)
    before = tmp_path / "before.png"
    shape("cross", rng).save(before)
    answered(chromium, before)
    assert chromium.run("document.querySelector('#classes .name').textContent") == "cross"
    names = ("añil", "ring", "line")
    for number, (name, kind) in enumerate(zip(names, ("cross", "ring", "line"), strict=True)):
        if number == 2:
            chromium.run("document.getElementById('add-class').click()")
        paths = []
        for index in range(8):
            paths.append(tmp_path / f"{number}-{index}.png")
            shape(kind, rng).save(paths[-1])
        entry = f"#own-classes .taught:nth-child({number + 1})"
        chromium.run(
            f"(() => {{ const input = document.querySelector('{entry} input[type=text]');"
            f" input.value = {json.dumps(name)}; input.dispatchEvent(new Event('input')); }})()"
        )
        chromium.choose(f"{entry} input[type=file]", *paths)
        chromium.wait(f"document.querySelector('{entry} [data-count]').dataset.count === '8'")
    chromium.run("document.getElementById('train').click()")
    chromium.wait("document.getElementById('teach-result').dataset.right")
    right, total = map(
        int, chromium.run("document.getElementById('teach-result').dataset.right").split("/")
    )
    assert total == 6
    assert right >= 5

    data = chromium.run(
        "teaching.folder().then((files) => { const made = teaching.zip(files, 'taught');"
        " let text = ''; for (const byte of made) text += String.fromCharCode(byte);"
        " return btoa(text); })"
    )
    zipfile.ZipFile(io.BytesIO(base64.b64decode(data))).extractall(tmp_path)
    taught = cnn_jax.load(tmp_path / "taught")
    assert taught.info.classes == names
    assert taught.summary["test/accuracy"] == right / total
    picture = tmp_path / "1-0.png"
    answered(chromium, picture, 3)  # the second time by itself, when training was done
    shown = chromium.run("Array.from(page.state().last.taught)")
    np.testing.assert_allclose(shown, taught.predict(picture).probabilities, rtol=0, atol=1e-4)
    assert chromium.run("document.querySelector('#classes .name').textContent") == "ring"
    assert stays_at_home(chromium)


@pytest.mark.browser
def test_a_browser_without_webassembly_or_camera_says_so(segmenter, opened, tmp_path):
    chromium = opened(segmenter)
    chromium.run("document.getElementById('camera').click()")
    chromium.wait("document.getElementById('status').textContent.includes('no camera')")
    chromium.call("Page.addScriptToEvaluateOnNewDocument", source="delete globalThis.WebAssembly;")
    chromium.call("Page.reload")
    chromium.wait("document.getElementById('status')?.textContent.includes('no WebAssembly')")
    chromium.size(360, 700)
    assert chromium.run("document.documentElement.scrollWidth") <= 360


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium isn't installed")
def test_a_page_that_cant_load_its_runtime_says_so(segmenter, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page.html(segmenter), encoding="utf-8")
    with browser(tmp_path / "profile") as chromium:
        nothing = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        chromium.call("Network.emulateNetworkConditions", offline=True, **nothing)
        chromium.call("Page.navigate", url=path.as_uri())
        told = chromium.run(
            "new Promise(done => { const look = setInterval(() => { if (document.body?.dataset"
            ".failed) { clearInterval(look); done(document.getElementById('status').textContent);"
            " } }, 20); })"
        )
    assert re.match(rf"{re.escape(page.ADDRESS)}\S+ could not be loaded: .*--runtime", told)
