"""Pictures and scenes to files: class maps, and what else is wanted, scene by scene.

A scene is written in chunks of rows. Of a large one each chunk is also kept in `.NAME.chunks` until
the scene is whole, so that a killed command goes on after the last. The class map is renamed last:
where it is, its scene is done.
"""

import contextlib
import csv
import io
import json
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from cnn_jax.data import image_folders
from cnn_jax.data.rasters import DamagedError
from cnn_jax.data.reference_systems import title
from cnn_jax.errors import InputError
from cnn_jax.inference.kept import KeptAnswers, check_same, refuse_existing
from cnn_jax.inference.outputs import (
    QUANTISED,
    Png,
    Polygons,
    Tiff,
    limited_cache,
    partial,
    renamed,
    writing,
)
from cnn_jax.inference.prediction import Prediction
from cnn_jax.inference.predictor import Predictor
from cnn_jax.inference.scenes import Scene, found, opened_each
from cnn_jax.records.files import read_object, write_object, write_text

CHUNK_ROWS = 512
LARGE_PX = 2**24
"""Scenes of more pixels keep their chunks."""

ABOUT, AREAS = "prediction.json", "areas.csv"
"""Of a folder of predictions: how they were made, and what each class covers."""
_DAMAGED = "damaged"
"""In `ABOUT`: name of a scene -> its places that could not be decoded, for `--resume` to tell."""

_COLUMNS = ("picture", "class", "pixels", "share", "square_metres")


@dataclass(frozen=True)
class Wanted:
    """What is made of each scene, and how.

    Attributes:
        probabilities: "uint8", "float16", or "none".
        uncertainty: whether confidence and entropy are written.
        overlay: whether the scene is, with its classes laid over.
        polygons: whether areas are, as GeoJSON.
        least_px: areas of fewer pixels go to their largest neighbour, in polygons.
        augment: whether predictions are averaged over flips and quarter turns.
        blend: how windows are weighted where they overlap.
        bands: of the scene, numbers from 1; empty: as in training.
        region: see `scenes.opened`.
        region_crs: likewise.
        cog: whether GeoTIFFs become Cloud Optimized GeoTIFFs.
    """

    probabilities: str = "none"
    uncertainty: bool = False
    overlay: bool = False
    polygons: bool = False
    least_px: int = 1
    augment: bool = False
    blend: str = "gaussian"
    bands: tuple[int, ...] = ()
    region: tuple[float, ...] = ()
    region_crs: str = ""
    cog: bool = False


def predict_pictures(
    predictor: Predictor,
    inputs: Sequence[str],
    folder: Path,
    wanted: Wanted,
    *,
    runs: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    check: Callable[[], None] = lambda: None,
) -> list[str]:
    """Predicts every picture into a folder.

    Args:
        predictor: a segmenter.
        inputs: files and folders.
        folder: of the outputs, made if missing.
        wanted: what is written.
        runs: digests of the runs, for `--resume` to compare.
        resume: whether pictures that are done are passed over.
        overwrite: whether outputs that exist are replaced.
        check: called between windows; may raise to stop.

    Returns:
        A sentence for each place and file that could not be decoded.

    Raises:
        InputError: a picture or an output can't be used.
    """
    pictures = found(inputs, folder)
    info = predictor.info
    part = wanted.bands, wanted.region, wanted.region_crs
    scenes, said = opened_each(pictures, info, *part)
    if wanted.polygons:
        for scene in scenes:
            scene.check_polygons()
    about = {"runs": list(runs), **json.loads(json.dumps(asdict(wanted)))}
    areas = _check_outputs(folder, scenes, wanted, about, resume, overwrite)
    damaged = _damaged(folder) if resume else {}
    write_object(folder / ABOUT, {**about, _DAMAGED: damaged})
    progress = _Progress(scenes)
    with limited_cache(), contextlib.closing(progress):
        for scene in scenes:
            whole = folder / _outputs(scene, wanted)["classes"]
            if resume and whole.exists() and areas.has(scene.name):
                said += damaged.get(scene.name, [])
            else:
                if scene.projected and scene.areas is None:
                    print(
                        f"{scene.path}: no square metres, for its projection"
                        f" ({title(scene.raster.crs)}) doesn't keep areas; warp it to UTM for them",
                        flush=True,
                    )
                job = _Job(predictor, scene, folder, wanted, about, check, progress)
                if not resume:
                    shutil.rmtree(job.chunks, ignore_errors=True)
                try:
                    areas.put(scene.name, info.classes, *job.run())
                except DamagedError as error:
                    said.append(str(error))
                else:
                    if scene.damaged != damaged.get(scene.name, []):
                        # Before the class map is renamed, which says that the scene is done.
                        damaged[scene.name] = scene.damaged
                        write_object(folder / ABOUT, {**about, _DAMAGED: damaged})
                    renamed(job.files)
                    shutil.rmtree(job.chunks, ignore_errors=True)
                said += scene.damaged
            progress.done(scene)
            scene.close()
    return said


def _outputs(scene: Scene, wanted: Wanted) -> dict[str, str]:
    """Kind -> name of each file that is written of a scene; the class map is the last."""
    name, picture = scene.name, "tif" if scene.rastered else "png"
    names = {}
    if wanted.probabilities != "none":
        names["probabilities"] = f"{name}-probabilities.tif"
    if wanted.uncertainty:
        names |= {kind: f"{name}-{kind}.tif" for kind in ("confidence", "entropy")}
    if wanted.overlay:
        names["overlay"] = f"{name}-overlay.{picture}"
    if wanted.polygons:
        names["polygons"] = f"{name}.geojson"
    return names | {"classes": f"{name}.{picture}"}


def _damaged(folder):
    """What an earlier command kept of scenes that can't be decoded everywhere."""
    about = folder / ABOUT
    return dict(read_object(about).get(_DAMAGED, {})) if about.exists() else {}


def _check_outputs(folder, scenes, wanted, about, resume, overwrite):
    """What an earlier command left of `areas.csv`, if this one goes on. Raises InputError where the
    folder holds what nobody said may be replaced."""
    owners: dict[Path, Scene] = {}
    inputs = {scene.path.resolve() for scene in scenes}
    for scene in scenes:
        for name in _outputs(scene, wanted).values():
            path = folder / name
            if path.resolve() in inputs:
                raise InputError(f"{path} is an input and would be replaced: give another --output")
            if (owner := owners.setdefault(path, scene)) is not scene:
                raise InputError(
                    f"{owner.path} and {scene.path} would both be written as {path}: rename one."
                )
    if resume and (folder / AREAS).exists() and not (folder / ABOUT).exists():
        raise InputError(
            f"{folder / AREAS} is of no prediction that {ABOUT} tells of: give another --output."
        )
    if resume and (folder / ABOUT).exists():
        earlier = read_object(folder / ABOUT)
        earlier.pop(_DAMAGED, None)
        check_same(folder, earlier, about)
    areas = _Areas(folder / AREAS, keep=resume)
    for path, scene in owners.items():
        # A scene is in areas.csv before its files have their names: others are somebody's.
        if path.exists() and not (overwrite or areas.has(scene.name)):
            refuse_existing(path, resume)
    for name in (ABOUT, AREAS):
        if (folder / name).exists() and not (resume or overwrite):
            refuse_existing(folder / name)
    for path in owners:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if overwrite:
                path.unlink(missing_ok=True)
    return areas


class _Job:
    """One scene: `run` writes its files, which are whole then but not renamed."""

    def __init__(self, predictor, scene: Scene, folder: Path, wanted: Wanted, about, check, shown):
        self.predictor, self.scene, self.wanted, self.check = predictor, scene, wanted, check
        self.shown, self.names = shown, predictor.info.classes
        self.many = len(self.names) > 255
        self.nodata = 65535 if self.many else 255
        self.chunks = folder / f"{Path(scene.name).parent}/.{Path(scene.name).name}.chunks"
        status = scene.path.stat()
        self.about = {**about, "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
        palette = np.zeros((256, 3), np.uint8)
        colors = np.array(predictor.info.colors or _greys(len(self.names)), np.uint8)[:256]
        palette[: len(colors)] = colors
        self.palette = palette
        self.sinks: dict[str, Any] = {}
        self.polygons = None
        for kind, name in _outputs(scene, wanted).items():
            if kind == "polygons":
                self.polygons = Polygons(
                    folder / name,
                    self.names,
                    self.nodata,
                    wanted.least_px,
                    scene.raster.crs,
                    scene.transform,
                    scene.areas,
                )
            else:
                self.sinks[kind] = self._sink(folder / name, kind)

    @property
    def files(self) -> list[Any]:
        """In the order in which they are renamed."""
        *others, classes = self.sinks.values()
        return [*others, *([self.polygons] if self.polygons else []), classes]

    def _sink(self, path: Path, kind: str):
        scene, size = self.scene, (self.scene.height_px, self.scene.width_px)
        place = {"crs": scene.raster.crs, "transform": scene.transform, "gcps": scene.gcps}
        place |= {"rpcs": scene.rpcs, "cog": self.wanted.cog}
        if kind == "classes":
            dtype = "uint16" if self.many else "uint8"
            colors = () if self.many else self.palette.tolist()
            if not scene.rastered:
                return Png(path, *size, dtype, colors=colors)
            tags = {f"CLASS_{i}": name for i, name in enumerate(self.names)}
            return Tiff(path, *size, dtype, nodata=self.nodata, colors=colors, tags=tags, **place)
        if kind == "overlay":
            if not scene.rastered:
                return Png(path, *size, "uint8", bands=3)
            return Tiff(path, *size, "uint8", bands=("red", "green", "blue"), **place)
        if kind == "probabilities" and self.wanted.probabilities == "uint8":
            return Tiff(
                path, *size, "uint8", nodata=255, bands=self.names, scale=1 / QUANTISED, **place
            )
        names = self.names if kind == "probabilities" else (kind,)
        return Tiff(path, *size, "float16", nodata=float("nan"), bands=names, **place)

    def run(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Pixels of each class, int64 `[classes]`, and square metres; None: unknown."""
        count, areas = len(self.names), self.scene.areas
        counts, metres = np.zeros(count, np.int64), np.zeros(count)
        try:
            for first, chunk in self._all_chunks():
                for kind, sink in self.sinks.items():
                    sink.write(first, chunk[kind])
                rows = [np.bincount(row[row < count], minlength=count) for row in chunk["classes"]]
                counts += np.sum(rows, axis=0)
                if areas is not None:
                    metres += np.diff(areas[first : first + len(rows) + 1]) @ rows
            for sink in self.sinks.values():
                sink.finish()
            if self.polygons is not None:
                self.polygons.finish(self.sinks["classes"].classes())
        except BaseException:
            for file in self.files:
                file.abandon()
            raise
        return counts, None if areas is None else metres

    def _all_chunks(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Those that an earlier command kept, then those that are predicted now."""
        large = self.scene.height_px * self.scene.width_px > LARGE_PX
        first = 0
        if large:
            for first, chunk in self._kept():
                self.shown.rows(self.scene, min(first, self.scene.height_px), counted=False)
                if chunk is not None:
                    yield first - len(chunk["classes"]), chunk
        if first >= self.scene.height_px:
            return
        for begin, chunk in self._predicted(first):
            if large:
                self._keep(begin, chunk)
            yield begin, chunk

    def _kept(self) -> Iterator[tuple[int, dict[str, np.ndarray] | None]]:
        """(row after it, chunk) of each that can be read, in order; the folder is made anew if it
        is another scene's or another command's."""
        with writing(self.chunks):
            about = self.chunks / "about.json"
            if not about.exists() or read_object(about) != self.about:
                shutil.rmtree(self.chunks, ignore_errors=True)
                self.chunks.mkdir(parents=True)
                write_object(about, self.about)
        first = 0
        while first < self.scene.height_px and (path := self.chunks / f"{first}.npz").exists():
            try:
                with path.open("rb") as stream, np.load(stream) as file:
                    chunk = {kind: file[kind] for kind in (*self.sinks, "damaged")}
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                break
            self.scene.damaged += chunk.pop("damaged").tolist()
            first += len(chunk["classes"])
            yield first, chunk
        yield first, None

    def _keep(self, first: int, chunk: dict[str, np.ndarray]):
        path = self.chunks / f"{first}.npz"
        said = np.array(self.scene.damaged[self._told :], dtype=np.str_)
        self._told = len(self.scene.damaged)
        with writing(path):
            with partial(path).open("wb") as file:
                np.savez_compressed(file, **{**chunk, "damaged": said})  # type: ignore[arg-type]
            partial(path).replace(path)

    def _predicted(self, first_row: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Chunks of `CHUNK_ROWS` rows; the last may have fewer."""
        scene = self.scene
        self._told = len(scene.damaged)

        def read(first, last):
            self.check()
            return scene.read(first, last)

        rows = self.predictor.predict_rows(
            read,
            scene.height_px,
            scene.width_px,
            augment=self.wanted.augment,
            blend=self.wanted.blend,
            first_row=first_row,
        )
        begin, held = first_row, []
        for first, probabilities in rows:
            self.check()
            self.shown.rows(scene, first + len(probabilities))
            pixels, void = scene.taken(first, first + len(probabilities))
            done = 0
            while done < len(probabilities):
                until = min(begin + CHUNK_ROWS - first, len(probabilities))
                part = slice(done, until)
                held.append(self._values(probabilities[part], pixels[part], void[part]))
                done = until
                if first + done in (begin + CHUNK_ROWS, scene.height_px):
                    yield begin, {k: np.concatenate([h[k] for h in held]) for k in held[0]}
                    begin, held = first + done, []

    def _values(self, probabilities, pixels, void) -> dict[str, np.ndarray]:
        """What the files hold of some rows."""
        answer = Prediction(probabilities, self.names)
        classes = answer.classes
        classes[void] = self.nodata
        values = {"classes": classes}
        if self.wanted.probabilities == "uint8":
            values["probabilities"] = np.rint(probabilities * QUANTISED).astype(np.uint8)
            values["probabilities"][void] = 255
        elif self.wanted.probabilities == "float16":
            values["probabilities"] = _half(probabilities, void)
        if self.wanted.uncertainty:
            values["confidence"] = _half(answer.confidence, void)
            values["entropy"] = _half(answer.entropy, void)
        if self.wanted.overlay:
            shown = self._displayable(pixels)
            mixed = (shown + self.palette[np.minimum(classes, 255)].astype(np.float32)) / 2
            values["overlay"] = np.where(void[..., None], shown, np.rint(mixed)).astype(np.uint8)
        return values

    def _displayable(self, pixels):
        """Red, green and blue, float32; of other types than uint8 from two deviations below the
        mean of training to two above."""
        take = [0, 1, 2] if pixels.shape[-1] >= 3 else [0, 0, 0]
        info = self.predictor.info
        if info.dtype == "uint8":
            return pixels[..., take].astype(np.float32)
        mean, std = (np.array(v, np.float32)[take] * info.greatest for v in (info.mean, info.std))
        return np.clip((pixels[..., take] - mean + 2 * std) / (4 * std) * 255, 0, 255)


def _half(values, void):
    """Rounded to 16 bits, and as 32 for GDAL."""
    values = values.astype(np.float16).astype(np.float32)
    values[void] = np.nan
    return values


def _greys(count: int) -> list[tuple[int, ...]]:
    return [(255 * i // max(count - 1, 1),) * 3 for i in range(count)]


class _Areas:
    """areas.csv: a row for each class of each picture, rewritten whole after each picture."""

    def __init__(self, path: Path, keep: bool):
        self._path = path
        self._rows: dict[str, list[list[str]]] = {}
        if keep and path.exists():
            try:
                rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
            except (UnicodeDecodeError, csv.Error) as error:
                raise InputError(
                    f"{path} is not as it was written ({error}): restore it, or begin again with"
                    " --overwrite."
                ) from error
            for row in filter(None, rows[1:]):
                self._rows.setdefault(row[0], []).append(row)

    def has(self, name: str) -> bool:
        """Whether a picture is in it."""
        return name in self._rows

    def put(
        self, picture: str, names: Sequence[str], counts: np.ndarray, metres: np.ndarray | None
    ) -> None:
        """Adds or replaces a picture: of each class its pixels and square metres."""
        total = max(counts.sum(), 1)
        areas = [""] * len(names) if metres is None else [f"{area:.3f}" for area in metres]
        self._rows[picture] = [
            [picture, name, str(count), f"{count / total:.6f}", area]
            for name, count, area in zip(names, counts.tolist(), areas, strict=True)
        ]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for rows in self._rows.values():
            writer.writerows(rows)
        write_text(self._path, text.getvalue())


class _Progress:
    """A bar on a terminal; elsewhere a line every ten seconds, with the time left."""

    def __init__(self, scenes: Sequence[Scene]):
        self.total = sum(scene.height_px * scene.width_px for scene in scenes)
        self.before = self.now = self.skipped = 0
        self.began = self.said = time.perf_counter()
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm.tqdm(total=self.total, unit="px", unit_scale=True, dynamic_ncols=True)

    def rows(self, scene: Scene, row: int, counted: bool = True) -> None:
        """A scene is predicted down to a row; or an earlier command had done it."""
        now = self.before + row * scene.width_px
        if not counted:
            self.skipped += now - self.now
        self._to(now, scene.name)

    def done(self, scene: Scene) -> None:
        """Nothing of a scene is left."""
        self.before += scene.height_px * scene.width_px
        if self.now + scene.height_px * scene.width_px == self.before:
            self.skipped += self.before - self.now
        self._to(self.before, scene.name)

    def _to(self, now, name):
        if self.bar is not None:
            self.bar.set_postfix_str(name, refresh=False)
            self.bar.update(now - self.now)
        self.now = now
        clock = time.perf_counter()
        if self.bar is None and clock - self.said >= 10:
            self.said = clock
            speed = max(now - self.skipped, 1) / (clock - self.began)
            print(
                f"{name}: {now / self.total:.1%} of {self.total / 1e6:.1f} Mpx,"
                f" {speed / 1e6:.3f} Mpx/s, {(self.total - now) / speed:.0f} s left",
                flush=True,
            )

    def close(self) -> None:
        """Ends the bar."""
        if self.bar is not None:
            self.bar.close()


def predict_images(
    predictor: Predictor,
    inputs: Sequence[str],
    folder: Path,
    *,
    augment: bool = False,
    runs: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    check: Callable[[], None] = lambda: None,
) -> list[str]:
    """Predicts every image by a classifier: `predictions.csv` has its five most probable classes.
    Each answer is kept as it is found, for `resume`.

    Args and Returns: as of `predict_pictures`.

    Raises:
        InputError: an output that exists, or an input that can't be used.
    """
    path = folder / "predictions.csv"
    # As training reads them.
    pictures, said = found(inputs, folder, whole=True, suffixes=image_folders.SUFFIXES), []
    about = {"runs": list(runs), "augment": augment}
    kept = KeptAnswers(folder, about, [path], resume, overwrite)
    for _, file in pictures:  # before hours of prediction would be lost
        with contextlib.suppress(DamagedError):
            predictor.check_file(file)
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    count = min(5, len(predictor.info.classes))
    header = [word for i in range(1, count + 1) for word in (f"class_{i}", f"probability_{i}")]
    writer.writerow(["picture", *header])
    for name, file in tqdm.tqdm(pictures, unit="images", disable=not sys.stderr.isatty()):
        check()
        best = kept.get(name, file)
        if best is None:
            try:
                best = predictor.predict(file, augment=augment).top(count)
            except DamagedError as error:
                said.append(str(error))
                continue
            kept.put(name, file, best)
        row = [word for name, share in best for word in (name, f"{share:.6f}")]
        writer.writerow([str(file), *row])
    write_text(path, text.getvalue())
    return said
