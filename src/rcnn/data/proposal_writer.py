"""Files of stored proposals: the writer, and the importers of other programs' boxes.

Letters: P proposals of an image.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64
from safetensors.torch import save_file
from torch import Tensor

from rcnn.data.coco import read_corners
from rcnn.data.dataset import DetectionDataset, Sample
from rcnn.data.errors import DataError, DataWarning
from rcnn.data.index import BORDER, clipped
from rcnn.data.proposals import (
    SUFFIX,
    Header,
    StoredProposals,
    another_data_set,
    check_proposals,
    fingerprint,
    image_differences,
    quote,
    shard_folder,
    sizes_by_id,
    unknown_image,
)
from rcnn.files import whole_file
from rcnn.settings import require, to_plain

SHARD_IMAGES = 64
"""Images of a shard: what a killed writer loses at most."""


class ProposalWriter:
    """Collects the proposals of a data set's images in any order and makes one file of them.

    Each ``SHARD_IMAGES`` finished images become a file in the folder ``shard_folder``, and
    so does the rest when an exception ends the ``with`` block. A new writer of the same path, data
    set and origin goes on with the images in ``missing``. ``finish`` joins the shards in
    memory; the bytes of the file depend neither on the order of the images nor on interruptions.
    One writer at a time may work on a path; several processes hand their results to it.

    Args:
        path: file to be made, ``.safetensors`` by custom.
        dataset: images that the proposals are of.
        origin: method, settings and weights that make the proposals, in words: everything that
            changes them, because a writer goes on with what the same origin has begun.
        sharded: whether to write shards, and to use those of an earlier writer; otherwise
            everything is held in memory until the end.

    Raises:
        DataError: the file exists, or its shards are of another data set or origin.
    """

    def __init__(
        self, path: Path, dataset: DetectionDataset, origin: str, *, sharded: bool = True
    ) -> None:
        require(bool(origin.strip()), "origin", origin, "some words on what makes the proposals")
        if path.exists():
            raise DataError(
                f"{path} exists already. Delete it, or choose another name.", "file that exists"
            )
        self.path = path
        self._sharded = sharded
        self._problems = dataset.problems
        self._sizes = sizes_by_id(dataset)
        names = dataset.class_names
        self._header = Header(1, origin, fingerprint(dataset), names, version("rcnn"))
        self._failed: dict[str, str] = {}
        self._counts: dict[str, int] = {}  # of every finished image
        self._buffer: dict[str, tuple[Tensor, Tensor]] = {}  # finished, but in no shard yet
        self._shards = self._usable_shards() if sharded else []

    def __enter__(self) -> ProposalWriter:
        return self

    def __exit__(self, *_: object) -> None:
        """Keep what is finished for the next writer."""
        if self._sharded:
            self._write_shard()

    def missing(self) -> list[str]:
        """Return the ids of the images without an entry so far, in the data set's order."""
        return [image_id for image_id in self._sizes if image_id not in self._counts]

    def add(
        self,
        image_id: str,
        boxes: Float[Tensor, "P 4"],
        scores: Float[Tensor, " P"] | None = None,
    ) -> None:
        """Add all proposals of an image; there may be none.

        Args:
            image_id: id in the data set.
            boxes: x1, y1, x2, y2 in continuous pixels of the original image. What passes the
                border by up to a pixel, as rounding does, is clipped.
            scores: any finite numbers, the best highest; the boxes are sorted by them, equal ones
                stay in order. Without scores the boxes count as sorted, best first, and the n-th
                gets 1/n.

        Raises:
            DataError: the data set has no such image, it was added before, or a box or score is
                unsound.
        """
        if image_id not in self._sizes:
            raise unknown_image(self.path, image_id, self._sizes)
        where = f"{self.path.name}, image {image_id}"
        if image_id in self._counts:
            raise DataError(
                f"{where}: has its proposals already. Add only images that missing() names.",
                "image added twice",
            )
        size, corners = self._sizes[image_id], _as_float32(boxes)
        ranks = np.arange(1, len(corners) + 1)
        values = _as_float32(scores) if scores is not None else (1 / ranks).astype(np.float32)
        check_proposals(corners, values, size, where, border=BORDER)
        order = np.argsort(-values, kind="stable")
        inside = clipped(corners.astype(np.float64), np.broadcast_to(size, (len(corners), 2)))
        self._buffer[image_id] = torch.from_numpy(inside[order]), torch.from_numpy(values[order])
        self._counts[image_id] = len(corners)
        if self._sharded and len(self._buffer) >= SHARD_IMAGES:
            self._write_shard()

    def add_failed(self, image_id: str, error: DataError) -> None:
        """Record an image that cannot be decoded; training puts another one in its slot.

        Raises:
            DataError: ``error``, if the data set's ``on_error`` is ``raise``.
        """
        if self._problems.on_error == "raise":
            raise error
        warnings.warn(f"{error} It gets no proposals.", DataWarning, stacklevel=2)
        self._failed[image_id] = str(error)
        self.add(image_id, torch.zeros(0, 4))

    def finish(self) -> Path:
        """Make the file and delete the shards.

        Raises:
            DataError: images are missing.
        """
        missing = self.missing()
        if missing:
            raise DataError(
                f"{self.path}: {len(missing)} of {len(self._sizes)} images have no proposals yet: "
                f"{quote(missing)}. Add them; an image without proposals is added with no boxes.",
                "missing images",
            )
        self._save(self.path, self._counts, self._entries())
        self._buffer.clear()
        if self._sharded:
            shutil.rmtree(shard_folder(self.path), ignore_errors=True)
        return self.path

    def _entries(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield the proposals of every finished image, with one shard open at a time."""
        for path in self._shards:
            shard = StoredProposals(path)
            for image_id in shard.image_ids:
                yield image_id, shard.boxes(image_id), shard.scores(image_id)
        for image_id, (boxes, scores) in self._buffer.items():
            yield image_id, boxes, scores

    def _usable_shards(self) -> list[Path]:
        """Return the shards that an earlier writer left, and take note of their images."""
        usable = []
        for path in sorted(shard_folder(self.path).glob(f"[0-9]*{SUFFIX}")):
            try:
                shard = StoredProposals(path)
                shard.check()
            except DataError as error:
                warnings.warn(
                    f"{path} is damaged ({error.reason}): its images are made again.",
                    DataWarning,
                    stacklevel=3,
                )
                path.unlink()
                continue
            if shard.header != self._header:
                raise DataError(
                    f"{path.parent} was begun for other proposals: {shard.header}; these are "
                    f"{self._header}. Delete the folder, or choose another name for the file.",
                    "unfinished proposals of something else",
                )
            self._counts.update(zip(shard.image_ids, shard.counts.tolist(), strict=True))
            self._failed.update(shard.failed)
            usable.append(path)
        return usable

    def _write_shard(self) -> None:
        if self._buffer:
            number = int(self._shards[-1].stem) + 1 if self._shards else 0
            path = shard_folder(self.path) / f"{number:06}{SUFFIX}"
            counts = {image_id: len(scores) for image_id, (_, scores) in self._buffer.items()}
            self._save(path, counts, [(i, *found) for i, found in self._buffer.items()])
            self._shards.append(path)
            self._buffer.clear()

    def _save(
        self, path: Path, counts: Mapping[str, int], entries: Iterable[tuple[str, Tensor, Tensor]]
    ) -> None:
        """Write a file of the images that ``counts`` names."""
        ids = sorted(counts)
        offsets = [0, *accumulate(counts[image_id] for image_id in ids)]
        first = dict(zip(ids, offsets, strict=False))
        boxes, scores = torch.empty(offsets[-1], 4), torch.empty(offsets[-1])
        for image_id, some_boxes, some_scores in entries:
            rows = slice(first[image_id], first[image_id] + counts[image_id])
            boxes[rows], scores[rows] = some_boxes, some_scores
        sizes = torch.tensor([self._sizes[image_id] for image_id in ids], dtype=torch.int32)
        tensors = {"boxes": boxes, "scores": scores, "offsets": torch.tensor(offsets)}
        failed = {image_id: self._failed[image_id] for image_id in ids if image_id in self._failed}
        header = dataclasses.replace(self._header, image_ids=tuple(ids), failed=failed)
        metadata = {"proposals": json.dumps(to_plain(header))}
        with whole_file(path) as partial:
            save_file({**tensors, "sizes": sizes}, partial, metadata)


def decode(dataset: DetectionDataset, index: int) -> Sample | DataError:
    """Return a sample to make proposals of, or the fault of its file.

    The fault is returned, because an exception that leaves a worker arrives as the text of its
    traceback; ``ProposalWriter.add_failed`` takes it.
    """
    try:
        return dataset[index]
    except DataError as error:
        return error


MAT_RULE = (
    "Such a file has the variables 'boxes', a cell array with a P x 4 matrix for each image, and "
    "'images', a cell array with the id of each image"
)


def import_mat(
    path: Path | Mapping[str, Path],
    dataset: DetectionDataset,
    out: Path,
    origin: str = "selective search",
) -> Path:
    """Make a file of the boxes in a .mat file, as the authors of R-CNN and Fast R-CNN gave them.

    The boxes in it are (y1, x1, y2, x2), 1-based and inclusive, best first and without scores.
    They become x1 - 1, y1 - 1, x2, y2, like the boxes of VOC annotations. The whole .mat file is
    held in memory.

    Args:
        path: the file; for a joined data set one for each part, by the part's name (``VOC2007``).
        dataset: images of the boxes; every one has to be in the file, and no other.
        out: file to be made.
        origin: what made the boxes, in words.

    Returns:
        ``out``.

    Raises:
        ImportError: scipy is not installed.
        DataError: a file cannot be read, is of other images, or has an unsound box.
    """
    parts = path if isinstance(path, Mapping) else {"": path}
    found = {
        f"{part}/{name}" if part else name: (f"{file}, image {name}", boxes)
        for part, file in parts.items()
        for name, boxes in _read_mat(file).items()
    }
    differences = image_differences(found, dataset.image_ids)
    if differences:
        raise another_data_set(" and ".join(map(str, parts.values())), differences)
    with ProposalWriter(out, dataset, origin, sharded=False) as writer:
        for image_id, size in sizes_by_id(dataset).items():
            where, boxes = found[image_id]
            corners = _continuous(boxes, where)
            where = f"{where} (0-based, continuous)"
            # Here rather than in the writer, which forgives a pixel beyond the border.
            check_proposals(corners, np.zeros(len(corners)), size, where)
            writer.add(image_id, torch.from_numpy(corners).float())
        return writer.finish()


def _continuous(boxes: np.ndarray, where: str) -> Float64[np.ndarray, "P 4"]:
    if boxes.size == 0:  # MATLAB's [] is 0 x 0
        return np.zeros((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "iuf":
        raise DataError.about(
            "boxes of the wrong shape",
            where=where,
            found=f"{' x '.join(map(str, boxes.shape))} of {boxes.dtype}",
            allowed=MAT_RULE,
        )
    y1, x1, y2, x2 = boxes.astype(np.float64).T
    return np.stack([x1 - 1, y1 - 1, x2, y2], axis=1)


def _read_mat(file: Path) -> dict[str, np.ndarray]:
    """Return the boxes of each image as the file has them."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError(
            ".mat files are read by scipy, which is not installed: pip install 'rcnn[proposals]'"
        ) from error
    try:
        content = loadmat(file, variable_names=("boxes", "images"))
    except NotImplementedError as error:  # an HDF5 file, which is what -v7.3 means
        raise DataError(
            f"{file} was saved by MATLAB with -v7.3. Save it with -v7.", "unreadable proposals"
        ) from error
    except Exception as error:  # a broken file can fail anywhere in scipy, in any way
        raise DataError(
            f"{file} cannot be read as .mat: {error}. {MAT_RULE}.", "unreadable proposals"
        ) from error
    missing = [name for name in ("boxes", "images") if name not in content]
    if missing:
        raise DataError(
            f"{file} has no {' and no '.join(missing)}. {MAT_RULE}.", "missing variable"
        )
    boxes, images = content["boxes"].ravel(), content["images"].ravel()
    if boxes.dtype != object or images.dtype != object or len(boxes) != len(images):
        raise DataError.about(
            "variables of the wrong shape",
            where=str(file),
            found=f"{len(boxes)} boxes of type {boxes.dtype}, {len(images)} images of type "
            f"{images.dtype}",
            allowed=MAT_RULE,
        )
    names = ["".join(map(str, image.ravel())) for image in images]
    found = dict(zip(names, boxes, strict=True))
    if len(found) < len(names):
        name = Counter(names).most_common(1)[0][0]
        raise DataError.about("image twice", where=str(file), found=name, allowed=MAT_RULE)
    return found


def import_json(
    path: Path,
    dataset: DetectionDataset,
    out: Path,
    origin: str | None = None,
    *,
    absent_is_empty: bool = False,
) -> Path:
    """Make a file of a list of ``{"image_id", "bbox": [x, y, w, h], "score"}``, COCO's results.

    Categories are not looked at. Image ids have to be those of the data set letter by letter; a
    number counts as its digits. The whole list is held in memory. The format:
    https://cocodataset.org/#format-results.

    Args:
        path: the JSON file.
        dataset: images of the boxes.
        out: file to be made.
        origin: what made the boxes, in words; the name of the JSON file, if None.
        absent_is_empty: an image of the data set that the list never mentions has no proposals; the
            format has no other way to say so. Otherwise it is an error.

    Returns:
        ``out``.

    Raises:
        DataError: the file cannot be read, is of other images, or has an unsound box or score.
    """
    rows = _read_json(path)
    known = [*rows, *dataset.image_ids] if absent_is_empty else list(rows)
    differences = image_differences(known, dataset.image_ids)
    if differences:
        raise another_data_set(
            str(path),
            differences,
            "Take the data set and split that the proposals were made of; if images without any "
            "proposal are meant to be absent, import with absent_is_empty=True",
        )
    with ProposalWriter(out, dataset, origin or path.name, sharded=False) as writer:
        for image_id in dataset.image_ids:
            values = torch.tensor(rows.get(image_id, array("d")), dtype=torch.float32)
            table = values.reshape(-1, 5)
            writer.add(image_id, table[:, :4], table[:, 4])
        return writer.finish()


def _read_json(path: Path) -> dict[str, array[float]]:
    """Return x1, y1, x2, y2 and score of every entry, row after row, by image id."""
    try:
        entries = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as JSON: {error}.", "unreadable proposals"
        ) from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(
            f"{path} is no list of entries. A result file in COCO's format is a list of "
            "{image_id, bbox, score}.",
            "unreadable proposals",
        )
    rows: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, entry {number}"
        image_id, score = entry.get("image_id"), entry.get("score")
        if not _is_one_of(image_id, (int, str)) or not _is_one_of(score, (int, float)):
            raise DataError.about(
                "incomplete entry",
                where=where,
                found=f"image_id={image_id!r} score={score!r}",
                allowed="An entry needs an image_id, a bbox, and a number as score",
            )
        rows[str(image_id)].extend((*read_corners(entry, where), float(score)))
    return dict(rows)


def _is_one_of(value: object, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _as_float32(values: Float[Tensor, "*shape"]) -> Float[np.ndarray, "*shape"]:
    return np.asarray(values.detach().cpu().float().contiguous().numpy())
