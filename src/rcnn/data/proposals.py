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
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64
from pydantic import PositiveInt
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rcnn.data.dataset import DetectionDataset, Sample
from rcnn.data.errors import DataError
from rcnn.data.index import PackedStrings, box_rule
from rcnn.data.splits import Split
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
        self._file, header = _open(self.path)
        self.header = dataclasses.replace(header, image_ids=(), failed={})
        self.failed = header.failed
        # A tuple of strings would be copied page by page into every worker.
        self.image_ids = PackedStrings(header.image_ids)
        self.sizes: Int32[np.ndarray, "I 2"] = self._file.get_tensor("sizes").numpy()
        self._offsets: Int64[np.ndarray, " I+1"] = self._file.get_tensor("offsets").numpy()
        self.counts: Int64[np.ndarray, " I"] = np.diff(self._offsets)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __reduce__(self) -> tuple[type[StoredProposals], tuple[Path]]:
        return StoredProposals, (self.path,)

    def boxes(self, image_id: str, limit: int | None = None) -> Float[Tensor, "P 4"]:
        """Return the best ``limit`` boxes of an image, or all, best first.

        Raises:
            DataError: the file has no such image.
        """
        return self._rows("boxes", self._index(image_id), limit).clone()

    def scores(self, image_id: str, limit: int | None = None) -> Float[Tensor, " P"]:
        """Return the scores of what ``boxes`` returns.

        Raises:
            DataError: the file has no such image.
        """
        return self._rows("scores", self._index(image_id), limit).clone()

    def check(self) -> None:
        """Check every proposal: what another program wrote may be wrong.

        Raises:
            DataError: a box is not finite, empty, outside its image or in (y1, x1, y2, x2) order,
                or the scores of an image are not finite numbers, the best first.
        """
        errors: dict[str, DataError] = {}
        for index, ((height, width), image_id) in enumerate(
            zip(self.sizes.tolist(), self.image_ids, strict=True)
        ):
            boxes = self._rows("boxes", index).numpy()
            scores = self._rows("scores", index).numpy()
            where = f"{self.path}, image {image_id}"
            try:
                check_proposals(boxes, scores, (height, width), where, best_first=True)
            except DataError as error:
                errors[image_id] = error
        if errors:
            first = next(iter(errors.values()))
            raise DataError(
                f"{first} {len(errors)} of the {len(self)} images have unsound proposals: "
                f"{quote(list(errors))}. {_remedy(self.path)}",
                first.reason,
            )

    def _index(self, image_id: str) -> int:
        index = bisect_left(self.image_ids, image_id)
        if index == len(self) or self.image_ids[index] != image_id:
            raise unknown_image(self.path, image_id, self.image_ids)
        return index

    def _rows(self, name: str, index: int, limit: int | None = None) -> Tensor:
        """Return rows of an image as a view of the file."""
        start, end = self._offsets[index : index + 2].tolist()
        end = end if limit is None else min(end, start + limit)
        rows: Tensor = self._file.get_slice(name)[start:end]
        return rows


def _open(path: Path) -> tuple[Any, Header]:
    """Return the handle of a file and its header, both checked."""
    try:
        file: Any = safe_open(path, framework="pt")
        metadata = (file.metadata() or {}).get("proposals", "null")
        header = from_plain(Header, json.loads(metadata), "metadata proposals")
        fault = _layout_fault(file, header)
    except (OSError, SafetensorError, ValueError) as error:
        fault = str(error)
        if path.suffix == ".proposals":
            fault = "an earlier rcnn wrote it, in a format of its own"
    if fault is not None:
        raise DataError(
            f"{path} is no sound {SUFFIX} file of proposals: {fault}. {_remedy(path)}",
            "unreadable proposals",
        )
    return file, header


def _layout_fault(file: Any, header: Header) -> str | None:
    """Say in what the tensors of a file differ from what its header promises, if they do."""
    slices = {name: file.get_slice(name) for name in sorted(file.keys())}
    found = {name: [each.get_dtype(), *each.get_shape()] for name, each in slices.items()}
    ids, total = header.image_ids, found.get("scores", [0])[-1]
    expected = {
        "boxes": ["F32", total, 4],
        "offsets": ["I64", len(ids) + 1],
        "scores": ["F32", total],
        "sizes": ["I32", len(ids), 2],
    }
    if found != expected:
        return f"it has the tensors {found} instead of {expected}"
    offsets = file.get_tensor("offsets")
    if offsets[0] != 0 or offsets[-1] != total or (offsets.diff() < 0).any():
        return f"its offsets do not rise from 0 to {total}"
    if any(one >= other for one, other in pairwise(ids)):
        return "its image ids are not in order"
    return None


class ProposedDataset(DetectionDataset):
    """The images of a data set with the best of their stored proposals.

    ``with_proposals`` makes one after it has checked that the two belong together.

    Args:
        dataset: the images.
        stored: their proposals.
        limit: number of proposals of an image that are used at most; all, if None.
    """

    def __init__(
        self, dataset: DetectionDataset, stored: StoredProposals, limit: int | None
    ) -> None:
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


def with_proposals(
    dataset: DetectionDataset, stored: StoredProposals, limit: int | None = 2000
) -> ProposedDataset:
    """Return the data set with samples that carry their proposals, best first.

    Everything is checked here, before the first step of a training: the file is read once.

    Args:
        dataset: the images.
        stored: proposals of exactly these images.
        limit: number of proposals of an image that are used at most (Fast R-CNN, section 2: about
            2000); all, if None.

    Raises:
        SettingsError: ``limit`` is not positive.
        DataError: the proposals are of other images, sizes or classes, or one of them is unsound,
            see ``StoredProposals.check``.
    """
    require(limit is None or limit > 0, "limit", limit, "a positive number of proposals, or null")
    if fingerprint(dataset) != stored.header.fingerprint:
        sizes, names = sizes_by_id(dataset), stored.header.class_names
        found = image_differences(stored.image_ids, sizes)
        if names != dataset.class_names:
            wanted = ", ".join(dataset.class_names)
            found.append(f"their class names are {', '.join(names)} instead of {wanted}")
        others = [
            "{} ({} x {} instead of {} x {})".format(image_id, *size, *sizes[image_id])
            for image_id, size in zip(stored.image_ids, stored.sizes.tolist(), strict=True)
            if image_id in sizes and tuple(size) != sizes[image_id]
        ]
        if others:
            found.append(f"{len(others)} images had another size, height x width: {quote(others)}")
        prints = f"their fingerprint {stored.header.fingerprint} is not {fingerprint(dataset)}"
        raise another_data_set(f"{stored.path} ({stored.header.origin})", found or [prints])
    stored.check()
    return ProposedDataset(dataset, stored, limit)


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
        path = Path(self.folder, f"{split}{SUFFIX}")
        old = path.with_suffix(".proposals")
        if old.is_file() and not path.is_file():
            path = old  # which is refused with the reason
        return with_proposals(dataset, StoredProposals(path), self.limit)


def check_proposals(
    boxes: Float[np.ndarray, "P 4"],
    scores: Float[np.ndarray, " P"],
    size: tuple[int, int],
    where: str,
    *,
    border: float = 0.0,
    best_first: bool = False,
) -> None:
    """Check the proposals of one image.

    Args:
        boxes: x1, y1, x2, y2.
        scores: any finite numbers.
        size: (height, width) of the image.
        where: file and image, for the message.
        border: pixels by which a box may pass the border of its image.
        best_first: whether the scores have to be sorted.

    Raises:
        DataError: a box or score is unsound; boxes in the order (y1, x1, y2, x2) are recognised.
    """
    limits = np.array([size[1], size[0], size[1], size[0]])

    def outside(corners: Float[np.ndarray, "P 4"]) -> Bool[np.ndarray, " P"]:
        return np.asarray(((corners < -border) | (corners > limits + border)).any(1))

    in_order_yx = outside(boxes) & np.array(not outside(boxes[:, [1, 0, 3, 2]]).any())
    sides = np.clip(boxes[:, 2:], 0, limits[2:]) - np.clip(boxes[:, :2], 0, limits[:2])
    rule = box_rule(size)
    swap_rule = (
        f"In an image of {size[1]} x {size[0]} pixels (width x height) all {len(boxes)} boxes lie "
        "inside with x and y exchanged, but not as they are: exchange their columns"
    )
    sort_rule = "Sort the proposals of each image by score, the best first"
    rising = np.zeros(len(scores), dtype=np.bool_)
    rising[1:] = scores[1:] > scores[:-1]
    faults: list[tuple[str, Bool[np.ndarray, " P"], str]] = [
        ("coordinate that is no finite number", ~np.isfinite(boxes).all(1), rule),
        ("inverted box", np.asarray((boxes[:, 2:] < boxes[:, :2]).any(1)), rule),
        ("boxes in (y1, x1, y2, x2) order", in_order_yx, swap_rule),
        ("box outside the image", outside(boxes), rule),
        ("box without area in the image", np.asarray((sides <= 0).any(1)), rule),
        ("score that is no finite number", ~np.isfinite(scores), "Scores are finite numbers"),
        ("proposals not best first", rising, sort_rule),
    ]
    for reason, faulty, allowed in faults if best_first else faults[:-1]:
        if faulty.any():
            index = int(np.argmax(faulty))
            x1, y1, x2, y2 = boxes[index].tolist()
            raise DataError.about(
                reason,
                where=f"{where}, proposal {index + 1} of {len(boxes)}",
                found=f"x1={x1:g} y1={y1:g} x2={x2:g} y2={y2:g} score={scores[index]:g}",
                allowed=allowed,
            )


def image_differences(found: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Say which images of a data set (``wanted``) have no proposals, and the other way round."""
    has, needs = dict.fromkeys(found), dict.fromkeys(wanted)
    missing = [image_id for image_id in needs if image_id not in has]
    surplus = [image_id for image_id in has if image_id not in needs]
    counts = (
        f"{len(missing)} of the data set's {len(needs)} images have no proposals",
        f"{len(surplus)} images with proposals are not in the data set",
    )
    lists = zip(counts, (missing, surplus), strict=True)
    return [f"{count}: {quote(names)}" for count, names in lists if names]


def another_data_set(where: str, differences: list[str], remedy: str | None = None) -> DataError:
    """Return the error for proposals that are not of the data set."""
    return DataError.about(
        "proposals of another data set",
        where=where,
        found="; ".join(differences),
        allowed=remedy
        or "Take the data set and split that the proposals were made of, or make proposals of "
        "this one with `rcnn propose`",
    )


def unknown_image(path: Path, image_id: str, known: Iterable[str]) -> DataError:
    """Return the error for an id that is none of the ``known`` ones of a file or data set."""
    names = list(known)
    return DataError.about(
        "unknown image",
        where=str(path),
        found=image_id,
        allowed=f"There are {len(names)} images: {quote(names)}",
    )


def shard_folder(path: Path) -> Path:
    """Return the folder in which a writer keeps the finished parts of a file."""
    return path.with_name(f"{path.name}.shards")


def _remedy(path: Path) -> str:
    """Say how to make a file, or to go on with one."""
    new = path.with_suffix(SUFFIX)
    begun = f", which goes on with {shard_folder(new)}" if shard_folder(new).exists() else ""
    return f"Make it with `rcnn propose ... --out {new}`{begun}."


def sizes_by_id(dataset: DetectionDataset) -> dict[str, tuple[int, int]]:
    """Return the (height, width) of each image by its id."""
    sizes = ((height, width) for height, width in dataset.sizes.tolist())
    return dict(zip(dataset.image_ids, sizes, strict=True))


def quote(names: list[str]) -> str:
    """Name the first three of many, and say how many there are."""
    return ", ".join(names[:3]) + (f", ... ({len(names)} in all)" if len(names) > 3 else "")
