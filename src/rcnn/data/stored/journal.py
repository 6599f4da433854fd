"""Proposals on their way into a file: what a killed writer leaves behind, and the next one uses.

Letters: P proposals of one image.

A folder ``<file>.partial`` holds ``origin.json`` (whose proposals these are), ``data`` (for each
finished image its boxes, then its scores, float32) and ``journal`` (a line of JSON for each:
image id, P, CRC-32 of its bytes in ``data``). The line is written after the data, so whatever
has no whole line, or other bytes than the line says, is forgotten and made again.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from rcnn.data.errors import DataError
from rcnn.data.stored.layout import Origin

ROW_BYTES = 5 * 4  # four corners and a score


@dataclass(frozen=True)
class Entry:
    """The proposals of one image in ``data``: the first byte and how many there are."""

    offset: int
    count: int


class Journal:
    """The folder of a writer at work; only one may write in it at a time.

    Args:
        folder: made if there is none.
        origin: of the proposals.

    Attributes:
        entries: of the finished images, by id.

    Raises:
        DataError: if the folder was begun for proposals of something else.
    """

    def __init__(self, folder: Path, origin: Origin) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._claim(origin)
        self._data = (folder / "data").open("a+b")
        self._journal = (folder / "journal").open("a+b")
        self.entries = self._recover()

    def append(
        self, image_id: str, boxes: Float[np.ndarray, "P 4"], scores: Float[np.ndarray, " P"]
    ) -> None:
        """Take in the proposals of an image; they survive a kill as soon as this returns."""
        content = boxes.astype("<f4").tobytes() + scores.astype("<f4").tobytes()
        self.entries[image_id] = Entry(self._data.seek(0, os.SEEK_END), len(boxes))
        self._data.write(content)
        self._data.flush()
        self._journal.write(_line(image_id, len(boxes), content))
        self._journal.flush()

    def read(self, image_id: str, part: str) -> bytes:
        """Return the ``boxes`` or the ``scores`` of a finished image as bytes."""
        entry = self.entries[image_id]
        boxes = entry.count * 16
        start, length = (0, boxes) if part == "boxes" else (boxes, entry.count * 4)
        self._data.seek(entry.offset + start)
        return self._data.read(length)

    def close(self) -> None:
        """Close the files; the folder stays."""
        self._data.close()
        self._journal.close()

    def remove(self) -> None:
        """Close the files and delete the folder."""
        self.close()
        shutil.rmtree(self.folder)

    def _claim(self, origin: Origin) -> None:
        file = self.folder / "origin.json"
        wanted = json.dumps(origin.fields)
        if not file.exists():
            # Renamed into place: a kill leaves either nothing or all of it.
            draft = file.with_suffix(".draft")
            draft.write_text(wanted)
            draft.replace(file)
        found = file.read_text()
        if found != wanted:
            raise DataError(
                f"{self.folder} was begun for other proposals: {found}; now it would be {wanted}. "
                "Delete the folder to begin anew, or choose another name for the file.",
                "unfinished proposals of something else",
            )

    def _recover(self) -> dict[str, Entry]:
        """Find what is finished and cut off the rest."""
        entries: dict[str, Entry] = {}
        self._data.seek(0)
        self._journal.seek(0)
        good = offset = 0
        for line in self._journal:
            try:
                image_id, count, _ = json.loads(line)
            except (ValueError, TypeError):  # half a line, or no list of three
                break
            content = self._data.read(count * ROW_BYTES)
            if len(content) < count * ROW_BYTES or line != _line(image_id, count, content):
                break
            entries[image_id] = Entry(offset, count)
            offset += len(content)
            good += len(line)
        self._journal.truncate(good)
        self._data.truncate(offset)
        return entries


def _line(image_id: str, count: int, content: bytes) -> bytes:
    return json.dumps([image_id, count, zlib.crc32(content)]).encode() + b"\n"
