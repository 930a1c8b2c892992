"""Masks that are GeoJSON: areas burnt where they lie, and what is refused."""

import json
import unicodedata

import numpy as np
import pytest
import rasterio
import rasterio.control
from PIL import Image
from rasterio.warp import transform_geom

from cnn_jax.configuration.schema import DataConfig
from cnn_jax.data.scene_folders import open_folder
from cnn_jax.data.scenes import IGNORED, SPLITS
from cnn_jax.errors import InputError
from cnn_jax.inference.outputs import Polygons, renamed

SIZE = 24, 32  # height, width
TOML = """
image = "images/{name}.*"
mask = "areas/{name}.geojson"
mask_values = "polygons"
attribute = "kind"
classes = [
    {name = "ground", values = ["any other value"]},
    {name = "roof", values = ["roof", "Dachfläche", 7, "8"]},
    {name = "road", values = ["road"]},
]
"""


def square(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def feature(value, *rings, name="kind"):
    geometry = {"type": "Polygon", "coordinates": list(rings)}
    return {"type": "Feature", "properties": {name: value}, "geometry": geometry}


FEATURES = [
    feature("roof", square(2, 3, 12, 9), square(4, 4, 6, 6)),  # with a hole
    feature("road", square(10, 0, 14, 24)),  # over the roof's edge
    feature(7, square(20, 20, 40, 40)),  # beyond the image
]


def expected():
    labels = np.zeros(SIZE, np.uint8)
    labels[3:9, 2:12] = 1
    labels[4:6, 4:6] = 0
    labels[:, 10:14] = 2
    labels[20:, 20:] = 1
    return labels


def write(folder, features, toml=TOML, **members):
    for kind in ("images", "areas"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "images/Straße.png")
    content = {"type": "FeatureCollection", "features": features, **members}
    (folder / "areas/Straße.geojson").write_text(json.dumps(content), encoding="utf-8")
    (folder / "set.toml").write_text(toml, encoding="utf-8")
    return DataConfig(source=str(folder / "set.toml"), directory=str(folder))


def mask_of(config):
    scenes = open_folder(config)
    ((_, mask),) = [scene.read() for split in SPLITS for scene in scenes.splits[split]]
    return mask


def georeferenced(folder):
    """The image as a GeoTIFF of half-metre pixels in UTM, and its transform."""
    (folder / "images/Straße.png").unlink()
    transform = rasterio.Affine(0.5, 0, 330_000, 0, -0.5, 2_790_000)
    form = {"driver": "GTiff", "height": SIZE[0], "width": SIZE[1], "count": 3, "dtype": "uint8"}
    with rasterio.open(
        folder / "images/Straße.tif", "w", crs="EPSG:32640", transform=transform, **form
    ) as to:
        to.write(np.zeros((3, *SIZE), np.uint8))
    return transform


def placed(transform, features):
    """Features in pixels as they lie in the image's coordinates."""
    for one in features:
        rings = one["geometry"]["coordinates"]
        moved = [[list(transform @ (x, y)) for x, y in ring] for ring in rings]
        geometry = {"type": "Polygon", "coordinates": moved}
        yield one | {"geometry": geometry}


@pytest.mark.parametrize("west", [170, -190, 350])
@pytest.mark.parametrize("turn", [0, 360])
def test_longitudes_count_from_wherever_the_image_does(west, turn, tmp_path):
    """Half a degree a pixel; GeoJSON counts from -180 to 180, or runs on."""
    areas = [
        feature("roof", square(2, 3, 12, 9), square(4, 4, 6, 6)),
        feature("road", square(18, 2, 23, 9)),  # west of, across and east of 180 degrees,
        feature(7, square(24, 12, 30, 20)),  # or of 0
    ]
    config = write(tmp_path, areas)
    expected = mask_of(config)
    (tmp_path / "images/Straße.png").unlink()
    place = rasterio.Affine(0.5, 0, west, 0, -0.5, 6)
    form = {"driver": "GTiff", "height": SIZE[0], "width": SIZE[1], "count": 3, "dtype": "uint8"}
    file = tmp_path / "images/Straße.tif"
    with rasterio.open(file, "w", crs="EPSG:4326", transform=place, **form) as to:
        to.write(np.zeros((3, *SIZE), np.uint8))
    drawn = []
    for one in placed(place, areas):
        rings = [np.array(ring) for ring in one["geometry"]["coordinates"]]
        middle = rings[0][:, 0].mean()
        counted = np.array([(middle + 180) % 360 - 180 - middle + turn, 0])
        rings = [(ring + counted).tolist() for ring in rings]
        drawn.append(one | {"geometry": {"type": "Polygon", "coordinates": rings}})
    content = {"type": "FeatureCollection", "features": drawn}
    (tmp_path / "areas/Straße.geojson").write_text(json.dumps(content), encoding="utf-8")
    np.testing.assert_array_equal(mask_of(config), expected)


def test_numbers_may_be_written_as_texts(tmp_path):
    """As GIS programs do in fields of text, and the other way in fields of numbers."""
    areas = [feature("7", square(2, 3, 12, 9)), feature(8, square(14, 3, 20, 9))]
    expected = np.zeros(SIZE, np.uint8)
    expected[3:9, 2:12] = expected[3:9, 14:20] = 1
    np.testing.assert_array_equal(mask_of(write(tmp_path, areas)), expected)


def test_numbers_may_be_written_with_a_point(tmp_path):
    """As geopandas writes columns that have gaps."""
    labels = mask_of(write(tmp_path, [feature(7.0, square(0, 0, 4, 4))]))
    assert (labels == np.pad(np.ones((4, 4)), ((0, SIZE[0] - 4), (0, SIZE[1] - 4)))).all()
    with pytest.raises(InputError, match="text or a whole number"):
        mask_of(write(tmp_path, [feature(7.5, square(0, 0, 4, 4))]))


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_words_are_the_same_however_their_letters_are_composed(forms, tmp_path):
    """As macOS has them in names and what is copied from there."""
    toml, word = TOML.replace('"roof"', '"árbol"').replace('"kind"', '"clasificación"'), "árbol"
    toml, word = (unicodedata.normalize(*each) for each in zip(forms, (toml, word), strict=True))
    name = unicodedata.normalize(forms[1], "clasificación")
    labels = mask_of(write(tmp_path, [feature(word, square(0, 0, 4, 4), name=name)], toml))
    assert (labels == np.pad(np.ones((4, 4)), ((0, SIZE[0] - 4), (0, SIZE[1] - 4)))).all()


def test_blanks_about_a_word_make_no_other_word(tmp_path):
    """They made any other value of it."""
    features = [json.loads(json.dumps(one)) for one in FEATURES]
    for one in features[:2]:
        one["properties"]["kind"] = f" {one['properties']['kind']}\u00a0"
    np.testing.assert_array_equal(mask_of(write(tmp_path, features)), expected())
    with pytest.raises(InputError, match=r"'road', which classes\[2\]\.values has already"):
        mask_of(write(tmp_path, FEATURES, TOML.replace('["road"]', '["road", "road "]')))


def test_other_capitals_are_no_other_value(tmp_path):
    """A "Roof" was ground where the description lists "roof"."""
    areas = [feature("Roof", square(2, 3, 12, 9)), feature("pool", square(14, 3, 20, 9))]
    with pytest.raises(InputError, match=r"geojson has 'Roof' where the description lists 'roof'"):
        mask_of(write(tmp_path, areas))
    both = TOML.replace('["roof",', '["roof", "Roof",')
    assert (mask_of(write(tmp_path, areas, both))[3:9, 2:12] == 1).all()
    assert (mask_of(write(tmp_path, areas[1:])) == 0).all()


def test_a_number_and_its_text_are_no_two_classes(tmp_path):
    toml = TOML.replace('["any other value"]', '["7"]')
    with pytest.raises(InputError, match=r"has '?7'?, which .* has already"):
        mask_of(write(tmp_path, FEATURES, toml))


def test_areas_that_miss_their_image_are_refused(tmp_path):
    config = write(tmp_path, [feature("roof", square(40, 3, 50, 9))])
    with pytest.raises(InputError, match=r"none of the 1 areas of .* lies in its image"):
        mask_of(config)
    transform = georeferenced(tmp_path)
    features = list(placed(transform, FEATURES))
    earth = [
        f | {"geometry": transform_geom("EPSG:32640", "OGC:CRS84", f["geometry"])} for f in features
    ]
    for one in earth:  # latitude first
        rings = one["geometry"]["coordinates"]
        one["geometry"]["coordinates"] = [[[y, x] for x, y in ring] for ring in rings]
    write(tmp_path, earth)
    (tmp_path / "images/Straße.png").unlink()
    with pytest.raises(InputError, match="longitude and latitude, in this order"):
        mask_of(config)
    write(tmp_path, features)  # metres that are said to be degrees
    (tmp_path / "images/Straße.png").unlink()
    with pytest.raises(InputError, match=r"aren't of OGC:CRS84|lies in its image"):
        mask_of(config)


@pytest.mark.parametrize("far", [2e9, 3e9])
def test_areas_that_reach_too_far_to_be_burnt_are_refused(far, tmp_path):
    """As one around the whole earth does in an image of a centimetre."""
    config = write(tmp_path, [feature("road", square(-far, -far, far, far)), FEATURES[0]])
    if far > 2**31:
        with pytest.raises(InputError, match=r"Straße\.geojson has an area that reaches further"):
            mask_of(config)
    else:
        labels = np.full(SIZE, 2, np.uint8)
        labels[3:9, 2:12] = 1
        labels[4:6, 4:6] = 2
        np.testing.assert_array_equal(mask_of(config), labels)


def test_control_points_place_no_areas(tmp_path):
    config = write(tmp_path, FEATURES)
    (tmp_path / "images/Straße.png").unlink()
    points = [
        rasterio.control.GroundControlPoint(r, c, 3e5 + c, 2e6 - r)
        for r, c in ((0, 0), (0, 32), (24, 0), (24, 32))
    ]
    form = {"driver": "GTiff", "height": SIZE[0], "width": SIZE[1], "count": 3, "dtype": "uint8"}
    with rasterio.open(
        tmp_path / "images/Straße.tif", "w", crs="EPSG:32640", gcps=points, **form
    ) as to:
        to.write(np.zeros((3, *SIZE), np.uint8))
    with pytest.raises(InputError, match="placed by ground control points"):
        mask_of(config)


def test_areas_in_pixels_are_burnt_in_their_order(tmp_path):
    np.testing.assert_array_equal(mask_of(write(tmp_path, FEATURES)), expected())


def test_areas_lie_where_their_coordinates_say(tmp_path):
    config = write(tmp_path, [])
    features = list(placed(georeferenced(tmp_path), FEATURES))
    write(tmp_path, features, crs={"type": "name", "properties": {"name": "EPSG:32640"}})
    (tmp_path / "images/Straße.png").unlink()
    np.testing.assert_array_equal(mask_of(config), expected())

    earth = [
        f | {"geometry": transform_geom("EPSG:32640", "OGC:CRS84", f["geometry"])} for f in features
    ]
    assert 50 < earth[0]["geometry"]["coordinates"][0][0][0] < 60  # degrees east
    write(tmp_path, earth)
    (tmp_path / "images/Straße.png").unlink()
    np.testing.assert_array_equal(mask_of(config), expected())


@pytest.mark.parametrize("on_earth", [False, True])
def test_predicted_areas_give_back_every_pixel(on_earth, tmp_path):
    """What `cnn-jax predict --polygons` writes is a mask to be corrected and trained on."""
    toml = TOML.replace('"kind"', '"class"').replace("any other value", "ground")
    config = write(tmp_path, [], toml)
    transform = georeferenced(tmp_path) if on_earth else None
    labels = np.random.default_rng(0).integers(0, 3, SIZE).astype(np.uint8)
    written = Polygons(
        tmp_path / "areas/Straße.geojson",
        ("ground", "roof", "road"),
        255,
        1,
        "EPSG:32640" if on_earth else "",
        tuple(transform)[:6] if transform else None,
        None,
    )
    written.finish(labels)
    renamed([written])
    np.testing.assert_array_equal(mask_of(config), labels)


def test_without_any_other_value_bare_ground_is_ignored(tmp_path):
    toml = TOML.replace("any other value", "ground")
    wanted = expected()
    wanted[wanted == 0] = IGNORED
    np.testing.assert_array_equal(mask_of(write(tmp_path, FEATURES, toml)), wanted)


def test_unlisted_values_are_refused_with_their_pixels(tmp_path):
    toml = TOML.replace("any other value", "ground")
    config = write(tmp_path, [feature("pool", square(0, 0, 5, 4))], toml)
    with pytest.raises(InputError, match=r"Straße\.geojson has the mask values pool \(20 pixels\)"):
        mask_of(config)
    config.unknown_colors = "ignore"
    assert (mask_of(config) == IGNORED).all()


POINT = {"type": "Feature", "properties": {"kind": "roof"}, "geometry": {"type": "Point"}}
REFUSED = {
    "a point": ([POINT], {}, "is Point"),
    "no attribute": ([feature("roof", square(0, 0, 1, 1), name="class")], {}, "no property 'kind'"),
    "an open ring": ([feature("roof", square(0, 0, 1, 1)[:-1])], {}, "no polygon"),
    "no list of features": (None, {}, "no list of features"),
    "no collection": ([], {"type": "Topology"}, "no GeoJSON FeatureCollection"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_area_is_named(case, tmp_path):
    features, members, words = REFUSED[case]
    config = write(tmp_path, features, **members)
    with pytest.raises(InputError) as caught:
        mask_of(config)
    assert "Straße.geojson" in str(caught.value)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")


def test_unknown_systems_and_broken_files_are_named(tmp_path):
    config = write(tmp_path, FEATURES, crs={"type": "name", "properties": {"name": "EPSG:0"}})
    georeferenced(tmp_path)
    with pytest.raises(InputError, match="EPSG:0, which is no known"):
        mask_of(config)
    (tmp_path / "areas/Straße.geojson").write_text("{")
    with pytest.raises(InputError, match="is no GeoJSON"):
        mask_of(config)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [(".geojson", ".png", "end it in .geojson"), ('"kind"', '" "', "attribute is empty")],
)
def test_descriptions_are_held_together(old, new, words, tmp_path):
    config = write(tmp_path, FEATURES, TOML.replace(old, new))
    with pytest.raises(InputError, match=words):
        open_folder(config)
