"""A disk that fills up, wherever a run is then: a sentence, the earlier checkpoint whole, and the
same bits once there is room."""

import contextlib
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cnn_jax.commands import compare
from cnn_jax.errors import InputError
from cnn_jax.records.files import SOFTWARE, pictures_beside_others
from cnn_jax.reporting.table import update_block
from tests.reporting.fake_records import write_run
from tests.running import TINY, assert_refused, assert_same_run, finish, saved_steps, start


@pytest.fixture
def disk(tmp_path):
    """Function that mounts a file system of so many KiB, or changes its size, and returns its
    folder."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if sys.platform != "linux" or mount is None or umount is None:
        pytest.skip("a small file system is made by mount, which this system has not")
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(kib):
        options = f"size={kib}k" if not folder.is_mount() else f"remount,size={kib}k"
        made = subprocess.run(
            [mount, "-t", "tmpfs", "-o", options, "tmpfs", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            pytest.skip(f"a small file system can't be mounted: {made.stderr.strip()}")
        return folder

    try:
        yield sized
    finally:
        subprocess.run([umount, "-l", folder], capture_output=True, check=False)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_disk_of_any_size(disk, reference, tmp_path):
    """The disk is a little larger at each attempt of one run, so that it is full at another place
    each time."""
    whole_kib = sum(path.stat().st_size + 4096 for path in reference[0].rglob("*")) // 1024
    workdir, refused, places = disk(16) / "run", 0, set()
    for kib in range(16, 2 * whole_kib, whole_kib // 16):
        disk(kib)
        saved = saved_steps(workdir) if (workdir / "checkpoints").is_dir() else []
        finished = finish(start(*TINY, "--workdir", workdir), 600)
        if finished.code == 0:
            break
        assert_refused(finished, workdir)
        assert not (workdir / "summary.json").exists()
        if saved:
            assert max(saved_steps(workdir)) >= max(saved)
        refused += 1
        places.add(finished.err.replace(str(workdir), ""))
    assert refused >= 5
    assert len(places) >= 3, places
    assert_same_run(workdir, reference[0])


@pytest.mark.long
@pytest.mark.parametrize("free_kib", [0, 4, 64, 200, 300])
def test_disk_that_others_fill(free_kib, disk, reference, tmp_path):
    """At the start of a run there is as little room; what is there already is a run with two
    checkpoints."""
    folder = disk(16384)
    workdir = shutil.copytree(reference[0], folder / "run")
    (workdir / "summary.json").unlink()
    shutil.rmtree(workdir / "checkpoints/12")
    shutil.rmtree(workdir / "figures")
    with contextlib.suppress(OSError), (folder / "filling").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    os.truncate(folder / "filling", max((folder / "filling").stat().st_size - 1024 * free_kib, 0))
    finished = finish(start(*TINY, "--workdir", workdir), 600)
    assert_refused(finished, folder)
    assert saved_steps(workdir)[:2] == [4, 8]
    (folder / "filling").unlink()
    assert finish(start(*TINY, "--workdir", workdir), 600).code == 0
    assert_same_run(workdir, reference[0])


@pytest.fixture
def narrow():
    """Function that lets every file that is written grow to so many bytes only, while it is
    entered: what a disk that fills up does, for all users."""
    resource = pytest.importorskip("resource", reason="of POSIX alone")

    @contextlib.contextmanager
    def narrow(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return narrow


def test_a_page_whose_block_cannot_be_written_stays_whole(narrow, tmp_path):
    page = tmp_path / "README.md"
    page.write_text("<!-- results -->\n<!-- /results -->\n" + "mine\n" * 100)
    before = page.read_bytes()
    with narrow(200), pytest.raises(InputError, match=r"README\.md can't be written"):
        update_block(page, "results", "new")
    assert page.read_bytes() == before
    assert update_block(page, "results", "new")
    assert page.read_bytes() == before.replace(b"-->\n<", b"-->\n\nnew\n\n<", 1)


def test_a_comparison_that_cannot_be_written_is_named_and_stays_whole(narrow, tmp_path, capsys):
    runs = [write_run(tmp_path / name, name, 0, {"test/miou": 0.5}).folder for name in "ab"]
    arguments = [*map(str, runs), "--output", str(tmp_path / "out")]
    assert compare.main(arguments) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    for size, name in ((20, "comparison.csv"), (len(before["comparison.csv"]), str(tmp_path))):
        with narrow(size):
            code = compare.main(arguments)
        assert code == 2
        said = capsys.readouterr().err
        assert "can't be written" in said
        assert name in said
        for file, content in before.items():
            assert (tmp_path / "out" / file).read_bytes() == content


def test_pictures_that_cannot_be_written_leave_those_of_before(narrow, tmp_path):
    """And no empty ones, which the next command would take for somebody's."""
    out = tmp_path / "out"

    def draw(color, size=None):
        with contextlib.ExitStack() as limits, pictures_beside_others(out) as drawn:
            ours = PngInfo()
            ours.add_text("Software", SOFTWARE)
            Image.new("RGB", (9, 9), color).save(drawn / "a.png", pnginfo=ours)
            if size:
                limits.enter_context(narrow(size))

    def held():
        return [path.read_bytes() for path in out.glob("*.png")]

    for _ in range(2):
        before = held()
        with pytest.raises(InputError, match="pictures can't be written"):
            draw("blue", size=20)
        assert held() == before
        draw("red")
