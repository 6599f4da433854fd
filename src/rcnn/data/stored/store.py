"""Reading a stored-proposal file; :mod:`rcnn.data.stored.layout` says what is in it.

Letters: I images, N proposals of all images together, P proposals of one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor

from rcnn.data.errors import DataError
from rcnn.data.index import PackedStrings
from rcnn.data.stored.checking import check_boxes, check_scores, sound
from rcnn.data.stored.layout import DTYPES, ITEM_BYTES, MARK, PREFIX, VERSION, Layout, aligned
from rcnn.data.stored.matching import some

CHUNK = 1_000_000  # proposals that are checked at once


class StoredProposals:
    """The proposals of a data set's images, mapped from their file.

    Processes share the pages of the file, and a pickle of this object holds only its path.

    Args:
        path: a file that :class:`rcnn.data.stored.ProposalWriter` or an importer has made.

    Attributes:
        path: absolute.
        source: what made the proposals, in words.
        digest: of the data set, see :func:`rcnn.data.stored.digest`.
        class_names: of the data set.
        image_ids: of the data set, sorted.
        sizes: (height, width) of the original images, in the order of ``image_ids``.

    Raises:
        DataError: if it is no such file, one of another format version, cut off or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        layout, start = _read_layout(self.path)
        raw = np.asarray(np.memmap(self.path, dtype=np.uint8, mode="r"))
        arrays = {}
        for name, shape in layout.shapes.items():
            first = start + layout.offsets[name]
            data = raw[first : first + math.prod(shape) * ITEM_BYTES[DTYPES[name]]]
            arrays[name] = data.view(DTYPES[name]).reshape(shape)
        self.source = layout.origin.source
        self.digest = layout.origin.digest
        self.class_names = layout.origin.class_names
        self.sizes: Int32[np.ndarray, "I 2"] = arrays["sizes"]
        self._ends, self._boxes, self._scores = arrays["ends"], arrays["boxes"], arrays["scores"]
        _require_ends(self._ends, layout.proposals, f"{self.path}: ends")
        _require_ends(arrays["id_ends"], layout.id_bytes, f"{self.path}: id_ends")
        self.image_ids = self._read_ids(arrays["id_bytes"].tobytes(), arrays["id_ends"].tolist())

    def __len__(self) -> int:
        return len(self.image_ids)

    def __reduce__(self) -> tuple[type[StoredProposals], tuple[Path]]:
        return StoredProposals, (self.path,)

    def boxes(self, image_id: str, limit: int | None = None) -> Float[Tensor, "P 4"]:
        """Return the best ``limit`` boxes of an image, or all, best first.

        Raises:
            DataError: if the file has no such image.
        """
        return torch.from_numpy(self._boxes[self._rows(image_id, limit)].astype(np.float32))

    def scores(self, image_id: str, limit: int | None = None) -> Float[Tensor, " P"]:
        """Return the scores of what :meth:`boxes` returns.

        Raises:
            DataError: if the file has no such image.
        """
        return torch.from_numpy(self._scores[self._rows(image_id, limit)].astype(np.float32))

    def check(self) -> None:
        """Check every proposal: what another program wrote may be wrong.

        Raises:
            DataError: if a box is not finite, empty, outside its image or in (y1, x1, y2, x2)
                order, or the scores of an image are not finite numbers, the best first.
        """
        faulty: list[int] = []
        cuts = np.searchsorted(self._ends, np.arange(0, len(self._boxes), CHUNK), side="right")
        for first, last in pairwise(np.unique([0, *cuts, len(self)]).tolist()):
            rows = slice(self._ends[first], self._ends[last])
            owners = np.repeat(np.arange(first, last), np.diff(self._ends[first : last + 1]))
            right = sound(self._boxes[rows], self.sizes[owners]) & np.isfinite(self._scores[rows])
            right[1:] &= (np.diff(self._scores[rows]) <= 0) | (owners[1:] != owners[:-1])
            faulty += np.unique(owners[~right]).tolist()
        if not faulty:
            return
        try:
            self._check_image(faulty[0])
        except DataError as error:
            names = some([self.image_ids[place] for place in faulty])
            raise DataError(
                f"{error} {len(faulty)} of the {len(self)} images have unsound proposals: {names}.",
                error.reason,
            ) from None

    def _check_image(self, place: int) -> None:
        rows = slice(self._ends[place], self._ends[place + 1])
        where = f"{self.path}, image {self.image_ids[place]}"
        height, width = self.sizes[place].tolist()
        check_boxes(self._boxes[rows], (height, width), where)
        check_scores(self._scores[rows], where)
        rising = int(np.argmax(np.diff(self._scores[rows]) > 0))
        before, after = self._scores[rows][rising : rising + 2].tolist()
        raise DataError.about(
            "proposals that are not best first",
            where=f"{where}, proposals {rising + 1} and {rising + 2}",
            found=f"scores {before:g} and {after:g}",
            allowed="Write the file again with the proposals of each image sorted by score",
        )

    def _rows(self, image_id: str, limit: int | None) -> slice:
        place = bisect_left(self.image_ids, image_id)
        if place == len(self) or self.image_ids[place] != image_id:
            raise DataError.about(
                "unknown image",
                where=str(self.path),
                found=image_id,
                allowed=f"The file has {len(self)} images: {some(list(self.image_ids))}",
            )
        first, last = self._ends[place : place + 2].tolist()
        return slice(first, last if limit is None else min(last, first + limit))

    def _read_ids(self, text: bytes, ends: list[int]) -> PackedStrings:
        try:
            ids = [text[first:last].decode() for first, last in pairwise(ends)]
        except UnicodeDecodeError as error:
            raise _damaged(self.path, f"an image id is no UTF-8 ({error})") from error
        for one, other in pairwise(ids):
            if one >= other:
                raise _damaged(self.path, f"the image ids {one} and {other} are not in order")
        return PackedStrings(ids)


def _read_layout(path: Path) -> tuple[Layout, int]:
    """Return what the first two parts of a file say, and where the third begins."""
    try:
        with path.open("rb") as stream:
            prefix = stream.read(PREFIX.size)
            if prefix[: len(MARK)] != MARK[: len(prefix)] or not prefix:
                raise DataError.about(
                    "no stored-proposal file",
                    where=str(path),
                    found=f"it begins with {prefix[: len(MARK)]!r}",
                    allowed=f"Such a file begins with {MARK!r}; ProposalWriter makes one, "
                    "import_mat and import_json make one of other formats",
                )
            length = stream.seek(0, 2)
            if len(prefix) < PREFIX.size:
                raise _cut_off(path, length, f"more than {PREFIX.size}")
            _, version, header_length, whole = PREFIX.unpack(prefix)
            if version != VERSION:
                raise DataError.about(
                    "other format version",
                    where=str(path),
                    found=f"version {version}",
                    allowed=f"This rcnn reads version {VERSION}: make the file again with it, or "
                    "use the rcnn that wrote it",
                )
            if length != whole:
                raise _cut_off(path, length, str(whole))
            stream.seek(PREFIX.size)
            header = stream.read(header_length)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error}. It has to be a stored-proposal file; one that is "
            f"still in the making is the folder {path.name}.partial.",
            "unreadable proposals",
        ) from error
    try:
        layout = Layout.parse(header)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    start = aligned(PREFIX.size + header_length)
    if start + layout.offsets[""] != whole:
        raise _damaged(path, "the arrays do not fill it")
    return layout, start


def _require_ends(ends: np.ndarray, total: int, where: str) -> None:
    if ends[0] != 0 or ends[-1] != total or (np.diff(ends) < 0).any():
        raise _damaged(where, f"they do not rise from 0 to {total}")


def _cut_off(path: Path, length: int, whole: str) -> DataError:
    return DataError.about(
        "file of the wrong length",
        where=str(path),
        found=f"{length} bytes",
        allowed=f"It says itself that it has {whole}, so it was cut off or changed: copy it again "
        "from where it is whole, or make it again",
    )


def _damaged(where: Path | str, found: str) -> DataError:
    return DataError.about(
        "damaged file",
        where=str(where),
        found=found,
        allowed="Copy the file again from where it is whole, or make it again",
    )
