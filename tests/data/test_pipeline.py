"""From scenes to batches: every cell once, the same order however it is read, nothing lost between
threads and processes."""

import itertools
import threading
from unittest import mock

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.configuration.schema import AugmentationConfig
from cnn_jax.data import augmentation, pipeline
from cnn_jax.data.pipeline import (
    DecodedScenes,
    RegionSource,
    Timed,
    cell_bounds,
    cut,
    read_ahead,
    stacked,
    training_batches,
)
from cnn_jax.data.scenes import IGNORED, Scene
from cnn_jax.errors import InputError
from cnn_jax.tasks.segmentation import Segmentation
from experiments import aerial_unet


def make_scenes(sizes, budget_bytes=1e9, seed=0):
    """Random scenes of these sizes, and what they hold."""
    rng = np.random.default_rng(seed)
    held = [
        (rng.integers(0, 256, (*s, 3), np.uint8), rng.integers(0, 5, s).astype(np.uint8))
        for s in sizes
    ]
    scenes = [
        Scene(str(i), *mask.shape, lambda pair=(image, mask): pair)
        for i, (image, mask) in enumerate(held)
    ]
    return DecodedScenes(scenes, budget_bytes), held


# ---- cells and regions


@pytest.mark.parametrize("cell", [1, 2, 7, 16, 100])
def test_cells_cover_a_length_once_and_none_is_longer_than_asked(cell):
    for length in [*range(1, 60), 719, 2149]:
        bounds = cell_bounds(length, cell)
        assert bounds[0][0] == 0
        assert bounds[-1][1] == length
        assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
        sizes = [end - start for start, end in bounds]
        assert 1 <= min(sizes) <= max(sizes) <= cell
        assert max(sizes) - min(sizes) <= 1
        assert len(bounds) == (length + cell - 1) // cell


def test_regions_are_slices_of_their_scenes_with_the_cell_as_near_the_middle_as_it_goes():
    scenes, held = make_scenes([(20, 33), (41, 16)])
    source = RegionSource(scenes, (8, 10), (15, 14))
    covered = [np.zeros(mask.shape, int) for _, mask in held]
    for number in range(len(source)):
        index, (y, x), region = source.scene[number], source.corner_px[number], source[number]
        top, left, bottom, right = region["cell_px"] + [y, x, y, x]
        image, mask = held[index]
        covered[index][top:bottom, left:right] += 1
        np.testing.assert_array_equal(region["extent_px"], [15, 14])
        assert 0 <= y <= mask.shape[0] - 15
        assert 0 <= x <= mask.shape[1] - 14
        assert region["image"].dtype == region["mask"].dtype == np.uint8
        np.testing.assert_array_equal(region["image"], image[y : y + 15, x : x + 14])
        np.testing.assert_array_equal(region["mask"], mask[y : y + 15, x : x + 14])
        # The margins on both sides of the cell differ by one at most, unless the region lies at the
        # scene's edge.
        for start, length, low, high, scene in (
            (y, 15, top, bottom, mask.shape[0]),
            (x, 14, left, right, mask.shape[1]),
        ):
            assert abs((low - start) - (start + length - high)) <= 1 or start in (0, scene - length)
            assert start <= low < high <= start + length
    for counts in covered:
        np.testing.assert_array_equal(counts, 1)


def test_a_scene_smaller_than_a_region_is_padded_and_the_padding_ignored():
    scenes, held = make_scenes([(5, 30), (30, 7)])
    source = RegionSource(scenes, (8, 10), (12, 12))
    padded = {source.scene[number]: source[number] for number in range(len(source))}
    for index, (down, right) in enumerate([(7, 0), (0, 5)]):
        extent = [12 - down, 12 - right]
        np.testing.assert_array_equal(padded[index]["extent_px"], extent)
        image, mask = padded[index]["image"], padded[index]["mask"]
        assert image.shape == (12, 12, 3)
        assert (mask[: extent[0], : extent[1]] != IGNORED).all()
        assert (mask[extent[0] :] == IGNORED).all()
        assert (mask[:, extent[1] :] == IGNORED).all()
        np.testing.assert_array_equal(
            image[extent[0] :], np.repeat(image[extent[0] - 1 : extent[0]], down, 0)
        )
        np.testing.assert_array_equal(
            image[:, extent[1] :], np.repeat(image[:, extent[1] - 1 : extent[1]], right, 1)
        )
    y = 30 - 12
    np.testing.assert_array_equal(padded[0]["image"][:5], held[0][0][:, y:])
    np.testing.assert_array_equal(padded[1]["mask"][:, :7], held[1][1][y:])


def test_a_batch_of_regions_is_its_elements_stacked():
    scenes, _ = make_scenes([(20, 33), (5, 16)])
    source = RegionSource(scenes, (8, 10), (15, 14))
    numbers = [3, 12, 0, 3]
    expected = stacked([source[number] for number in numbers])
    same_batch(source.batch(numbers), expected)
    for name in ("image", "mask"):
        assert source.batch(numbers)[name].ctypes.data % 64 == 0  # else a CPU device copies it


def test_cut_inside_a_scene_is_a_slice():
    image, mask = (
        np.arange(90, dtype=np.uint8).reshape(5, 6, 3),
        np.arange(30, dtype=np.uint8).reshape(5, 6),
    )
    part = cut(image, mask, 1, 2, (3, 4))
    np.testing.assert_array_equal(part["image"], image[1:4, 2:6])
    np.testing.assert_array_equal(part["mask"], mask[1:4, 2:6])


# ---- batches


class Numbers:
    """Examples that hold their own number."""

    def __init__(self, length=11):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, record_key):
        return {"number": np.int32(record_key), "mask": np.full((2, 2), record_key, np.uint8)}


def numbers(batches, count, first=0):
    return np.concatenate([batches[n]["number"] for n in range(first, first + count)])


def test_every_epoch_holds_every_example_once_in_another_order():
    order = numbers(training_batches(Numbers(), seed=0, batch_size=4), 11).reshape(4, 11)
    for epoch in order:
        assert sorted(epoch) == list(range(11))
    assert len({tuple(epoch) for epoch in order}) == 4
    assert all(list(epoch) != sorted(epoch) for epoch in order)


WINDOWS = {
    "as in training": {},
    "turned by any angle": {
        "rotation_probability": 1.0,
        "rotation_degrees": 180.0,
        "quarter_turn_probability": 0.0,
    },
    "turned a little": {"rotation_probability": 0.5, "scale_probability": 0.0},
    "smaller than life": {"scale_range": (0.3, 0.5)},
    "larger than life": {"scale_range": (1.0, 3.0), "quarter_turn_probability": 0.0},
    "moved alone": {"scale_probability": 0.0, "quarter_turn_probability": 0.0},
}


@pytest.mark.parametrize("changes", WINDOWS.values(), ids=WINDOWS)
def test_a_crop_is_the_same_of_its_window_as_of_its_region(monkeypatch, quick_compilation, changes):
    crop_px, seed = (16, 24), 3
    config = AugmentationConfig(**changes)
    scenes, _ = make_scenes([(90, 121), (30, 33), (64, 150), (12, 100)])
    region_px = tuple(map(min, augmentation.region_px(crop_px, config), scenes.largest_px))
    windows = augmentation.Windows(seed, crop_px, config)
    whole, seen = (RegionSource(scenes, crop_px, region_px, *more) for more in ((), (windows,)))

    def full_of_something(shape, dtype):
        return np.full(shape, 0xA5, dtype)

    monkeypatch.setattr(
        pipeline, "aligned", full_of_something
    )  # what isn't written must not be seen
    crops = jax.jit(
        lambda batch: augmentation.augment_examples(
            augmentation.example_keys(seed, batch["position"]), batch, config, crop_px
        )
    )
    read = 0
    for n in (0, 1, 2, 3, 10**6):
        theirs, ours = (
            training_batches(source, seed=1, batch_size=16)[n] for source in (whole, seen)
        )
        for one, other in zip(crops(ours), crops(theirs), strict=True):
            np.testing.assert_array_equal(one, other)
        read += np.sum(ours["mask"] != 0xA5) / np.prod(theirs["mask"].shape) / 5
    assert read < 0.75
    assert (
        ours["image"].shape[1:3]
        == ours["mask"].shape[1:]
        == tuple(map(min, region_px, windows.size_px))
    )


def test_without_a_cpu_device_regions_are_read_whole(monkeypatch):
    config = aerial_unet.smoke()
    config.data.scene_counts, config.data.scene_px, config.data.crop_px = (
        (2, 1, 1),
        (64, 96),
        (32, 48),
    )
    config.model.base_width, config.model.depth = 4, 1
    dataset = Segmentation().dataset(config)
    learner = Segmentation().learner(config, dataset.info)

    def none(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    assert "start" in training_batches(dataset.training_source(learner), seed=0, batch_size=2)[0]
    monkeypatch.setattr(jax, "local_devices", none)
    whole = dataset.training_source(learner)
    batch = training_batches(whole, seed=0, batch_size=2)[0]
    assert "start" not in batch
    assert batch["mask"].shape[1:] == whole.region_px


def test_every_cell_is_visited_once_an_epoch():
    scenes, _ = make_scenes([(20, 33), (9, 9)])
    source = RegionSource(scenes, (8, 10), (8, 10))
    whole = {source[n]["image"].tobytes() for n in range(len(source))}
    assert len(whole) == len(source) == 3 * 4 + 2
    batches = training_batches(source, seed=0, batch_size=7)
    for epoch in range(2):
        seen = [image.tobytes() for n in range(2) for image in batches[2 * epoch + n]["image"]]
        assert len(seen) == len(source)
        assert set(seen) == whole


def test_the_same_seed_gives_the_same_order_and_another_seed_another():
    one, same, other = (
        numbers(training_batches(Numbers(), seed=seed, batch_size=4), 20) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_examples_carry_their_position_in_the_stream():
    batches = training_batches(Numbers(), seed=0, batch_size=4)
    for n in (0, 1, 2, 3, 50, 10**6):
        assert batches[n]["position"].dtype == np.uint32
        np.testing.assert_array_equal(batches[n]["position"], np.arange(4 * n, 4 * n + 4))
    wrapped = batches[2**30]
    np.testing.assert_array_equal(wrapped["position"], [0, 1, 2, 3])


def same_batch(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].dtype == other[key].dtype
        np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("n", [0, 1, 3, 17])
def test_starting_at_batch_n_gives_batch_n(n):
    batches = training_batches(Numbers(), seed=3, batch_size=4)
    same_batch(batches[n:][0], batches[n])
    same_batch(batches[n:][5], batches[n + 5])


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_of_one_process(processes):
    whole = training_batches(Numbers(), seed=1, batch_size=6)
    size = 6 // processes
    parts = [
        training_batches(Numbers(), seed=1, batch_size=6, share=slice(i * size, (i + 1) * size))
        for i in range(processes)
    ]
    for n in range(8):
        shares = [part[n] for part in parts]
        assert all(len(share["number"]) == 6 // processes for share in shares)
        same_batch(
            {key: np.concatenate([share[key] for share in shares]) for key in shares[0]}, whole[n]
        )


# ---- reading ahead


@pytest.mark.parametrize("prefetch_batches", [1, 2, 16])
@pytest.mark.parametrize("start", [0, 5])
def test_reading_ahead_from_n_gives_batch_n_whatever_is_prefetched(start, prefetch_batches):
    batches = training_batches(Numbers(), seed=2, batch_size=4)
    ahead = read_ahead(
        batches, start, lambda batch: {**batch, "placed": np.True_}, prefetch_batches
    )
    for n, batch in enumerate(itertools.islice(ahead, 6), start=start):
        assert batch.pop("placed")
        same_batch(batch, batches[n])


def test_reading_ahead_asks_for_no_more_threads_than_it_can_use(caplog):
    with caplog.at_level("WARNING"):
        next(read_ahead(training_batches(Numbers(), seed=2, batch_size=4), 0, dict, 2))
    assert not caplog.records


class Broken(Numbers):
    def __getitem__(self, record_key):
        if record_key == 3:
            raise InputError("tile 3 can't be decoded; fetch it again.")
        return super().__getitem__(record_key)


def test_an_input_error_of_a_thread_reaches_the_user_of_the_batches_as_it_was():
    with pytest.raises(InputError) as caught:
        for _ in itertools.islice(
            read_ahead(training_batches(Broken(), seed=0, batch_size=4), 0, dict, 2), 5
        ):
            pass
    assert type(caught.value) is InputError
    assert str(caught.value) == "tile 3 can't be decoded; fetch it again."


def test_an_input_error_of_a_scene_comes_through_regions_too():
    def read():
        raise InputError("mask.png can't be decoded.")

    source = RegionSource(DecodedScenes([Scene("broken", 8, 8, read)], 1e9), (4, 4), (4, 4))
    with pytest.raises(InputError, match=r"^mask\.png can't be decoded\."):
        next(read_ahead(training_batches(source, seed=0, batch_size=2), 0, dict, 2))


def test_batches_are_the_same_whether_or_not_they_are_read_ahead():
    batches = grain.MapDataset.range(7).batch(2, batch_fn=list)
    ahead = read_ahead(batches, 1, lambda batch: [n + 1 for n in batch], 2)
    direct = read_ahead(batches, 1, lambda batch: [n + 1 for n in batch], 0)
    assert list(ahead) == list(direct) == [[3, 4], [5, 6], [7]]


def test_time_spent_waiting_is_added_up_also_for_the_last_and_the_failed(monkeypatch):
    clock = itertools.count(0, 2)
    monkeypatch.setattr("cnn_jax.data.pipeline.time.perf_counter", lambda: next(clock))
    timed = Timed(iter([1]))
    assert iter(timed) is timed
    assert next(timed) == 1
    assert timed.waited_s == 2
    with pytest.raises(StopIteration):
        next(timed)
    assert timed.waited_s == 4


def test_a_wait_costs_nothing_while_the_devices_are_at_an_earlier_step(monkeypatch):
    clock = itertools.count(0, 2)
    monkeypatch.setattr("cnn_jax.data.pipeline.time.perf_counter", lambda: next(clock))
    ready = [mock.Mock(**{"is_ready.return_value": True}) for _ in range(2)]
    timed = Timed(iter(range(3)))
    timed.computing = {"loss": ready[0], "accuracy": ready[1]}
    next(timed)
    assert timed.waited_s == 2
    ready[1].is_ready.return_value = False
    next(timed)
    assert timed.waited_s == 2
    timed.computing = jnp.zeros(3).block_until_ready()
    next(timed)
    assert timed.waited_s == 4
    timed = Timed(iter([1]))
    timed.computing = {"loss": 1.0}  # of PyTorch's peers, which have finished when they return
    next(timed)
    assert timed.waited_s == 2


# ---- decoded scenes


class Counting:
    """Scenes of 16x16 that count how often each is read: 1,024 bytes decoded."""

    def __init__(self, count, wait=None):
        self.reads, self.lock, self.wait = [0] * count, threading.Lock(), wait
        self.scenes = [Scene(str(i), 16, 16, lambda i=i: self.read(i)) for i in range(count)]

    def read(self, index):
        with self.lock:
            self.reads[index] += 1
        if self.wait is not None:
            self.wait()
        return np.full((16, 16, 3), index, np.uint8), np.full((16, 16), index, np.uint8)


def test_scenes_within_the_budget_are_read_once_and_others_at_each_use():
    counting = Counting(6)
    scenes = DecodedScenes(counting.scenes, budget_bytes=3 * 1024 + 1023)
    assert len(scenes) == 6
    for _ in range(4):
        for index in range(6):
            image, mask = scenes[index]
            assert image.min() == image.max() == mask.min() == mask.max() == index
    assert counting.reads == [1, 1, 1, 4, 4, 4]


def test_a_scene_that_just_fits_is_kept_and_without_budget_none_is():
    for budget, reads in ((1024, 1), (1023, 3), (0, 3)):
        counting = Counting(4)
        scenes = DecodedScenes(counting.scenes, budget)
        for _ in range(3):
            for index in range(4):
                scenes[index]
        assert counting.reads == [reads, 3, 3, 3]


def test_the_last_scenes_beyond_the_budget_are_not_read_again_for_each_window():
    counting = Counting(3)
    scenes = DecodedScenes(counting.scenes, 0)
    for index in (0, 0, 1, 0, 1, 2, 2):
        assert scenes[index][1].max() == index
    assert counting.reads == [1, 1, 1]
    scenes[0]
    assert counting.reads == [2, 1, 1]


def test_nothing_is_read_before_it_is_asked_for():
    counting = Counting(2)
    scenes = DecodedScenes(counting.scenes, 1e9)
    assert scenes.largest_px == (16, 16)
    RegionSource(scenes, (8, 8), (8, 8))
    assert counting.reads == [0, 0]


def test_the_largest_size_is_taken_along_each_axis():
    scenes, _ = make_scenes([(5, 30), (30, 7), (10, 10)])
    assert scenes.largest_px == (30, 30)


def test_many_threads_read_each_scene_once():
    """All threads start at the same scene, and each read waits long enough for the others to
    come."""
    threads_count = 16
    pause = threading.Event()
    counting = Counting(6, wait=lambda: pause.wait(0.02))
    scenes = DecodedScenes(counting.scenes, budget_bytes=1e9)
    gate, wrong = threading.Barrier(threads_count), []

    def hammer(seed):
        order = np.random.default_rng(seed).integers(0, 6, 200)
        gate.wait()
        for index in [0, *order]:
            image, mask = scenes[index]
            if not image[0, 0, 0] == mask[0, 0] == index:
                wrong.append(index)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counting.reads == [1] * 6
    assert not wrong


def test_threads_together_keep_to_the_budget():
    counting = Counting(8, wait=lambda: threading.Event().wait(0.01))
    scenes = DecodedScenes(counting.scenes, budget_bytes=3 * 1024)
    threads = [threading.Thread(target=scenes.__getitem__, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(
        8
    ):  # whichever two beyond the budget were read last, now they are the last two
        scenes[index]
    before = list(counting.reads)
    for index in range(8):
        scenes[index]
    assert sum(after == earlier for after, earlier in zip(counting.reads, before, strict=True)) == 3


def test_a_scene_that_could_not_be_read_is_tried_again():
    attempts = []

    def read():
        attempts.append(1)
        if len(attempts) == 1:
            raise InputError("not yet")
        return np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8)

    scenes = DecodedScenes([Scene("late", 2, 2, read)], 1e9)
    with pytest.raises(InputError):
        scenes[0]
    assert scenes[0][0].shape == (2, 2, 3)
    assert len(attempts) == 2


def test_a_source_of_whole_batches_gives_the_same_batches():
    class Numbers:
        def __len__(self):
            return 10

        def __getitem__(self, number):
            return {"value": np.float32(number)}

    class Whole(Numbers):
        def batch(self, numbers, positions):
            return {"value": np.array(numbers, np.float32)}

    single, whole = (
        training_batches(source, seed=3, batch_size=4) for source in (Numbers(), Whole())
    )
    for number in (0, 1, 7):
        assert single[number].keys() == whole[number].keys() == {"value", "position"}
        for key in ("value", "position"):
            np.testing.assert_array_equal(single[number][key], whole[number][key])
            assert single[number][key].dtype == whole[number][key].dtype
