"""Formats of annotations: what goes out comes back, pixel by pixel, or is told of as lost."""

import base64
import io
import json
import shutil
import tracemalloc
import unicodedata
import warnings
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from cnn_jax.configuration.schema import ObjectDataConfig
from cnn_jax.data import annotations, objects
from cnn_jax.data.annotations import FORMATS, coco
from cnn_jax.data.object_scenes import open_objects
from cnn_jax.data.objects import AnnotatedImage, Annotation, AnnotationSet
from cnn_jax.errors import InputError
from cnn_jax.evaluation.coco import coco_figures

HEIGHT, WIDTH = 37, 53


def ring_and_dot():
    """A mask with a hole, an island in it, a part apart, and one that touches by a corner."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:20, 4:22] = True
    mask[7:16, 8:18] = False
    mask[10:12, 12:14] = True
    mask[20:24, 22:25] = True
    mask[30:, 45:] = True
    return mask


def noise(seed, share=0.5):
    return np.random.default_rng(seed).random((HEIGHT, WIDTH)) < share


def example(name="a.png", crowd=True):
    """Objects of every kind in one image, and another without any."""
    box = Annotation(1, (1.25, 2.0, 7.5, 9.75))
    triangle = np.array([[30.5, 4.25], [44.0, 9.0], [33.0, 21.5]])
    drawn = Annotation(1, objects.polygons_box((triangle,)), (triangle,), score=0.75)
    group = [objects.of_mask(noise(3, 0.1), 0, crowd=True)] if crowd else []
    every = (objects.of_mask(ring_and_dot(), 0, score=0.5), box, drawn, *group)
    images = (
        AnnotatedImage(name, HEIGHT, WIDTH, every),
        AnnotatedImage("sub/ü b.png", HEIGHT, WIDTH),
    )
    return AnnotationSet(("cat", "dog"), images)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for image in example().images:
        path = folder / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(path)
    return folder


def masks(found):
    return [
        [
            (
                *(found.classes[one.label], one.crowd, one.score),
                objects.mask(one, image.height_px, image.width_px).tobytes(),
            )
            for one in image.objects
        ]
        for image in found.images
    ]


# pycocotools' array has no `copy` of NumPy 2.
OLD = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@OLD
@pytest.mark.parametrize("mask", [ring_and_dot(), *(noise(i, i / 8) for i in range(9))])
def test_masks_become_polygons_and_masks_again(mask):
    from pycocotools import mask as reference

    one = Annotation(0, (0, 0, WIDTH, HEIGHT), objects.polygons(mask))
    if mask.any():
        np.testing.assert_array_equal(objects.mask(one, HEIGHT, WIDTH), mask)
        flat = [polygon.ravel().tolist() for polygon in one.shape]
        theirs = reference.merge(reference.frPyObjects(flat, HEIGHT, WIDTH))
        np.testing.assert_array_equal(reference.decode(theirs), mask)
    else:
        assert one.shape == ()
    runs = objects.runs(mask)
    assert reference.decode({"size": [HEIGHT, WIDTH], "counts": runs}).tobytes() == mask.tobytes()
    counts = objects.counts_of_runs(runs)
    assert objects.runs_of_counts(counts, HEIGHT, WIDTH) == runs
    assert sum(counts) == mask.size
    assert sum(counts[1::2]) == mask.sum()


@pytest.mark.parametrize("name", ["coco", "labelme", "via", "cvat", "geojson"])
def test_formats_that_hold_everything(tmp_path, images, name):
    lost = annotations.write(example(), name, tmp_path / "out")
    assert lost == []
    found = annotations.read(name, tmp_path / "out", images)
    assert found.classes == ("cat", "dog")
    assert [image.name for image in found.images] == ["a.png", "sub/ü b.png"]
    assert masks(found) == masks(example())
    assert found.images[0].objects[1] == replace(
        example().images[0].objects[1], id=found.images[0].objects[1].id
    )
    np.testing.assert_array_equal(
        found.images[0].objects[2].shape[0], example().images[0].objects[2].shape[0]
    )


@pytest.mark.parametrize("name", ["coco", "labelme", "via", "cvat", "geojson", "yolo_polygons"])
def test_a_part_without_area_is_left_out(tmp_path, images, name):
    """COCO's files have such; formats of a line or shape a part would refuse it when read."""
    triangle = np.array([[30.5, 4.25], [44.0, 9.0], [33.0, 21.5]])
    line, dot = np.array([[1.0, 1], [5, 5], [9, 9]]), np.full((4, 2), 7.0)
    box = objects.polygons_box((triangle, line))
    image = replace(example().images[0], objects=(Annotation(0, box, (line, triangle, dot)),))
    path = tmp_path / "out"
    annotations.write(AnnotationSet(("cat",), (image,)), name, path, images)
    read = annotations.read(name.removesuffix("_polygons"), path, images, ("cat",))
    [one] = next(of.objects for of in read.images if of.name == image.name)
    truth = objects.mask(replace(one, shape=(triangle,)), HEIGHT, WIDTH)
    np.testing.assert_array_equal(objects.mask(one, HEIGHT, WIDTH), truth)


def test_yolo_polygons_bridge_parts_and_lose_crowds(tmp_path, images):
    lost = annotations.write(example(), "yolo_polygons", tmp_path / "out")
    assert lost == ["1 objects: crowds become ordinary objects"]
    found = annotations.read("yolo", tmp_path / "out", images)
    plain = example()
    objs = [replace(one, crowd=False) for one in plain.images[0].objects]
    plain = replace(plain, images=(replace(plain.images[0], objects=tuple(objs)), plain.images[1]))
    assert masks(found) == masks(plain)


def test_parts_that_overlap_are_whole_in_yolo(tmp_path, images):
    """What lies in both parts is the object's, as COCO has it, and no hole."""
    wanted = np.zeros((HEIGHT, WIDTH), bool)
    wanted[4:14, 5:20] = True
    wanted[10:24, 12:33] = True
    parts = [[5, 4], [20, 4], [20, 14], [5, 14]], [[12, 10], [33, 10], [33, 24], [12, 24]]
    one = Annotation(0, (5, 4, 33, 24), tuple(np.array(part, float) for part in parts))
    given = AnnotationSet(("cat",), (AnnotatedImage("a.png", HEIGHT, WIDTH, (one,)),))
    annotations.write(given, "yolo_polygons", tmp_path / "out")
    [found] = annotations.read("yolo", tmp_path / "out", images).images[0].objects
    np.testing.assert_array_equal(objects.mask(found, HEIGHT, WIDTH), wanted)


def test_yolo_boxes(tmp_path, images):
    lost = annotations.write(example(), "yolo", tmp_path / "out")
    assert lost == [
        "3 objects: masks become boxes",
        "1 objects: crowds become ordinary objects",
    ]
    found = annotations.read("yolo", tmp_path / "out", images)
    wanted = [one.box for one in example().images[0].objects]
    np.testing.assert_allclose([one.box for one in found.images[0].objects], wanted, atol=1e-5)


def test_voc_counts_pixels_from_one(tmp_path, images):
    lost = annotations.write(example(), "voc", tmp_path / "out")
    assert "2 objects: corners are rounded to whole pixels" in lost
    text = (tmp_path / "out" / "Annotations" / "a.xml").read_text()
    assert "<xmin>5</xmin>" in text
    assert "<xmax>53</xmax>" in text
    found = annotations.read("voc", tmp_path / "out", images)
    assert found.images[0].objects[0].box == example().images[0].objects[0].box
    assert [one.crowd for one in found.images[0].objects] == [False, False, False, True]


def test_blanks_about_a_class_make_no_other_class(tmp_path, images):
    """As they are typed in LabelMe; a class of nothing else is none."""
    annotations.write(example(), "labelme", tmp_path / "out")
    file = tmp_path / "out/a.json"
    content = json.loads(file.read_text())
    labels = [shape["label"] for shape in content["shapes"]]
    whole = annotations.read("labelme", tmp_path / "out")
    for shape, blank in zip(content["shapes"], (" ", "\t", "", "\u00a0"), strict=False):
        shape["label"] = f"{blank}{shape['label']}{blank}"
    file.write_text(json.dumps(content))
    found = annotations.read("labelme", tmp_path / "out")
    assert (found.classes, masks(found)) == (whole.classes, masks(whole))
    assert annotations.read("labelme", tmp_path / "out", classes=[f" {n} " for n in found.classes])
    for shape, label in zip(content["shapes"], labels, strict=True):
        shape["label"] = label
    content["shapes"][0]["label"] = " "
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="shape 0 has no class: name it"):
        annotations.read("labelme", tmp_path / "out")


@pytest.mark.parametrize("size", ["<size><width>0</width><height>0</height></size>", ""])
def test_a_voc_file_without_a_size_has_that_of_its_image(size, tmp_path, images):
    """As some programs leave it; without the image it stays unknown."""
    annotations.write(example(), "voc", tmp_path / "out")
    expected = annotations.read("voc", tmp_path / "out", images)
    file = tmp_path / "out/Annotations/a.xml"
    text = file.read_text()
    before, after = text.index("<size>"), text.index("</size>") + len("</size>")
    file.write_text(text[:before] + size + text[after:])
    assert annotations.read("voc", tmp_path / "out", images) == expected
    with pytest.raises(InputError, match="no size with height and width"):
        annotations.read("voc", tmp_path / "out")


@pytest.mark.parametrize("folder", ["set", "set/Annotations"])
def test_folders_of_voc_are_those_of_the_images(tmp_path, folder):
    """Its files name no folder themselves, as labelImg writes them."""
    annotations.write(example("zona/a.png"), "voc", tmp_path / "set")
    path = tmp_path / "set" / "Annotations" / "zona" / "a.xml"
    path.write_text(path.read_text().replace("zona/a.png", "a.png"))
    found = annotations.read("voc", tmp_path / folder)
    assert {image.name for image in found.images} == {"zona/a.png", "sub/ü b.png"}


def test_a_voc_object_without_a_name_is_told_of(tmp_path, images):
    annotations.write(example(), "voc", tmp_path / "out")
    path = tmp_path / "out" / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<name>dog</name>", "<name> </name>", 1))
    said = []
    found = annotations.read("voc", tmp_path / "out", images, report=said.append)
    assert len(said) == 1
    assert "has no class: name it" in said[0]
    assert "" not in found.classes
    with pytest.raises(InputError, match="has no class"):
        annotations.read("voc", tmp_path / "out", images)


def png(*shape):
    file = io.BytesIO()
    Image.fromarray(np.ones(shape, np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"mask": png(4, 4, 4)}, (3, 1, 7, 5)),
        ({"points": [[-3, 1], [0, 4]]}, (0, 1, 1, 5)),
        ({"points": [["nan", 1], [0, 4]]}, "a mask that is no PNG, or lies at no numbers"),
        ({"group_id": [1]}, (3, 1, 7, 5)),
        # Four corners with a height each hold as many numbers as six without.
        (
            {"shape_type": "polygon", "points": [[3, 1, 9], [7, 1, 9], [7, 5, 9], [3, 5, 9]]},
            "shape 0 has points that are no pairs of numbers",
        ),
    ],
)
def test_labelme_of_odd_kinds(tmp_path, changes, found):
    shape = {"label": "a", "shape_type": "mask", "points": [[3, 1], [6, 4]], "mask": png(4, 4)}
    about = {"imagePath": "a.png", "imageHeight": HEIGHT, "imageWidth": WIDTH}
    (tmp_path / "a.json").write_text(json.dumps({**about, "shapes": [shape | changes]}))
    if isinstance(found, str):
        with pytest.raises(InputError, match=found):
            annotations.read("labelme", tmp_path / "a.json")
    else:
        [one] = annotations.read("labelme", tmp_path / "a.json").images[0].objects
        assert one.box == found


@pytest.mark.parametrize(
    "name", [name for name in FORMATS if "classes" in FORMATS[name] and "palette" not in name]
)
def test_classes_without_objects_come_back_or_are_told(tmp_path, images, name):
    given = replace(example(crowd=False), classes=("cat", "dog", "zebra"))
    lost = annotations.write(given, name, tmp_path / "out", images)
    told = "1 classes without objects: give all anew with --classes"
    read = annotations.read(name.removesuffix("_polygons"), tmp_path / "out", images)
    assert (told in lost) == ("zebra" not in read.classes)
    read = annotations.read(name.removesuffix("_polygons"), tmp_path / "out", images, given.classes)
    assert read.classes == given.classes


@pytest.mark.parametrize(
    "name", [name for name in FORMATS if "classes" in FORMATS[name] and "palette" not in name]
)
def test_classes_are_the_same_however_their_letters_are_composed(tmp_path, images, name):
    found = replace(example(crowd=False), classes=("niño", "árbol"))
    for form in ("NFC", "NFD"):
        there = tuple(unicodedata.normalize(form, of) for of in found.classes)
        annotations.write(replace(found, classes=there), name, tmp_path / form, images)
        for given in ((), there, found.classes):
            read = annotations.read(name, tmp_path / form, images, given)
            assert read.classes == found.classes
            assert sorted(one.label for one in read.images[0].objects) == [0, 1, 1]


@pytest.mark.parametrize("kind", ["oriented_rectangle", "rotation"])
def test_turned_rectangles_of_labelme_are_read(tmp_path, kind):
    corners = [[10, 2], [18, 10], [12, 16], [4, 8]]
    shape = {"label": "a", "shape_type": kind, "points": corners, "direction": 0.785}
    about = {"imagePath": "a.png", "imageHeight": HEIGHT, "imageWidth": WIDTH}
    (tmp_path / "a.json").write_text(json.dumps({**about, "shapes": [shape]}))
    [image] = annotations.read("labelme", tmp_path / "a.json").images
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    expected = (abs(x - y - 2) < 6) & (x + y > 12) & (x + y < 28)
    clear = np.minimum.reduce([abs(abs(x - y - 2) - 6), abs(x + y - 12), abs(x + y - 28)]) > 1
    found = objects.mask(image.objects[0], HEIGHT, WIDTH)
    np.testing.assert_array_equal(found[clear], expected[clear])


def claiming(side):
    """By format: the name of a file, and its text, which says that an image is so wide and high;
    with a mask of 3 x 2 px where it can hold one."""
    coco = {"images": [{"id": 1, "file_name": "a.png", "height": side, "width": side}]}
    coco |= {"annotations": [], "categories": [{"id": 1, "name": "a"}]}
    shape = {"label": "a", "shape_type": "mask", "points": [[9, 5], [11, 6]], "mask": png(2, 3)}
    labelme = {"imagePath": "a.png", "imageHeight": side, "imageWidth": side, "shapes": [shape]}
    mask = '<mask label="a" rle="0,6" left="9" top="5" width="3" height="2"/>'
    cvat = f'<image name="a.png" width="{side}" height="{side}">{mask}</image>'
    size = f"<filename>a.png</filename><size><width>{side}</width><height>{side}</height></size>"
    return {
        "coco": ("a.json", json.dumps(coco)),
        "labelme": ("a.json", json.dumps(labelme)),
        "cvat": ("a.xml", f"<annotations>{cvat}</annotations>"),
        "voc": ("a.xml", f"<annotation>{size}</annotation>"),
    }


@pytest.mark.parametrize("name", ["coco", "labelme", "cvat", "voc"])
def test_a_size_that_cannot_be_is_told(tmp_path, name):
    file, text = claiming(10**9)[name]
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=rf"{file}.*1000000000 x 1000000000 px, over the limit"):
        annotations.read(name, tmp_path / file)


@pytest.mark.parametrize("name", ["labelme", "cvat"])
def test_masks_in_images_too_large_to_hold(tmp_path, name):
    file, text = claiming(60_000)[name]
    (tmp_path / file).write_text(text)
    found = annotations.read(name, tmp_path / file)
    [image] = found.images
    [one] = image.objects
    assert one.box == (9, 5, 12, 7)
    pycocotools = pytest.importorskip("pycocotools.mask")
    run_lengths = objects.rle(one, image.height_px, image.width_px)
    assert pycocotools.toBbox(run_lengths).tolist() == [9, 5, 3, 2]
    assert pycocotools.area(run_lengths) == 6
    for dense in ("index_masks", "palette_masks"):
        with pytest.raises(
            InputError, match=r"a\.png is of 60000 x 60000 px, over the limit of 536"
        ):
            annotations.write(found, dense, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("element", "sentence"),
    [
        (f'mask rle="{10**30}" width="2" height="2"', "no whole numbers as rle"),
        ('mask rle="0,1" width="-1" height="-1"', "reaches beyond its image"),
        (f'mask rle="0{f",{2**62}" * 4},4" width="2" height="2"', "add up to 18,446,744"),
        ('polygon points="1,2,3;4,5,6;7,8,9;1,1,1"', "points that are no pairs"),
    ],
)
def test_cvat_of_odd_kinds(tmp_path, element, sentence):
    text = f'<image name="a.png" width="53" height="37"><{element} label="a" left="1" top="1"/>'
    (tmp_path / "a.xml").write_text(f"<annotations>{text}</image></annotations>")
    with pytest.raises(InputError, match=sentence):
        annotations.read("cvat", tmp_path / "a.xml")


def test_cvat_of_a_video_is_refused(tmp_path):
    (tmp_path / "a.xml").write_text('<annotations><track id="0" label="car"/></annotations>')
    with pytest.raises(InputError, match=r"has tracks of a video.*as CVAT for images"):
        annotations.read("cvat", tmp_path / "a.xml")


@pytest.mark.parametrize("name", ["cvat", "via"])
def test_what_is_turned_is_read_so(tmp_path, images, name):
    """A box by degrees, an ellipse by radians, both clockwise."""
    if name == "cvat":
        turned = '<box label="a" xtl="10" ytl="12" xbr="40" ybr="24" rotation="30"/>'
        text = f'<image name="a.png" width="{WIDTH}" height="{HEIGHT}">{turned}</image>'
        text = f"<annotations>{text}</annotations>"
    else:
        ellipse = {"name": "ellipse", "cx": 25, "cy": 18, "rx": 15, "ry": 6, "theta": np.pi / 6}
        region = {"shape_attributes": ellipse, "region_attributes": {"class": "a"}}
        text = json.dumps({"a": {"filename": "a.png", "regions": [region]}})
    (tmp_path / "file").write_text(text)
    [one] = annotations.read(name, tmp_path / "file", images).images[0].objects
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    along, across = (x - 25) * cos + (y - 18) * sin, (y - 18) * cos - (x - 25) * sin
    if name == "cvat":
        expected = (abs(along) < 15) & (abs(across) < 6)
    else:
        expected = (along / 15) ** 2 + (across / 6) ** 2 < 1
    differ = objects.mask(one, HEIGHT, WIDTH) != expected
    assert differ.sum() <= 0.02 * expected.sum()


@pytest.mark.parametrize("said", [1, "1", True, 0, "0", False, None, "false"])
def test_what_coco_calls_a_crowd(tmp_path, said):
    content = coco.content(example(crowd=False))
    for one in content["annotations"]:
        one["iscrowd"] = said
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = annotations.read("coco", tmp_path / "a.json")
    assert {one.crowd for one in found.images[0].objects} == {said in (1, "1")}


@pytest.mark.parametrize(
    ("said", "crowd"),
    [("1", True), (" True ", True), ("0", False), ("False", False), ("Unspecified", False)],
)
def test_what_voc_calls_difficult(tmp_path, images, said, crowd):
    annotations.write(example(crowd=False), "voc", tmp_path / "out")
    path = tmp_path / "out" / "Annotations" / "a.xml"
    text = path.read_text().replace("<difficult>0<", f"<difficult>{said}<")
    path.write_text(text)
    found = annotations.read("voc", tmp_path / "out", images)
    assert {one.crowd for one in found.images[0].objects} == {crowd}


@pytest.mark.parametrize(
    ("regions", "told"),
    [
        (None, "no list of regions"),
        (5, "no list of regions"),
        ([{"region_attributes": {"class": None}}], "has no class: name it"),
        ([{"region_attributes": {"class": "a", "object": {"x": True}}}], ""),
        ([{"region_attributes": {"type": {"b": False, "a": True}}}], ""),
        ([{"region_attributes": {"type": {"b": True, "a": True}}}], "has no class: name it"),
        ([{"region_attributes": {"especie": {"b": False, "a": True}}}], ""),
        ([{"region_attributes": {"especie": {"b": True, "a": True}}}], "has no class: name it"),
        ([{"region_attributes": {"especie": None}}], "has no class: name it"),
        ([{"region_attributes": {"kind": "a", "colour": "red"}}], "has no class: name it"),
    ],
)
def test_via_of_odd_kinds(tmp_path, images, regions, told):
    for one in regions if isinstance(regions, list) else ():
        one["shape_attributes"] = {"name": "rect", "x": 2, "y": 2, "width": 5, "height": 5}
    path = tmp_path / "via.json"
    path.write_text(json.dumps({"a": {"filename": "a.png", "regions": regions}}))
    if told:
        with pytest.raises(InputError, match=told):
            annotations.read("via", path, images)
    else:
        assert annotations.read("via", path, images).classes == ("a",)


def test_masks_of_numbers_and_of_classes(tmp_path, images):
    lost = annotations.write(example(), "index_masks", tmp_path / "numbers")
    assert any("pixels of several objects" in sentence for sentence in lost)
    assert "2 objects: classes are left out" in lost
    found = annotations.read("index_masks", tmp_path / "numbers", images, ["thing"])
    assert found.classes == ("thing",)
    assert len(found.images[0].objects) == 4
    small = found.images[0].objects[1]
    np.testing.assert_array_equal(
        objects.mask(small, HEIGHT, WIDTH),
        objects.mask(example().images[0].objects[1], HEIGHT, WIDTH),
    )
    apart = AnnotationSet(("a", "b"), (AnnotatedImage("a.png", HEIGHT, WIDTH, (
        Annotation(0, (1, 1, 5, 5)), Annotation(1, (5, 1, 9, 5)))),))  # fmt: skip
    lost = annotations.write(apart, "palette_masks", tmp_path / "classes")
    assert lost == [
        "2 objects: boxes become masks",
        "objects of one class that touch become one",
        "names of classes: give them anew with --classes",
    ]
    found = annotations.read("palette_masks", tmp_path / "classes", images, ["a", "b"])
    assert masks(found) == masks(apart)


@pytest.mark.parametrize("name", ["index_masks", "palette_masks"])
def test_objects_that_no_pixel_of_a_mask_shows_are_told(tmp_path, name):
    """One smaller than a pixel, and one that smaller ones hide."""
    boxes = (5.1, 5.1, 5.3, 5.3), (10, 10, 14, 12), (10, 10, 12, 12), (12, 10, 14, 12)
    every = tuple(Annotation(0, box) for box in boxes)
    given = AnnotationSet(("a",), (AnnotatedImage("a.png", HEIGHT, WIDTH, every),))
    lost = annotations.write(given, name, tmp_path / "out")
    assert "2 objects: no pixel shows them, and they are left out" in lost
    values = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert len(np.unique(values)) == (3 if name == "index_masks" else 2)
    assert not any("no pixel" in s for s in annotations.write(given, "coco", tmp_path / "a.json"))


def test_geojson_lies_where_the_scene_does(tmp_path):
    mask = ring_and_dot()
    scene = tmp_path / "images" / "a.tif"
    scene.parent.mkdir()
    place = rasterio.Affine(0.3, 0, 325000.1, 0, -0.3, 2786000.7)
    with rasterio.open(
        scene, "w", driver="GTiff", height=HEIGHT, width=WIDTH, count=1, dtype="uint8",
        crs="EPSG:32640", transform=place,
    ) as file:  # fmt: skip
        file.write(np.zeros((1, HEIGHT, WIDTH), np.uint8))
    image = AnnotatedImage("a.tif", HEIGHT, WIDTH, (objects.of_mask(mask, 0),))
    given = AnnotationSet(("cat",), (image,))
    annotations.write(given, "geojson", tmp_path / "out", tmp_path / "images")
    content = json.loads((tmp_path / "out" / "a.geojson").read_text())
    [feature] = content["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    holes = [len(part) for part in feature["geometry"]["coordinates"]]
    assert sorted(holes) == [1, 1, 1, 2]
    longitude, latitude = feature["geometry"]["coordinates"][0][0][0]
    assert 54 < longitude < 57
    assert 24 < latitude < 26
    found = annotations.read("geojson", tmp_path / "out", tmp_path / "images")
    np.testing.assert_array_equal(objects.mask(found.images[0].objects[0], HEIGHT, WIDTH), mask)
    # As QGIS saves it: in the scene's own coordinates, named.
    own = {"type": "Polygon", "coordinates": [[
        [325000.1 + 0.3 * x, 2786000.7 - 0.3 * y]
        for x, y in ((2, 3), (9, 3), (9, 8), (2, 8), (2, 3))
    ]]}  # fmt: skip
    content = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32640"}},
        "features": [{"type": "Feature", "properties": {"name": "roof"}, "geometry": own}],
    }
    (tmp_path / "a.geojson").write_text(json.dumps(content))
    found = annotations.read("geojson", tmp_path / "a.geojson", tmp_path / "images")
    assert found.classes == ("roof",)
    assert found.images[0].objects[0].box == (2, 3, 9, 8)


@pytest.mark.parametrize("down", [-0.3, 0.3])
@pytest.mark.parametrize("way", [1, -1])
def test_outlines_of_geojson_run_counterclockwise_and_holes_clockwise(tmp_path, down, way):
    """However they were drawn, and from a scene upside down too."""
    place = rasterio.Affine(0.3, 0, 325_000, 0, down, 2_786_000)
    with rasterio.open(
        *(tmp_path / "a.tif", "w", "GTiff", WIDTH, HEIGHT, 1),
        **{"dtype": "uint8", "crs": "EPSG:32640", "transform": place},
    ) as to:
        to.write(np.zeros((1, HEIGHT, WIDTH), np.uint8))
    square = np.array([[30.0, 4], [44, 4], [44, 9], [30, 9]])[::way]
    drawn = Annotation(0, objects.polygons_box((square,)), (square,))
    image = AnnotatedImage("a.tif", HEIGHT, WIDTH, (objects.of_mask(ring_and_dot(), 0), drawn))
    annotations.write(AnnotationSet(("cat",), (image,)), "geojson", tmp_path / "out", tmp_path)
    content = json.loads((tmp_path / "out" / "a.geojson").read_text())
    ring, square = (one["geometry"]["coordinates"] for one in content["features"])
    for part in (*ring, square):
        for number, corners in enumerate(part):
            x, y = (np.array(corners) - corners[0]).T
            assert (np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0) == (number == 0)
    assert masks(annotations.read("geojson", tmp_path / "out", tmp_path)) == masks(
        AnnotationSet(("cat",), (image,))
    )


def test_geojson_across_the_date_line_stays_whole(tmp_path):
    place = rasterio.Affine(10, 0, 819_250, 0, -10, 8_118_000)  # in Fiji
    with rasterio.open(
        *(tmp_path / "a.tif", "w", "GTiff", WIDTH, HEIGHT, 1),
        **{"dtype": "uint8", "crs": "EPSG:32760", "transform": place},
    ) as to:
        to.write(np.zeros((1, HEIGHT, WIDTH), np.uint8))
    image = AnnotatedImage("a.tif", HEIGHT, WIDTH, (objects.of_mask(ring_and_dot(), 0),))
    given = AnnotationSet(("cat",), (image,))
    annotations.write(given, "geojson", tmp_path / "out", tmp_path)
    [feature] = json.loads((tmp_path / "out" / "a.geojson").read_text())["features"]
    rings = [ring for part in feature["geometry"]["coordinates"] for ring in part]
    longitudes = np.array([at for ring in rings for at in ring])[:, 0]
    assert 179.9 < longitudes.min() < 180 < longitudes.max() < 180.1
    assert masks(annotations.read("geojson", tmp_path / "out", tmp_path)) == masks(given)


@pytest.mark.parametrize("east", [-178, 182])
def test_longitudes_of_geojson_count_from_wherever_the_scene_does(tmp_path, east):
    place = rasterio.Affine(0.5, 0, 170, 0, -0.5, 6)
    with rasterio.open(
        *(tmp_path / "a.tif", "w", "GTiff", WIDTH, HEIGHT, 1),
        **{"dtype": "uint8", "crs": "EPSG:4326", "transform": place},
    ) as to:
        to.write(np.zeros((1, HEIGHT, WIDTH), np.uint8))
    ring = [[east, 5], [east, 2], [east + 4, 2], [east + 4, 5], [east, 5]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    drawn = {"type": "Feature", "properties": {"class": "roof"}, "geometry": geometry}
    content = {"type": "FeatureCollection", "features": [drawn]}
    (tmp_path / "a.geojson").write_text(json.dumps(content))
    found = annotations.read("geojson", tmp_path / "a.geojson", tmp_path)
    assert found.images[0].objects[0].box == (24, 2, 32, 8)


@pytest.mark.parametrize("by", ["ground control points", "rational polynomials"])
def test_geojson_of_a_scene_that_is_to_be_warped_is_refused(tmp_path, images, by):
    corners = [(0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH)]
    points = [GroundControlPoint(row, column, 55 + column, 25 - row) for row, column in corners]
    one = [1.0, *[0.0] * 19]
    rpcs = RPC(10, 500, 25, 1, one, one[::-1], 20, 20, 55, 1, one, one[::-1], 20, 20)
    place = {"gcps": points, "crs": "EPSG:4326"} if by[0] == "g" else {"rpcs": rpcs}
    annotations.write(example(), "geojson", tmp_path / "out")
    (images / "a.png").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            *(images / "a.tif", "w", "GTiff", WIDTH, HEIGHT, 1), dtype="uint8", **place
        ) as to:
            to.write(np.zeros((1, HEIGHT, WIDTH), np.uint8))
    with pytest.raises(InputError, match=rf"a\.tif is placed by {by}.*warp it with gdalwarp"):
        annotations.read("geojson", tmp_path / "out", images)
    with pytest.raises(InputError, match=rf"a\.tif is placed by {by}.*warp it with gdalwarp"):
        annotations.write(example("a.tif"), "geojson", tmp_path / "again", images)


@pytest.mark.parametrize("crs", ["EPSG:32640", 'LOCAL_CS["site",UNIT["metre",1]]'])
def test_geojson_in_another_system_than_it_says_is_told(tmp_path, crs):
    """Metres without a `crs` pass for degrees."""
    (tmp_path / "images").mkdir()
    form = {"driver": "GTiff", "height": 20, "width": 30, "count": 1, "dtype": "uint8", "crs": crs}
    place = rasterio.Affine(1, 0, 300_000, 0, -1, 2_000_000)
    with rasterio.open(tmp_path / "images/a.tif", "w", transform=place, **form) as to:
        to.write(np.zeros((1, 20, 30), np.uint8))
    ring = [[300_005, 1_999_990], [300_010, 1_999_990], [300_010, 1_999_995]]
    geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    feature = {"type": "Feature", "properties": {}, "geometry": geometry}
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with pytest.raises(InputError, match=r"a\.geojson has coordinates that don't lead from OGC"):
        annotations.read("geojson", path, tmp_path / "images")
    if crs.startswith("LOCAL"):
        image = AnnotatedImage("a.tif", 20, 30, (Annotation(0, (1, 2, 5, 6)),))
        given = AnnotationSet(("x",), (image,))
        with pytest.raises(InputError, match=r"a\.tif has coordinates that don't lead from site"):
            annotations.write(given, "geojson", tmp_path / "out", tmp_path / "images")


def test_whole_numbers_may_be_written_with_a_point(tmp_path):
    """As pandas writes columns with gaps; 40.0 is 40 in JSON."""
    annotations.write(replace(example(), category_ids=(3, 17)), "coco", tmp_path / "a.json")
    plain = annotations.read("coco", tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text(), parse_int=float)
    (tmp_path / "b.json").write_text(json.dumps(content))
    found = annotations.read("coco", tmp_path / "b.json")
    assert (found.ids, masks(found)) == (plain.ids, masks(plain))
    annotations.write(plain, "labelme", tmp_path / "labelme")
    for file in (tmp_path / "labelme").rglob("*.json"):
        file.write_text(json.dumps(json.loads(file.read_text(), parse_int=float)))
    found = annotations.read("labelme", tmp_path / "labelme")
    assert [(image.height_px, image.width_px) for image in found.images] == [(HEIGHT, WIDTH)] * 2


@pytest.mark.parametrize("name", ["coco", "cvat"])
def test_paths_of_windows_lead_into_folders(tmp_path, name):
    annotations.write(example("sub/a.png"), name, tmp_path / "out")
    text = (tmp_path / "out").read_text()
    windows = text.replace("sub/", r"sub\\" if name == "coco" else "sub\\")
    assert windows != text
    (tmp_path / "out").write_text(windows)
    found = annotations.read(name, tmp_path / "out")
    assert [image.name for image in found.images] == ["sub/a.png", "sub/ü b.png"]


def test_an_ellipse_of_cvat(tmp_path):
    """Turned clockwise about its middle, beside the equation."""
    element = '<ellipse label="x" cx="24.5" cy="18.5" rx="14" ry="7" rotation="30"/>'
    image = f'<image name="a.png" width="{WIDTH}" height="{HEIGHT}">{element}</image>'
    (tmp_path / "a.xml").write_text(f"<annotations>{image}</annotations>")
    [one] = annotations.read("cvat", tmp_path / "a.xml").images[0].objects
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5 - np.array([18.5, 24.5])[:, None, None]
    cos, sin = np.cos(np.radians(30)), np.sin(np.radians(30))
    within = ((x * cos + y * sin) / 14) ** 2 + ((y * cos - x * sin) / 7) ** 2 <= 1
    assert (objects.mask(one, HEIGHT, WIDTH) != within).sum() <= 4


@pytest.mark.parametrize(("points", "shape"), [("0.5 0.5 2 " * 17, 3), ("0.5 0.4 " * 17, 2)])
def test_keypoints_of_yolo_are_left_out(tmp_path, images, points, shape):
    """They lie behind the box, and are no polygon."""
    (tmp_path / "data.yaml").write_text(f"kpt_shape: [17, {shape}]\nnames: [person]\n")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(f"0 0.5 0.5 0.2 0.4 {points}\n")
    for classes in ((), ("person",)):
        found = annotations.read("yolo", tmp_path, images, classes)
        [one] = found.images[0].objects
        assert one.shape is None
        assert one.score is None
        box = (0.4 * WIDTH, 0.3 * HEIGHT, 0.6 * WIDTH, 0.7 * HEIGHT)
        assert one.box == pytest.approx(box)
        assert found.lost == ("keypoints are left out",)


def test_coco_keeps_gaps_in_its_categories(tmp_path):
    given = replace(example(), category_ids=(3, 17))
    annotations.write(given, "coco", tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert [one["id"] for one in content["categories"]] == [3, 17]
    assert {one["category_id"] for one in content["annotations"]} == {3, 17}
    found = annotations.read("coco", tmp_path / "a.json")
    assert found.ids == (3, 17)
    lost = annotations.write(found, "voc", tmp_path / "voc")
    assert "numbers of categories: classes are known by their names" in lost


@pytest.mark.parametrize(("id_", "same"), [("a", "a"), (1.0, 1), (7, 7.0)])
def test_coco_of_ids_that_are_no_whole_numbers(tmp_path, id_, same):
    raw = content()
    raw["images"][0]["id"] = id_
    raw["images"][1]["id"] = "another"
    for number, one in enumerate(raw["annotations"]):
        one |= {"id": f"{same} {number}", "image_id": same}
    (tmp_path / "a.json").write_text(json.dumps(raw))
    found = annotations.read("coco", tmp_path / "a.json")
    assert masks(found) == masks(example())
    annotations.write(found, "coco", tmp_path / "b.json")
    again = annotations.read("coco", tmp_path / "b.json")
    assert again.images[0].id == id_
    assert masks(again) == masks(example())


def test_keypoints_of_coco_are_told_to_be_left_out(tmp_path):
    path = tmp_path / "a.json"
    for said, lost in (([], ()), ([1, 2, 2], ("keypoints are left out",))):
        path.write_text(json.dumps(changed(keypoints=said, num_keypoints=len(said) // 3)))
        found = annotations.read("coco", path)
        assert found.lost == lost
        assert len(found.images[0].objects) == 4
    assert "keypoints are left out" in annotations.write(found, "coco", tmp_path / "out.json")


@OLD
def test_our_coco_is_what_pycocotools_reads(tmp_path, capsys):
    from pycocotools.coco import COCO

    annotations.write(example(), "coco", tmp_path / "a.json")
    theirs = COCO(str(tmp_path / "a.json"))
    ours = example().images[0]
    for number, one in enumerate(ours.objects, 1):
        raw = theirs.anns[number]
        if one.shape is not None:
            np.testing.assert_array_equal(theirs.annToMask(raw), objects.mask(one, HEIGHT, WIDTH))
            assert raw["area"] == objects.mask(one, HEIGHT, WIDTH).sum()


# ---- what can't be used


def content():
    return coco.content(example())


def changed(**changes):
    """COCO's JSON with changes of its first annotation."""
    raw = content()
    raw["annotations"][0] |= changes
    return raw


BROKEN = {
    "a box outside": (changed(bbox=[60, 3, 5, 5]), r"annotation 1 has a box outside its image"),
    "a box beyond": (changed(bbox=[50, 3, 9, 5]), r"reaches beyond its image of 53 x 37 px"),
    "a box inverted": (changed(bbox=[9, 3, -5, 5]), r"box without area, from \(9, 3\) to \(4, 8\)"),
    "a box of text": (changed(bbox=["a", 3, 5, 5]), r"no bbox of four numbers"),
    "an unknown category": (changed(category_id=7), r"category 7, which is unknown"),
    "an unknown image": (changed(image_id=7), r"image 7, which the file doesn't list"),
    "a category by a text": (changed(category_id="1"), r"category '1', which is unknown"),
    "an image by a text": (changed(image_id="1"), r"image '1', which the file doesn't list"),
    "an empty polygon": (changed(segmentation=[[]]), r"a polygon of 0 numbers"),
    "a polygon of two corners": (changed(segmentation=[[1, 2, 3, 4]]), r"a polygon of 4 numbers"),
    "runs of another size": (
        changed(segmentation={"size": [5, 5], "counts": [25]}),
        r"run lengths of an image of size \[5, 5\], and its image has \[37, 53\]",
    ),
    "runs too short": (
        changed(segmentation={"size": [HEIGHT, WIDTH], "counts": [1, 2]}),
        r"add up to 3, not 1,961",
    ),
    "runs of rubbish": (
        changed(segmentation={"size": [HEIGHT, WIDTH], "counts": "é~"}),
        r"no compressed run lengths",
    ),
    "runs of no pixel": (
        changed(segmentation={"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}),
        r"annotation 1 has a segmentation without a pixel in its bbox",
    ),
    "a polygon elsewhere": (
        changed(bbox=[3, 3, 5, 5], segmentation=[[30, 3, 40, 3, 40, 9]]),
        r"annotation 1 has a segmentation without a pixel in its bbox",
    ),
    "a polygon outside": (
        changed(bbox=[0, 3, 5, 5], segmentation=[[-9, 3, -1, 3, -1, 9]]),
        r"annotation 1 has a segmentation without a pixel in its bbox",
    ),
    "a corner far off": (
        changed(bbox=[3, 3, 5, 5], segmentation=[[3, 3, 8, 3, 3e9, 8]]),
        r"annotation 1 has a polygon with a corner far from its image of 53 x 37 px, \(3e\+09, 8\)",
    ),
    "one id twice": (changed(id=2), r"two annotations with the id 2"),
    "one image twice": (
        {**content(), "images": content()["images"][:1] * 2},
        r"two images with the id 1",
    ),
    "an id that is a list": (changed(image_id=[1]), r"annotation 1 has a list or an object as id"),
    "a box that is no number": (changed(bbox=["nan", 3, 5, 5]), r"no bbox of four numbers"),
    "a score that is no number": (changed(score="inf"), r"the score 'inf'"),
    "polygons on a line": (
        changed(segmentation=[[1, 1, 5, 5, 9, 9], [2, 2, 2, 2, 2, 2]]),
        r"annotation 1 has polygons without area",
    ),
    "a category whose id is a text": (
        {**content(), "categories": [{"id": "car", "name": "car"}]},
        r"category without a whole number as id",
    ),
    "one image by two ids": (
        {**content(), "images": [content()["images"][0] | {"id": id_} for id_ in (1, 2)]},
        r"lists the image a.png 2 times",
    ),
    "one image by two names": (
        {
            **content(),
            "images": [
                content()["images"][0] | {"id": id_, "file_name": name}
                for id_, name in enumerate(("a.png", "./a.png"), 1)
            ],
        },
        r"lists the image a.png 2 times",
    ),
    "no list": ({**content(), "annotations": 5}, r"its annotations is no list"),
    "another JSON": ({"shapes": []}, r"is no COCO annotation file: it has no annotations"),
    "a list": ([], r"is no COCO annotation file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_coco_files_get_wrong_is_told(tmp_path, name):
    raw, sentence = BROKEN[name]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=sentence):
        annotations.read("coco", path)


@pytest.mark.parametrize("name", ["coco", "via", "cvat"])
def test_a_folder_in_place_of_its_one_file_is_told(tmp_path, name):
    config = ObjectDataConfig(source=name, directory=str(tmp_path))
    with pytest.raises(InputError, match=rf"is a folder, and {name} is one file: .*annotations"):
        open_objects(config)


@pytest.mark.parametrize("name", ["coco", "labelme"])
def test_a_class_that_is_not_among_those_asked_for_is_told_by_its_name(tmp_path, name):
    annotations.write(example(crowd=False), name, tmp_path / "out")
    with pytest.raises(InputError, match=r"has the category 'cat', which is unknown: it must be d"):
        annotations.read(name, tmp_path / "out", classes=["dog"])


@pytest.mark.parametrize("name", [*FORMATS])
def test_a_class_that_is_asked_for_twice_is_told(tmp_path, images, name):
    """COCO's would be written with one id twice, and read by nobody."""
    given = ["cat", "dog", unicodedata.normalize("NFD", "año"), "año"]
    with pytest.raises(InputError, match="the list of classes has the class año 2 times"):
        annotations.read(name, tmp_path / "out", images, given)


def test_objects_that_cannot_be_used_are_left_out_where_asked(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(changed(bbox=[60, 3, 5, 5])))
    told = []
    found = annotations.read("coco", path, report=told.append)
    assert len(told) == 1
    assert len(found.images[0].objects) == 3


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("coco", "{", "not valid JSON"),
        ("labelme", "{}", "no list of shapes"),
        ("labelme", '{"shapes": []}', "no imageHeight"),
        ("via", '{"a": 5}', "no files with regions"),
        ("cvat", "<a/>", "begins with <a>"),
        ("cvat", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "defines entities"),
        ("cvat", "<annotations", "not valid XML"),
        ("voc", "<annotation/>", "no filename"),
        ("voc", "<?xml version='1.0' encoding='klingon'?><annotation/>", "not valid XML"),
        ("geojson", "{}", "no list of features"),
    ],
)
def test_files_of_another_kind(tmp_path, images, name, text, sentence):
    path = tmp_path / ("a.xml" if name in ("cvat", "voc") else "a.json")
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        annotations.read(name, path, images)


def ring(*corners):
    return {"type": "Polygon", "coordinates": [list(corners)]}


@pytest.mark.parametrize(
    ("geometry", "properties", "told"),
    [
        (ring([1, 1], [9, 1], [9, 9], [1, 1]), ["class"], ""),
        (ring([1, 1], [9, 1], [9, 9], [1, 1]), 5, ""),
        (ring([1, 1], [9, 1], [9, 9], [1, 1]), {"class": None}, ""),
        (ring([1, 1], [9, 1], [9, 9], [1, 1]), {"class": 7.0}, ""),
        (ring([1], [9], [9], [1]), {}, "no rings of four or more pairs"),
        (ring(*[[[1, 1], [9, 1]]] * 4), {}, "no rings of four or more pairs"),
        (None, {}, r"feature 0 has no geometry: give a Polygon"),
    ],
)
def test_geojson_of_odd_kinds(tmp_path, images, geometry, properties, told):
    path = tmp_path / "a.geojson"
    features = [{"type": "Feature", "properties": properties, "geometry": geometry}]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    said = []
    found = annotations.read("geojson", path, images, report=said.append)
    of_number = isinstance(properties, dict) and properties.get("class") == 7
    assert found.classes == (() if told else ("7",) if of_number else ("object",))
    assert all(told in sentence for sentence in said)
    assert len(said) == bool(told)


def test_what_has_no_class_in_geojson_is_told(tmp_path, images):
    """As where the property that tells classes has a name of its own."""
    around = ring([1, 1], [9, 1], [9, 9], [1, 1])
    features = [
        {"type": "Feature", "properties": properties, "geometry": around}
        for properties in ({"clase": "coche"}, {"class": "coche"}, {"clase": "árbol"})
    ]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    found = annotations.read("geojson", path, images)
    assert found.classes == ("coche", "object")
    told = (
        "2 features have no property class, label, category, name or type, and are called object;"
        f" the first: {path}: feature 0"
    )
    assert found.lost == (told,)
    config = ObjectDataConfig(
        source="geojson", directory=str(tmp_path), annotations=("a.geojson",), held_out=(0, 0)
    )
    shutil.rmtree(images / "sub")  # which no file is of
    assert open_objects(config).notes == (told,)


@pytest.mark.parametrize(
    ("line", "names", "sentence"),
    [
        ("1e12 .5 .5 .1 .1", None, "the category 1000000000000, which is unknown"),
        ("0 .5 .5 .1 .1", "names: {0: a, x: b}", "no names of classes"),
        ("0 .5 .5 .1 .1", "names: [a, b, a]", r"data\.yaml has the class a 2 times: name each"),
        ("0 .5 .5 .1 .1", "names: [a, [b]]", "no names of classes"),
        ("0 .5 .5 .1 .1", "names: [a", "not valid YAML"),
        ("0 .5 .5 .1 .1", 'names: ["\\UFFFFFFFF"]', "not valid YAML"),
        ("0 .5 .5 .1 .1", b"names: [ni\xf1o]", r"data\.yaml isn't UTF-8"),
        (b"0 .5 .5 .1 .1 \xf1", None, r"a\.txt isn't UTF-8"),
    ],
)
def test_what_yolo_files_get_wrong_is_told(tmp_path, images, line, names, sentence):
    (tmp_path / "labels").mkdir()
    for path, text in ((tmp_path / "labels" / "a.txt", line), (tmp_path / "data.yaml", names)):
        if text:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=sentence):
        annotations.read("yolo", tmp_path, images)


@pytest.mark.parametrize(
    ("file", "text", "names"),
    [
        ("data.yaml", "names: [no, yes]", ("no", "yes")),
        ("data.yaml", "names: {1: on, 0: 007}", ("007", "on")),
        ("data.yaml", "made: 2020-13-45\nnames: [a, b]", ("a", "b")),
        ("data.yaml", "\ufeffnames: [a, b]", ("a", "b")),
        ("classes.txt", "\ufeffa\r\nb\r\n", ("a", "b")),
    ],
)
@pytest.mark.parametrize("labels", ["", "labels", "labels/train", "train/labels"])
def test_names_of_yolo_are_as_written(tmp_path, images, file, text, names, labels):
    folder = tmp_path / "set" / labels
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("\ufeff1 .5 .5 .1 .1", encoding="utf-8")
    (tmp_path / "set" / file).write_text(text, encoding="utf-8")
    found = annotations.read("yolo", folder, images)
    assert found.classes == names
    assert [one.label for one in found.images[0].objects] == [1]


def test_images_that_would_share_a_file_of_annotations_are_told(tmp_path, images):
    shutil.copy(images / "a.png", images / "a.tif")
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match=r"a\.png and a\.tif would have one file"):
        annotations.read("yolo", tmp_path, images)


@pytest.mark.parametrize("name", [*FORMATS])
@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("../mine.png",), "where it lies within a folder"),
        (("{tmp_path}/mine.png",), "where it lies within a folder"),
        (("a\0.png",), "where it lies within a folder"),
        (("a.png", "a.jpg"), "a.png and a.jpg would have one file"),
    ],
)
def test_names_of_images_lead_to_no_other_file(tmp_path, name, names, sentence):
    """Formats of one file write names as they are; no other file is touched."""
    mine = [tmp_path / f"mine{suffix}" for suffix in (".json", ".txt", ".xml", ".geojson", ".png")]
    for path in mine:
        path.write_text("mine")
    image = example().images[0]
    every = tuple(replace(image, name=one.format(tmp_path=tmp_path)) for one in names)
    found = replace(example(), images=every)
    if name in ("coco", "via", "cvat"):
        annotations.write(found, name, tmp_path / "out")
    else:
        with pytest.raises(InputError, match=sentence):
            annotations.write(found, name, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    assert all(path.read_text() == "mine" for path in mine)


def test_nothing_is_overwritten(tmp_path):
    for name in FORMATS:
        path = tmp_path / name
        path.write_text("mine")
        with pytest.raises(InputError, match="exists"):
            annotations.write(example(), name, path)
        assert path.read_text() == "mine"


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_folder_is_taken_for_a_folder_alone(tmp_path, images, name):
    (tmp_path / "out").mkdir()
    there = {path.name for path in tmp_path.iterdir()}
    if name in ("coco", "via", "cvat"):
        with pytest.raises(InputError, match="out exists: give another"):
            annotations.write(example(), name, tmp_path / "out", images)
        assert not any((tmp_path / "out").iterdir())
    else:
        annotations.write(example(), name, tmp_path / "out", images)
    assert {path.name for path in tmp_path.iterdir()} == there


def test_geojson_of_images_that_lack_leaves_nothing(tmp_path, images):
    (images / "sub" / "ü b.png").unlink()
    with pytest.raises(InputError, match=r"b\.png is missing, and has annotations: add it"):
        annotations.write(example(), "geojson", tmp_path / "out", images)
    assert not (tmp_path / "out").exists()


def test_images_that_lack(tmp_path, images):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "z.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(InputError, match="has no image z"):
        annotations.read("yolo", tmp_path / "labels", images)
    with pytest.raises(InputError, match="--images is missing"):
        annotations.read("yolo", tmp_path / "labels")


@pytest.mark.parametrize(
    ("name", "within"),
    [("labelme", ""), ("geojson", ""), ("yolo", "labels"), ("voc", "Annotations"),
     ("index_masks", ""), ("palette_masks", "")],
)  # fmt: skip
def test_linked_folders_are_read(tmp_path, images, name, within):
    annotations.write(example(), name, tmp_path / "out")
    wanted = annotations.read(name, tmp_path / "out", images)
    assert len(wanted.images) == 2
    for folder in (tmp_path / "out" / within / "sub", images / "sub"):
        link = folder.rename(tmp_path / f"elsewhere {folder.parent.name}")
        folder.symlink_to(link)
    found = annotations.read(name, tmp_path / "out", images)
    assert masks(found) == masks(wanted)
    assert [image.name for image in found.images] == [image.name for image in wanted.images]


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "yolo_polygons"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_the_same_however_their_letters_are_composed(tmp_path, images, name, form):
    """As archives from macOS have files, and annotations written elsewhere don't."""
    annotations.write(example(), name, tmp_path / "out", images)
    wanted = annotations.read(name, tmp_path / "out", images)
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    for folder, way in ((images, form), (tmp_path / "out", other)):
        for file in folder.rglob("*ü b.*"):
            file.rename(file.with_name(unicodedata.normalize(way, file.name)))
    found = annotations.read(name, tmp_path / "out", images)
    assert masks(found) == masks(wanted)
    assert annotations.write(found, "geojson", tmp_path / "again", images) is not None
    data = {"directory": str(tmp_path), "images": ("images",), "annotations": ("out",)}
    opened = open_objects(ObjectDataConfig(source=name, held_out=(0, 0), **data))
    assert len(opened.splits["train"]) == 2


@pytest.mark.parametrize(("to", "sentence"), [(".", "lies in"), ("loop.png", "a link to none")])
def test_links_that_lead_nowhere_are_told(tmp_path, images, to, sentence):
    (images / "loop.png").symlink_to(to)
    with pytest.raises(InputError, match=rf"loop\.png is .*{sentence}"):
        annotations.read("index_masks", images)


def test_yolo_without_text_files_is_told(tmp_path, images):
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match="holds no text files of YOLO"):
        annotations.read("yolo", tmp_path, images)


def numbered(path, values, **about):
    """A mask as a TIFF of two rows, the first without objects."""
    values = np.stack([np.zeros_like(values), values])
    about |= {"height": 2, "width": values.shape[1], "count": 1, "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", **about) as file:
        file.write(values, 1)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", ["index_masks", "palette_masks"])
@pytest.mark.parametrize(
    ("values", "about", "found"),
    [
        (np.array([-1, 1, 1], np.int16), {}, "the value -1, and a mask has whole numbers"),
        (np.array([1, 1, 1.5], np.float32), {}, "the value 1.5, and a mask has whole numbers"),
        (np.array([1, 1, 1e30], np.float32), {}, "the value 1"),
        (np.array([7, 1, 7], np.uint8), {"nodata": 7}, (1, 1, 2, 2)),
        (np.array([-9, 1, 1], np.int16), {"nodata": -9}, (1, 1, 3, 2)),
        (np.array([np.nan, 1, 1], np.float32), {"nodata": np.nan}, (1, 1, 3, 2)),
    ],
)
def test_values_of_masks(tmp_path, name, values, about, found):
    numbered(tmp_path / "a.tif", values, **about)
    if isinstance(found, str):
        with pytest.raises(InputError, match=rf"a\.tif has {found}"):
            annotations.read(name, tmp_path / "a.tif")
        return
    [one] = annotations.read(name, tmp_path / "a.tif").images[0].objects
    assert one.box == found


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_what_a_mask_of_its_own_hides_is_no_object(tmp_path):
    numbered(tmp_path / "a.tif", np.array([7, 7, 7, 7], np.uint8))
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.write_mask(np.array([[1, 1, 1, 1], [0, 1, 1, 0]], bool))
    [one] = annotations.read("index_masks", tmp_path / "a.tif").images[0].objects
    assert one.box == (1, 1, 3, 2)


@pytest.mark.parametrize("name", ["index_masks", "palette_masks"])
def test_masks_of_lossy_compression_are_refused(tmp_path, name):
    values = np.zeros((48, 64), np.uint8)
    values[8:30, 8:40] = 3
    Image.fromarray(values).save(tmp_path / "a.tif", compression="jpeg")
    with pytest.raises(InputError, match=r"a\.tif is compressed with losses \(JPEG\).*as PNG"):
        annotations.read(name, tmp_path)


@pytest.mark.parametrize("name", ["index_masks", "palette_masks"])
def test_masks_of_another_size_than_their_image_are_refused(tmp_path, name):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "images/año.jpg")
    Image.new("L", (64, 48)).save(tmp_path / "masks/año_mask.png")
    [image] = annotations.read(name, tmp_path / "masks", tmp_path / "images").images
    assert (image.name, image.height_px, image.width_px) == ("año.jpg", 48, 64)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "images/año.jpg", exif=turned)  # sizes say the rest
    [image] = annotations.read(name, tmp_path / "masks", tmp_path / "images").images
    assert (image.height_px, image.width_px) == (48, 64)
    Image.new("L", (32, 24)).save(tmp_path / "masks/año_mask.png")
    Image.new("RGB", (64, 48)).save(tmp_path / "images/año.jpg")
    with pytest.raises(InputError, match=r"año_mask\.png is 32 x 24 px, and año\.jpg 64 x 48"):
        annotations.read(name, tmp_path / "masks", tmp_path / "images")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_great_numbers_of_objects_and_of_classes(tmp_path):
    numbered(tmp_path / "a.tif", np.array([7, 7, 3_000_000_000], np.uint32))
    one, other = annotations.read("index_masks", tmp_path / "a.tif").images[0].objects
    assert (one.id, one.box) == (7, (0, 1, 2, 2))
    assert (other.id, other.box) == (3_000_000_000, (2, 1, 3, 2))
    with pytest.raises(InputError, match=r"the value 3000000000, and there are at most 10,000"):
        annotations.read("palette_masks", tmp_path / "a.tif")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_what_counts_nowhere_may_be_nodata(tmp_path):
    numbered(tmp_path / "a.tif", np.array([1, 1, 255], np.uint8), nodata=255)
    one, other = annotations.read("palette_masks", tmp_path / "a.tif").images[0].objects
    assert (one.crowd, other.crowd) == (False, True)
    [one] = annotations.read("index_masks", tmp_path / "a.tif").images[0].objects
    assert one.id == 1


def test_what_counts_nowhere_does_so_for_every_class(tmp_path):
    """Of two dogs found, the likelier lies where nothing counts: AP is that of the other alone."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[2:12, 3:13], values[20:30, 20:30] = 2, 255
    Image.fromarray(values).save(tmp_path / "a.png")
    read = annotations.read("palette_masks", tmp_path / "a.png", classes=["cat", "dog"])
    found = (Annotation(1, (20, 20, 30, 30), score=0.9), Annotation(1, (3, 2, 13, 12), score=0.8))
    for kind in ("box", "mask"):
        assert coco_figures(read.images, [found], 2, kind).twelve["ap"] == pytest.approx(1)
    annotations.write(read, "palette_masks", tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), values)


def test_an_object_takes_less_than_four_kilobytes(tmp_path):
    """Of 2,000 outlines of 30 points each, about as COCO's are."""
    turns = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    outline = np.round(20 + 10 * np.stack([np.cos(turns), np.sin(turns)], 1), 2).ravel().tolist()
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "disc"}],
        "annotations": [
            {
                **{"id": i, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 312.0},
                **{"bbox": [10.0, 10.0, 20.0, 20.0], "segmentation": [outline]},
            }
            for i in range(2000)
        ],
    }
    (tmp_path / "all.json").write_text(json.dumps(content), encoding="utf-8")
    tracemalloc.start()
    try:
        found = annotations.read("coco", tmp_path / "all.json")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    (image,) = found.images
    assert len(image.objects) == 2000
    assert held / 2000 < 4096
