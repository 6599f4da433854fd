"""Files of stored proposals: the writer, and the importers of other programs' boxes.

Letters: P proposals of an image.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pydantic.dataclasses
import torch
from jaxtyping import Float, Float64
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from rcnn.data.dataset import DetectionDataset, Sample
from rcnn.data.errors import DataError, DataWarning
from rcnn.data.index import BORDER
from rcnn.data.proposals import (
    SUFFIX,
    Header,
    StoredProposals,
    check_proposals,
    fingerprint,
    quote,
    require_same_images,
    shard_folder,
    sizes_by_id,
)
from rcnn.files import whole_file
from rcnn.ops.boxes import clip
from rcnn.settings import require, to_plain

SHARD_IMAGES = 64
"""Images of a shard: what a killed writer loses at most."""

Found = tuple[Float[Tensor, "P 4"], Float[Tensor, " P"]]
"""Boxes and scores of an image."""


class ProposalWriter:
    """Collects the proposals of a data set's images in any order and makes one file of them.

    Each ``SHARD_IMAGES`` finished images become a file in the folder ``shard_folder``, and
    so does the rest when an exception ends the ``with`` block. A new writer of the same path, data
    set and origin goes on with the images in ``missing``. Memory holds all proposals until
    ``finish``. The bytes of the file depend neither on the order of the images nor on
    interruptions. One writer at a time may work on a path; several processes hand their results
    to it.

    Args:
        path: file to be made, ``.safetensors`` by custom.
        dataset: images that the proposals are of.
        origin: method, settings and weights that make the proposals, in words: everything that
            changes them, because a writer goes on with what the same origin has begun.
        sharded: whether to write shards, and to use those of an earlier writer.

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
        self._problems = dataset.problems
        self._sizes = sizes_by_id(dataset)
        names = dataset.class_names
        self._header = Header(1, origin, fingerprint(dataset), names, version("rcnn"))
        self._found: dict[str, Found] = {}
        self._failed: dict[str, str] = {}
        self._sharded = sharded
        self._in_shards = 0  # images of self._found, which come first
        self._next_shard = 0
        if sharded:
            self._take_over_shards()

    def __enter__(self) -> ProposalWriter:
        return self

    def __exit__(self, *_: object) -> None:
        """Keep what is finished for the next writer."""
        if self._sharded:
            self._write_shard()

    def missing(self) -> list[str]:
        """Return the ids of the images without an entry so far, in the data set's order."""
        return [image_id for image_id in self._sizes if image_id not in self._found]

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
        where = f"{self.path.name}, image {image_id}"
        if image_id not in self._sizes or image_id in self._found:
            fault = "it has its proposals already" if image_id in self._found else "unknown image"
            raise DataError(f"{where}: {fault}. Add only images that missing() names.", fault)
        scores = 1 / torch.arange(1, len(boxes) + 1) if scores is None else scores
        values, order = scores.detach().cpu().float().sort(descending=True, stable=True)
        corners = boxes.detach().cpu().float()[order]
        size = self._sizes[image_id]
        check_proposals(corners, values, size, where, BORDER)
        self._found[image_id] = clip(corners[None], torch.tensor([size]))[0], values
        if self._sharded and len(self._found) - self._in_shards >= SHARD_IMAGES:
            self._write_shard()

    def add_failed(self, image_id: str, error: DataError) -> None:
        """Record an image that cannot be decoded; training puts another one in its slot.

        Raises:
            DataError: ``error``, unless the data set's ``on_error`` is ``skip``.
        """
        if self._problems.on_error != "skip":
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
                f"{self.path}: {len(missing)} of {len(self._sizes)} images have no proposals yet"
                f"{quote(missing)}. Add them; an image without proposals is added with no boxes.",
                "missing images",
            )
        self._save(self.path, self._found)
        if self._sharded:
            self._in_shards = len(self._found)
            shutil.rmtree(shard_folder(self.path), ignore_errors=True)
        return self.path

    def _take_over_shards(self) -> None:
        """Go on with the shards that an earlier writer left."""
        for path in sorted(shard_folder(self.path).glob(f"[0-9]*{SUFFIX}")):
            self._next_shard = int(path.stem) + 1
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
            for image_id in shard.image_ids:
                self._found[image_id] = shard.boxes(image_id), shard.scores(image_id)
            self._failed.update(shard.failed)
        self._in_shards = len(self._found)

    def _write_shard(self) -> None:
        image_ids = list(self._found)[self._in_shards :]
        if image_ids:
            self._save(shard_folder(self.path) / f"{self._next_shard:06}{SUFFIX}", image_ids)
            self._in_shards += len(image_ids)
            self._next_shard += 1

    def _save(self, path: Path, image_ids: Iterable[str]) -> None:
        ids = sorted(image_ids)
        boxes, scores = zip(*(self._found[image_id] for image_id in ids), strict=True)
        tensors = {
            "boxes": torch.cat(boxes),
            "scores": torch.cat(scores),
            "offsets": torch.tensor([0, *map(len, scores)]).cumsum(0),
            "sizes": torch.tensor([self._sizes[image_id] for image_id in ids], dtype=torch.int32),
        }
        failed = {image_id: self._failed[image_id] for image_id in ids if image_id in self._failed}
        header = dataclasses.replace(self._header, image_ids=tuple(ids), failed=failed)
        with whole_file(path) as partial:
            save_file(tensors, partial, {"proposals": json.dumps(to_plain(header))})


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
    "Such a file, saved with -v7 at most, has the variables 'boxes', a cell array with a P x 4 "
    "matrix for each image, and 'images', a cell array with the id of each image"
)


def import_mat(
    path: Path | Mapping[str, Path],
    dataset: DetectionDataset,
    out: Path,
    origin: str = "selective search",
) -> Path:
    """Make a file of the boxes in a .mat file, as R-CNN's authors gave them; return its path.

    The boxes in it are (y1, x1, y2, x2), 1-based and inclusive, best first and without scores.
    They become x1 - 1, y1 - 1, x2, y2, like the boxes of VOC annotations. The whole .mat file is
    held in memory.

    Args:
        path: the file; for a joined data set one for each part, by the part's name (``VOC2007``).
        dataset: images of the boxes; every one has to be in the file, and no other.
        out: file to be made.
        origin: what made the boxes, in words.

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
    require_same_images(" and ".join(map(str, parts.values())), found, dataset)
    with ProposalWriter(out, dataset, origin, sharded=False) as writer:
        for image_id, size in sizes_by_id(dataset).items():
            where, matrix = found[image_id]
            boxes = torch.from_numpy(_continuous(matrix, where))
            where = f"{where} (0-based, continuous)"
            # Here rather than in the writer, which forgives a pixel beyond the border.
            check_proposals(boxes, boxes.new_zeros(len(boxes)), size, where)
            writer.add(image_id, boxes)
        return writer.finish()


def _continuous(boxes: np.ndarray, where: str) -> Float64[np.ndarray, "P 4"]:
    if boxes.size == 0:  # MATLAB's [] is 0 x 0
        return np.zeros((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "iuf":
        found = f"{' x '.join(map(str, boxes.shape))} of {boxes.dtype}"
        raise DataError.about(
            "boxes of the wrong shape", where=where, found=found, allowed=MAT_RULE
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
        names = ["".join(map(str, image.ravel())) for image in content["images"].ravel()]
        found = dict(zip(names, content["boxes"].ravel(), strict=True))
    except Exception as error:  # a broken file can fail anywhere in scipy, in any way
        raise DataError(
            f"{file} cannot be read as .mat: {type(error).__name__}: {error}. {MAT_RULE}.",
            "unreadable proposals",
        ) from error
    if len(found) < len(names):
        name = Counter(names).most_common(1)[0][0]
        raise DataError.about("image twice", where=str(file), found=name, allowed=MAT_RULE)
    return found


@pydantic.dataclasses.dataclass(config=ConfigDict(strict=True))
class _Entry:
    """An entry of a list in COCO's format of results; other keys are not looked at."""

    image_id: int | str
    bbox: tuple[float, float, float, float]
    score: float


def import_json(
    path: Path,
    dataset: DetectionDataset,
    out: Path,
    origin: str | None = None,
    *,
    absent_is_empty: bool = False,
) -> Path:
    """Make a file of a list in COCO's format of results, and return its path.

    An entry is ``{"image_id", "bbox": [x, y, w, h], "score"}``; its category is not looked at.
    Image ids have to be those of the data set letter by letter; a number counts as its digits. The
    whole list is held in memory. The format: https://cocodataset.org/#format-results.

    Args:
        path: the JSON file.
        dataset: images of the boxes.
        out: file to be made.
        origin: what made the boxes, in words; the name of the JSON file, if None.
        absent_is_empty: an image of the data set that the list never mentions has no proposals; the
            format has no other way to say so. Otherwise it is an error.

    Raises:
        OSError: the file cannot be opened.
        DataError: the file is no such list, is of other images, or has an unsound box or score.
    """
    try:
        entries = TypeAdapter(list[_Entry]).validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        where, found = str(path), fault["msg"]
        if fault["loc"]:
            number, key, *_ = (*fault["loc"], "entry")
            where = f"{path}, entry {int(number) + 1}"
            found = f"{key}={fault['input']!r}: {fault['msg']}"
        raise DataError.about(
            "unreadable proposals",
            where=where,
            found=found,
            allowed="A file in COCO's format of results is a list of entries with image_id, bbox "
            "(x, y, width, height) and score",
        ) from error
    rows: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for entry in entries:
        x, y, width, height = entry.bbox
        rows[str(entry.image_id)].append((x, y, x + width, y + height, entry.score))
    known = [*rows, *dataset.image_ids] if absent_is_empty else list(rows)
    hint = "; if images without any proposal are meant to be absent, say absent_is_empty"
    require_same_images(str(path), known, dataset, hint)
    with ProposalWriter(out, dataset, origin or path.name, sharded=False) as writer:
        for image_id in dataset.image_ids:
            table = torch.tensor(rows.get(image_id, [])).reshape(-1, 5)
            writer.add(image_id, table[:, :4], table[:, 4])
        return writer.finish()
