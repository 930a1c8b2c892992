"""The inspector: what it counts, what it lists instead of stopping at, and its command."""

import numpy as np
import pytest
from PIL import Image

from cnn_jax.commands.inspect_data import inspect, main, report
from cnn_jax.configuration.schema import DataConfig
from cnn_jax.data.scene_folders import class_counts
from cnn_jax.data.scenes import IGNORED
from tests.data import fake_sets


@pytest.fixture
def dubai(tmp_path):
    fake_sets.write_dubai(tmp_path / "dubai")
    return tmp_path / "dubai"


def paint(path, color, pixels):
    mask = np.array(Image.open(path))
    mask[0, :pixels] = color
    fake_sets.save(mask, path)


def test_counts_and_contact_sheet(dubai, tmp_path):
    config = DataConfig(source="dubai", directory=str(dubai))
    inspection = inspect(config, tmp_path / "new" / "sheet.png")
    assert (tmp_path / "new" / "sheet.png").stat().st_size > 0
    assert np.array_equal(
        inspection.labels["train"][:5],
        class_counts([s.read() for s in inspection.scenes.splits["train"]], 5),
    )
    assert inspection.channels["test"].pixels == 2 * 8 * 12
    text = report(inspection)
    assert "scenes: 4 train, 2 validation, 2 test" in text
    assert "8 of 12 x 8" in text
    assert "mask values outside the description: none" in text


def test_all_unknown_colours_are_listed_with_their_files(dubai, tmp_path):
    paint(dubai / "Tile 1/masks/image_part_001.png", (1, 2, 3), 4)
    paint(dubai / "Tile 8/masks/image_part_002.png", (1, 2, 3), 5)
    paint(dubai / "Tile 10/masks/image_part_001.png", (255, 254, 253), 6)
    inspection = inspect(DataConfig(source="dubai", directory=str(dubai)), tmp_path / "sheet.png")
    assert {value: list(files.values()) for value, files in inspection.unknown.items()} == {
        "#010203": [4, 5],
        "#FFFEFD": [6],
    }
    assert inspection.labels["train"][IGNORED] == 10
    text = report(inspection)
    assert "#010203: 9 pixels in 2 files" in text
    assert str(dubai / "Tile 8/masks/image_part_002.png") in text


def test_classes_that_no_scene_of_a_split_shows(dubai, tmp_path):
    for part in (1, 2):
        paint(dubai / f"Tile 8/masks/image_part_00{part}.png", (0, 0, 0), 12)
        fake_sets.save(
            np.zeros((8, 12, 3), np.uint8), dubai / f"Tile 8/masks/image_part_00{part}.png"
        )
    text = report(inspect(DataConfig(source="dubai", directory=str(dubai)), tmp_path / "sheet.png"))
    assert "no test scene shows building, land, road, vegetation, water" in text


def test_the_command_lists_scenes_that_cannot_be_decoded(dubai, tmp_path, capsys):
    for part in (1, 2):
        path = dubai / f"Tile 10/images/image_part_00{part}.jpg"
        path.write_bytes(path.read_bytes()[:-60])
    output = tmp_path / "sheet.png"
    argv = [
        "--config",
        "dubai",
        f"--data.directory={dubai}",
        f"--output={output}",
    ]
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out.count("can't be decoded (") == 2
    assert "2 scenes can't be decoded, listed above" in printed.err
    assert output.is_file()


def test_where_nothing_can_be_decoded_nothing_is_said_of_pixels(dubai, tmp_path):
    description = tmp_path / "numbers.toml"
    description.write_text(
        'base = "dubai"\nmask_values = "index"\nignored = [255]\nclasses = [\n'
        '    {name = "land", values = [0]},\n    {name = "road", values = [1]},\n]\n'
    )
    config = DataConfig(source=str(description), directory=str(dubai))
    inspection = inspect(config, tmp_path / "sheet.png")
    text = report(inspection)
    assert len(inspection.unreadable) == 8
    assert text.count("say mask_values = 'palette' and the colours of the classes") == 8
    assert not any(words in text for words in ("greatest", "is labelled", "% of pixels"))


def test_only_a_sheet_of_ours_is_replaced(tmp_path, capsys):
    output = tmp_path / "sheet.png"
    words = ["--data.scene_px", "32", "48", "--data.scene_counts", "1", "1", "1"]
    words += ["--output", str(output)]
    output.write_bytes(b"mine")
    assert main(words) == 2
    assert "isn't known to be of this software" in capsys.readouterr().err
    assert output.read_bytes() == b"mine"
    output.unlink()
    assert main(words) == main(words) == 0


def test_the_command_on_synthetic_scenes(tmp_path, capsys):
    output = tmp_path / "sheet.png"
    argv = [
        "--data.scene_px",
        "32",
        "48",
        "--data.scene_counts",
        "2",
        "1",
        "1",
        "--output",
        str(output),
    ]
    assert main(argv) == 0
    assert "scenes: 2 train, 1 validation, 1 test" in capsys.readouterr().out
    assert output.is_file()


def test_the_command_says_what_to_mend(capsys):
    assert main(["--config=dubai"]) == 2
    assert "data.directory is empty" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "--output" in capsys.readouterr().out
