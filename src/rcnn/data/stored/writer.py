"""Writing a stored-proposal file, one image at a time.

Letters: P proposals of an image.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from jaxtyping import Float
from torch import Tensor

from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError
from rcnn.data.index import BORDER, clipped
from rcnn.data.stored.checking import as_float32, check_boxes, check_scores
from rcnn.data.stored.digest import digest
from rcnn.data.stored.journal import Journal
from rcnn.data.stored.layout import Layout, Origin
from rcnn.data.stored.matching import some
from rcnn.settings import require


class ProposalWriter:
    """Collects the proposals of a data set's images in any order and makes one file of them.

    What was added survives a kill, in the folder ``<path>.partial``; a new writer of the same
    path, data set and source goes on with the images in :meth:`missing`. The file appears whole,
    with :meth:`finish`, and its bytes hang on neither the order nor the interruptions. One writer
    at a time may work on a path; several processes hand their results to it.

    Args:
        path: of the file, ``.proposals`` by custom.
        dataset: whose images they are.
        source: what makes them, in words, with all that changes the result (method, mode,
            checkpoint), because a writer goes on with what the same source has begun.
        resume: go on with what a killed writer left, and leave what is not finished for the next
            one; else both are deleted.

    Raises:
        DataError: if the file exists, or its folder was begun for another data set or source.
    """

    def __init__(
        self, path: Path, dataset: DetectionDataset, source: str, *, resume: bool = True
    ) -> None:
        require(bool(source.strip()), "source", source, "some words on what makes the proposals")
        if path.exists():
            raise DataError(
                f"{path} exists already. Delete it, or choose another name.", "file that exists"
            )
        self.path = path
        self._ids = dataset.image_ids
        self._places = {image_id: place for place, image_id in enumerate(dataset.image_ids)}
        self._sizes = dataset.sizes
        self._origin = Origin(source, digest(dataset), dataset.class_names, version("rcnn"))
        folder = path.with_name(f"{path.name}.partial")
        self._resume = resume
        if not resume and folder.exists():
            shutil.rmtree(folder)
        self._journal = Journal(folder, self._origin)

    def __enter__(self) -> ProposalWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files; what was not finished waits for the next writer, if it may go on."""
        self._journal.close()
        if not self._resume and self._journal.folder.exists():
            self._journal.remove()

    def missing(self) -> list[str]:
        """Return the ids of the images that have not been added, in the data set's order."""
        return [image_id for image_id in self._ids if image_id not in self._journal.entries]

    def add(
        self,
        image_id: str,
        boxes: Float[Tensor, "P 4"],
        scores: Float[Tensor, " P"] | None = None,
    ) -> None:
        """Add all proposals of an image; there may be none.

        Args:
            image_id: of the data set.
            boxes: x1, y1, x2, y2 in continuous pixels of the original image. What passes the
                border by up to a pixel, as rounding does, is clipped.
            scores: any finite numbers, the best highest; the boxes are sorted by them, equal ones
                stay in order. Without scores the boxes count as sorted, best first, and the n-th
                gets 1/n.

        Raises:
            DataError: if the data set has no such image, it was added before, or a box or score
                is unsound.
        """
        where = f"{self.path.name}, image {image_id}"
        if image_id not in self._places:
            raise DataError.about(
                "unknown image",
                where=str(self.path),
                found=image_id,
                allowed=f"The data set has {len(self._ids)} images: {some(list(self._ids))}",
            )
        if image_id in self._journal.entries:
            raise DataError(
                f"{where}: has its proposals already. Add only images that missing() names.",
                "image added twice",
            )
        height, width = self._sizes[self._places[image_id]].tolist()
        corners = as_float32(boxes)
        check_boxes(corners, (height, width), where, border=BORDER)
        if scores is None:
            values = (1 / np.arange(1, len(corners) + 1)).astype(np.float32)
        else:
            values = as_float32(scores)
            check_scores(values, where)
        order = np.argsort(-values, kind="stable")
        limits = np.broadcast_to(np.array([[height, width]]), (len(corners), 2))
        inside = clipped(corners.astype(np.float64), limits)
        self._journal.append(image_id, inside[order], values[order])

    def finish(self) -> Path:
        """Make the file and delete the folder.

        Raises:
            DataError: if images are missing.
        """
        missing = self.missing()
        if missing:
            raise DataError(
                f"{self.path}: {len(missing)} of {len(self._ids)} images have no proposals yet: "
                f"{some(missing)}. Add them; an image without proposals is added with no boxes.",
                "missing images",
            )
        draft = self._journal.folder / "draft"
        with draft.open("wb") as stream:
            self._write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(self.path)
        self._journal.remove()
        return self.path

    def _write(self, stream: BinaryIO) -> None:
        # The order of the bytes in UTF-8, which is the order of the code points.
        ids = sorted(self._ids)
        encoded = [image_id.encode() for image_id in ids]
        counts = [self._journal.entries[image_id].count for image_id in ids]
        sizes = self._sizes[[self._places[image_id] for image_id in ids]]
        layout = Layout(self._origin, len(ids), sum(counts), sum(map(len, encoded)))
        stream.write(layout.prefix + layout.header)
        sections: dict[str, Iterator[bytes]] = {
            "id_ends": iter([_ends(list(map(len, encoded)))]),
            "id_bytes": iter(encoded),
            "sizes": iter([sizes.astype("<i4").tobytes()]),
            "ends": iter([_ends(counts)]),
            "scores": (self._journal.read(image_id, "scores") for image_id in ids),
            "boxes": (self._journal.read(image_id, "boxes") for image_id in ids),
        }
        for name, chunks in sections.items():
            stream.write(bytes(layout.start + layout.offsets[name] - stream.tell()))
            stream.writelines(chunks)


def _ends(lengths: list[int]) -> bytes:
    return np.cumsum([0, *lengths], dtype=np.int64).astype("<i8").tobytes()
