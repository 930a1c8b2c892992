"""Areas by reference system."""

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.warp import transform

from cnn_jax.data import reference_systems
from cnn_jax.data.reference_systems import column_areas, moved, running_on
from cnn_jax.errors import InputError

SINUSOIDAL = "+proj=sinu +R=6371007.181"
HALF = 20_037_508.342789244
MARS = "+proj=merc +R=3396190"


@pytest.mark.parametrize(
    ("crs", "place", "of_one"),
    [
        ("EPSG:32640", (0.5, 0, 500_000, 0, -0.5, 2_700_000), 0.25),
        ("EPSG:32640", (0.5, 0.1, 500_000, 0.1, -0.5, 2_700_000), 0.26),
        ("EPSG:32640", (1, 0, 500_000, 0, 1, 0), 1),  # on the equator rows are all but parallels
        ("EPSG:2263", (1, 0, 980_000, 0, -1, 200_000), 0.3048006096**2),  # feet
        ("EPSG:28992", (1, 0, 100_000, 0, -1, 450_000), 1),
        (SINUSOIDAL, (463, 0, -HALF, 0, -463, 1_000_000), 463**2),
        ("EPSG:32640", (1, 0, -1_000_000, 0, -1, 3_000_000), None),  # far out of its zone
        ("EPSG:3857", (1, 0.1, 1_000_000, 0.1, -1, 8_400_000), None),  # rows are no parallels
        (MARS, (1, 0, 0, 0, -1, 1_000_000), None),
    ],
)
def test_areas_are_those_of_the_map_where_these_are_true(crs, place, of_one):
    found = column_areas(CRS.from_user_input(crs).to_wkt(), place, 90, 70)
    if of_one is None:
        assert found is None
    else:
        np.testing.assert_allclose(found, of_one * np.arange(91))


@pytest.mark.parametrize(
    ("crs", "north", "share"),
    [
        ("EPSG:3857", 85.0511, np.sin(np.radians(85.0511))),
        ("EPSG:4087", 89.9999, 1),  # older versions of PROJ take it for a sphere's
        ("EPSG:3832", 85.0511, np.sin(np.radians(85.0511))),  # about 150 degrees east
    ],
)
def test_areas_of_the_whole_earth(crs, north, share):
    """510,065,622 square kilometres; of a sphere's zone as much as its height."""
    ((top,),) = transform("OGC:CRS84", crs, [0], [north])[1:]
    place = (HALF / 180, 0, -HALF, 0, -top / 180, top)
    found = column_areas(CRS.from_user_input(crs).to_wkt(), place, 360, 360)
    assert found is not None
    assert 360 * found[-1] == pytest.approx(510_065_622e6 * share, rel=1e-4)


def test_a_map_beyond_the_poles_has_no_areas():
    """Its rows at the equator are true, those between it and the poles are not."""
    place = (HALF / 180, 0, -HALF, 0, -HALF / 180, HALF)
    assert column_areas(CRS.from_epsg(4087).to_wkt(), place, 360, 360) is None


def test_a_map_beyond_the_rim_is_judged_by_what_lies_on_the_earth():
    """A satellite's view: true below it, and a pixel by the rim covers several times as much."""
    wkt = CRS.from_user_input("+proj=geos +h=35785831 +datum=WGS84").to_wkt()
    assert column_areas(wkt, (30_000, 0, -5.5e6, 0, -30_000, 5.5e6), 366, 366) is None
    with pytest.raises(InputError, match="not there"):
        moved(wkt, "EPSG:4326", [0, 5.5e6], [0, 5.5e6], "not there")
    below = column_areas(wkt, (3000, 0, -45_000, 0, -3000, 45_000), 30, 30)
    np.testing.assert_allclose(below, 3000**2 * np.arange(31))


def test_the_date_line_is_no_border():
    """A scene about it has the areas of one beside it."""
    wkt = CRS.from_user_input("EPSG:3832").to_wkt()
    here, beside = (
        column_areas(wkt, (1, 0, left, 0, -1, 5_000_000), 50, 40) for left in (3_339_565, 3_000_000)
    )
    assert here is not None
    np.testing.assert_allclose(here, beside, rtol=1e-6)


def test_a_scene_is_judged_by_few_calls_of_proj(monkeypatch):
    """Tens of them took longer than a small scene's prediction."""
    calls = []

    def counted(*given):
        calls.append(given)
        return moved(*given)

    monkeypatch.setattr(reference_systems, "moved", counted)
    wkt = CRS.from_epsg(32640).to_wkt()
    assert column_areas(wkt, (0.5, 0, 500_000, 0, -0.5, 2_700_000), 90, 70) is not None
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("crs", "place", "across"),
    [
        ("EPSG:32760", (10, 0, 818_700, 0, -10, 8_118_700), True),
        ("EPSG:32701", (10, 0, 180_050, 0, -10, 8_118_700), True),
        ("EPSG:4326", (0.1, 0, 175, 0, -0.1, 1), True),
        ("EPSG:32760", (10, 0, 500_000, 0, -10, 8_118_700), False),
        ("EPSG:4326", (3.6, 0, -180, 0, -1.8, 90), False),  # all of the earth
        ("EPSG:3857", (HALF / 50, 0, -HALF, 0, -HALF / 50, HALF), False),
        ("EPSG:3413", (50_000, 0, -2_500_000, 0, -50_000, 2_500_000), False),  # about the pole
    ],
)
def test_longitudes_run_on_across_the_date_line(crs, place, across):
    wkt = CRS.from_user_input(crs).to_wkt()
    a, _, c, _, e, f = place
    column, row = (at.ravel() for at in np.meshgrid(np.arange(5, 100, 10), np.arange(5, 100, 10)))
    x = np.array(transform(wkt, "OGC:CRS84", a * column + c, e * row + f)[0])
    found = running_on(x, wkt, place, 100, 100)
    np.testing.assert_allclose((found - x + 180) % 360, 180)
    if across:
        assert np.abs(np.diff(found.reshape(10, 10))).max() < 2
        assert found.min() < 180 < found.max()
    else:
        np.testing.assert_array_equal(found, x)
