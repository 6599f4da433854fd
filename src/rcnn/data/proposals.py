"""Stored proposals: one file per split, and data sets with samples that carry them.

Letters: I images, N proposals of all images, P proposals of one. A size is (height, width).

A file is a safetensors file with four tensors and one entry of metadata:

- ``boxes`` float32 (N, 4): x1, y1, x2, y2 in continuous pixels of the original image;
- ``scores`` float32 (N,): best first within an image;
- ``offsets`` int64 (I + 1,): image i has the rows ``offsets[i]`` up to ``offsets[i + 1]``;
- ``sizes`` int32 (I, 2): sizes of the original images;
- metadata ``proposals``: a ``Header`` as JSON. It is one entry, because safetensors writes
  several in a random order, and equal proposals are equal bytes here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int32
from pydantic import PositiveInt
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rcnn.data.dataset import DetectionDataset, Sample
from rcnn.data.errors import DataError
from rcnn.data.index import PackedStrings, box_rule
from rcnn.data.splits import Split
from rcnn.ops.boxes import clip, inside
from rcnn.settings import from_plain, require, settings
from rcnn.structures import GroundTruth

SUFFIX = ".safetensors"


@settings
class Header:
    """What stored proposals are proposals of.

    Attributes:
        format: version of the format.
        origin: method, settings and weights that made the proposals, in words.
        fingerprint: ``fingerprint`` of the data set.
        class_names: class names of the data set.
        rcnn: version of this package that wrote the file.
        image_ids: ids of the images, sorted.
        failed: reason for each image that could not be decoded and has no proposals, by id.
    """

    format: Literal[1]
    origin: str
    fingerprint: str
    class_names: tuple[str, ...]
    rcnn: str
    image_ids: tuple[str, ...] = ()
    failed: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.origin} (data set {self.fingerprint[:16]}, rcnn {self.rcnn})"


def fingerprint(dataset: DetectionDataset) -> str:
    """Return 64 hexadecimal digits that change with the image ids, sizes and class names.

    The order of the images, their objects and their pixels do not matter: proposals are found by
    id and do not depend on the annotation. The digits are the same on every platform.
    """
    lines = sorted(json.dumps([image_id, *size]) for image_id, size in sizes_by_id(dataset).items())
    content = "\n".join([json.dumps(list(dataset.class_names)), *lines])
    return hashlib.sha256(content.encode()).hexdigest()


def sizes_by_id(dataset: DetectionDataset) -> dict[str, tuple[int, int]]:
    """Return the (height, width) of each image by its id, in the data set's order."""
    return dict(zip(dataset.image_ids, map(tuple, dataset.sizes.tolist()), strict=True))


class StoredProposals:
    """The proposals of a data set's images, mapped from their file into memory.

    Only the rows of the images that are asked for are read. The processes of a loader share the
    pages of the file, and a pickle of this object holds its path only.

    Args:
        path: file that ``rcnn propose`` or ``ProposalWriter`` has made.

    Attributes:
        path: absolute path.
        header: metadata of the file without image ids and failed images.
        image_ids: image ids of the data set, sorted.
        sizes: sizes of the original images, in the order of ``image_ids``.
        counts: number of proposals of each image, in the order of ``image_ids``.
        failed: reason for each image that could not be decoded, by id.

    Raises:
        DataError: the file is missing, damaged, or of another format or version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        try:
            self._file: Any = safe_open(self.path, framework="pt")
            metadata = json.loads((self._file.metadata() or {}).get("proposals", "null"))
            header = from_plain(Header, metadata, "metadata proposals")
            _check_layout(self._file, header.image_ids)
        except (OSError, SafetensorError, ValueError) as error:
            raise DataError(
                f"{path} is no sound {SUFFIX} file of proposals: {error}. {_remedy(self.path)}",
                "unreadable proposals",
            ) from error
        self.header = dataclasses.replace(header, image_ids=(), failed={})
        self.failed = header.failed
        # A tuple of strings would be copied page by page into every worker.
        self.image_ids = PackedStrings(header.image_ids)
        self.sizes: Int32[np.ndarray, "I 2"] = self._file.get_tensor("sizes").numpy()
        self._offsets = self._file.get_tensor("offsets").numpy()
        self.counts = np.diff(self._offsets)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __reduce__(self) -> tuple[type[StoredProposals], tuple[Path]]:
        return StoredProposals, (self.path,)

    def boxes(self, image_id: str, limit: int | None = None) -> Float[Tensor, "P 4"]:
        """Return the best ``limit`` boxes of an image, or all, best first.

        Raises:
            DataError: the file has no such image.
        """
        return self._rows("boxes", image_id, limit).clone()

    def scores(self, image_id: str, limit: int | None = None) -> Float[Tensor, " P"]:
        """Return the scores of what ``boxes`` returns.

        Raises:
            DataError: the file has no such image.
        """
        return self._rows("scores", image_id, limit).clone()

    def check(self) -> None:
        """Check every proposal: what another program wrote may be wrong.

        Raises:
            DataError: ``check_proposals`` finds a fault.
        """
        for image_id, size in zip(self.image_ids, self.sizes.tolist(), strict=True):
            boxes, scores = self._rows("boxes", image_id), self._rows("scores", image_id)
            try:
                check_proposals(boxes, scores, tuple(size), f"{self.path}, image {image_id}")
            except DataError as error:
                raise DataError(f"{error} {_remedy(self.path)}", error.reason) from error

    def _rows(self, name: str, image_id: str, limit: int | None = None) -> Tensor:
        """Return rows of an image as a view of the file."""
        index = bisect_left(self.image_ids, image_id)
        if index == len(self) or self.image_ids[index] != image_id:
            raise DataError(
                f"{self.path} has no proposals of an image {image_id}.", "unknown image"
            )
        start, end = self._offsets[index : index + 2].tolist()
        end = end if limit is None else min(end, start + limit)
        rows: Tensor = self._file.get_slice(name)[start:end]
        return rows


def _check_layout(file: Any, image_ids: tuple[str, ...]) -> None:
    """Raise a ``ValueError`` if the tensors of a file are not those of its images."""
    slices = {name: file.get_slice(name) for name in sorted(file.keys())}
    found = {name: [each.get_dtype(), *each.get_shape()] for name, each in slices.items()}
    total = found.get("scores", [0])[-1]
    expected = {
        "boxes": ["F32", total, 4],
        "offsets": ["I64", len(image_ids) + 1],
        "scores": ["F32", total],
        "sizes": ["I32", len(image_ids), 2],
    }
    if found != expected:
        raise ValueError(f"it has the tensors {found} instead of {expected}")
    offsets = file.get_tensor("offsets")
    if offsets[0] != 0 or offsets[-1] != total or (offsets.diff() < 0).any():
        raise ValueError(f"its offsets do not rise from 0 to {total}")
    if any(one >= other for one, other in pairwise(image_ids)):
        raise ValueError("its image ids are not in order")


class ProposedDataset(DetectionDataset):
    """The images of a data set with the best of their stored proposals.

    Everything is checked here, before the first step of a training: the file is read once.

    Args:
        dataset: the images.
        stored: proposals of exactly these images.
        limit: number of proposals of an image that are used at most (Fast R-CNN, section 2: about
            2000); all, if None.

    Raises:
        SettingsError: ``limit`` is not positive.
        DataError: the proposals are of other images, sizes or classes, or one of them is unsound.
    """

    def __init__(
        self, dataset: DetectionDataset, stored: StoredProposals, limit: int | None = 2000
    ) -> None:
        require(limit is None or limit > 0, "limit", limit, "a positive number or null")
        _check_data_set(dataset, stored)
        stored.check()
        self.dataset = dataset
        self.stored = stored
        self.limit = limit
        self.class_names = dataset.class_names
        self.image_ids = dataset.image_ids
        self.aspect_ratios = dataset.aspect_ratios
        self.problems = dataset.problems

    @property
    def sizes(self) -> Int32[np.ndarray, "I 2"]:
        """The size of every image."""
        return self.dataset.sizes

    def ground_truth(self, index: int) -> GroundTruth:
        """Return the objects of an image, without decoding it."""
        return self.dataset.ground_truth(index)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image; its proposals are in pixels of its original size.

        Raises:
            DataError: the image cannot be decoded.
        """
        boxes = self.stored.boxes(self.image_ids[index], self.limit)
        return dataclasses.replace(self.dataset[index], proposals=boxes)


def _check_data_set(dataset: DetectionDataset, stored: StoredProposals) -> None:
    """Raise a ``DataError`` that says in what a data set is not that of stored proposals."""
    header, expected, sizes = stored.header, fingerprint(dataset), sizes_by_id(dataset)
    if header.fingerprint == expected:
        return
    where = f"{stored.path} ({header.origin})"
    require_same_images(where, stored.image_ids, dataset)
    resized = [
        "{} ({} x {} instead of {} x {})".format(image_id, *size, *sizes[image_id])
        for image_id, size in zip(stored.image_ids, stored.sizes.tolist(), strict=True)
        if tuple(size) != sizes[image_id]
    ]
    found = f"their fingerprint {header.fingerprint} is not {expected}"
    if header.class_names != dataset.class_names:
        names = [", ".join(each) for each in (header.class_names, dataset.class_names)]
        found = f"their class names are {names[0]} instead of {names[1]}"
    elif resized:
        found = f"{len(resized)} images had another height x width{quote(resized)}"
    raise _another_data_set(where, found)


@settings
class ProposalFiles:
    """Folder with the stored proposals of a run.

    Attributes:
        folder: folder of ``train.safetensors``, ``val.safetensors`` and ``test.safetensors``, of
            those splits that the run uses; null for a detector that makes its own proposals.
        limit: number of proposals of an image that are read at most, the best (Fast R-CNN,
            section 2: about 2000).
    """

    folder: str | None = None
    limit: PositiveInt = 2000

    def with_proposals(self, dataset: DetectionDataset, split: Split) -> ProposedDataset:
        """Return the data set of a split with its proposals, checked against each other.

        Raises:
            DataError: the file is missing, damaged, or of another data set.
        """
        if self.folder is None:
            raise DataError(
                "The detector makes no proposals, and proposals.folder is null. Make some with "
                "`rcnn propose` and name their folder.",
                "missing proposals",
            )
        stored = StoredProposals(Path(self.folder, f"{split}{SUFFIX}"))
        return ProposedDataset(dataset, stored, self.limit)


def check_proposals(
    boxes: Float[Tensor, "P 4"],
    scores: Float[Tensor, " P"],
    size: tuple[int, int],
    where: str,
    border: float = 0.0,
) -> None:
    """Check the proposals of one image.

    Args:
        boxes: x1, y1, x2, y2.
        scores: any finite numbers, the best first.
        size: (height, width) of the image.
        where: file and image, for the message.
        border: pixels by which a box may pass the border of its image.

    Raises:
        DataError: a box or score is unsound; boxes in the order (y1, x1, y2, x2) are recognised.
    """
    sizes = torch.tensor([size])
    outside = ~inside(boxes, sizes, border)[0]
    swapped = inside(boxes[:, [1, 0, 3, 2]], sizes, border).all()
    visible = clip(boxes[None], sizes)[0]
    empty = ~(visible[:, 2:] > visible[:, :2]).all(1)
    rising = torch.zeros(len(scores), dtype=torch.bool)
    rising[1:] = scores[1:] > scores[:-1]
    swap_rule = (
        f"In an image of {size[1]} x {size[0]} pixels (width x height) all {len(boxes)} boxes lie "
        "inside with x and y exchanged, but not as they are: exchange their columns"
    )
    faults = [
        ("boxes in (y1, x1, y2, x2) order", outside & swapped, swap_rule),
        ("unsound box", outside | empty, box_rule(size)),
        ("unsound score", ~scores.isfinite(), "Scores are finite numbers"),
        ("proposals not best first", rising, "Sort the proposals of each image by score"),
    ]
    for reason, faulty, allowed in faults:
        if faulty.any():
            index = int(faulty.int().argmax())
            x1, y1, x2, y2 = boxes[index].tolist()
            raise DataError.about(
                reason,
                where=f"{where}, proposal {index + 1} of {len(boxes)}",
                found=f"x1={x1:g} y1={y1:g} x2={x2:g} y2={y2:g} score={scores[index]:g}",
                allowed=allowed,
            )


def require_same_images(
    where: str, found: Iterable[str], dataset: DetectionDataset, hint: str = ""
) -> None:
    """Raise a ``DataError`` unless proposals are of exactly the images of a data set.

    Args:
        where: file of the proposals, for the message.
        found: ids of its images.
        dataset: the images.
        hint: another remedy, for the message.
    """
    has, needs = dict.fromkeys(found), dict.fromkeys(dataset.image_ids)
    missing = [image_id for image_id in needs if image_id not in has]
    surplus = [image_id for image_id in has if image_id not in needs]
    if missing or surplus:
        differences = (
            f"{len(missing)} of the data set's {len(needs)} images have no proposals"
            f"{quote(missing)}; {len(surplus)} images with proposals are not in the data set"
            f"{quote(surplus)}"
        )
        raise _another_data_set(where, differences, hint)


def quote(names: Sequence[str]) -> str:
    """Return ``: a, b, c, ...``, the first three of some names, or nothing without any."""
    return f": {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else ""


def _another_data_set(where: str, found: str, hint: str = "") -> DataError:
    allowed = (
        "Take the data set and split that the proposals were made of, or make proposals of this "
        f"one with `rcnn propose`{hint}"
    )
    return DataError.about(
        "proposals of another data set", where=where, found=found, allowed=allowed
    )


def shard_folder(path: Path) -> Path:
    """Return the folder in which a writer keeps the finished parts of a file."""
    return path.with_name(f"{path.name}.shards")


def _remedy(path: Path) -> str:
    """Say how to make a file, or to go on with one."""
    begun = f", which goes on with {shard_folder(path)}" if shard_folder(path).exists() else ""
    return f"Make it with `rcnn propose ... --out {path.with_suffix(SUFFIX)}`{begun}."
