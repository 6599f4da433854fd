"""The bytes of a stored-proposal file.

Letters: I images, N proposals of all images together, M bytes of image ids.

A file has three parts, all little-endian and without any pickled object:

1. 24 bytes: the mark ``RCNNPROP``, format version (uint32), length of the header in bytes (uint32),
   length of the whole file in bytes (uint64).
2. The header, JSON in UTF-8: ``source``, ``digest`` of the data set, ``class_names``, ``rcnn`` (the
   version that wrote it), ``images`` (I), ``proposals`` (N), and ``arrays``: for each array its
   ``dtype``, ``shape``, and ``offset`` from the start of part 3.
3. The arrays, from the next multiple of 64 bytes on, each at a multiple of 64:

   - ``id_ends`` int64 (I + 1) and ``id_bytes`` uint8 (M): id i is
     ``id_bytes[id_ends[i]:id_ends[i + 1]]`` in UTF-8; ids are sorted by their bytes, each once;
   - ``sizes`` int32 (I, 2): (height, width) of the original images;
   - ``ends`` int64 (I + 1): image i has the proposals ``ends[i]`` up to ``ends[i + 1]``;
   - ``scores`` float32 (N): best first within an image;
   - ``boxes`` float32 (N, 4): ``x1, y1, x2, y2``, continuous pixels of the original image.

Another program needs no more than this to read it::

    raw = np.memmap(path, np.uint8, mode="r")
    version, length = raw[8:16].view("<u4")
    header = json.loads(raw[24 : 24 + length].tobytes())
    start = -(-(24 + int(length)) // 64) * 64


    def array(name):
        entry = header["arrays"][name]
        count = math.prod(entry["shape"])
        data = np.frombuffer(raw, entry["dtype"], count, start + entry["offset"])
        return data.reshape(entry["shape"])
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

MARK = b"RCNNPROP"
VERSION = 1
PREFIX = struct.Struct("<8sIIQ")
ALIGNMENT = 64
DTYPES = {
    "id_ends": "<i8",
    "id_bytes": "|u1",
    "sizes": "<i4",
    "ends": "<i8",
    "scores": "<f4",
    "boxes": "<f4",
}
ITEM_BYTES = {"<i8": 8, "|u1": 1, "<i4": 4, "<f4": 4}


def aligned(position: int) -> int:
    """Return the first multiple of 64 that is not below ``position``."""
    return -(-position // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Origin:
    """What proposals are proposals of.

    Attributes:
        source: what made them, in words: ``selective search fast``.
        digest: of the data set, see :func:`rcnn.data.stored.digest`.
        class_names: of the data set.
        rcnn: the version of this package that wrote them.
    """

    source: str
    digest: str
    class_names: tuple[str, ...]
    rcnn: str

    @classmethod
    def parse(cls, header: Mapping[str, object]) -> Origin:
        """Read the fields of a header.

        Raises:
            ValueError: if one is missing or of another type.
        """
        source, digest, names, rcnn = map(header.get, ("source", "digest", "class_names", "rcnn"))
        if (
            isinstance(source, str)
            and isinstance(digest, str)
            and isinstance(rcnn, str)
            and isinstance(names, list)
            and all(isinstance(name, str) for name in names)
        ):
            return cls(source, digest, tuple(names), rcnn)
        raise ValueError("source, digest, class_names or rcnn is missing or of another type")

    @property
    def fields(self) -> dict[str, object]:
        """What :meth:`parse` reads."""
        return {
            "source": self.source,
            "digest": self.digest,
            "class_names": list(self.class_names),
            "rcnn": self.rcnn,
        }


@dataclass(frozen=True)
class Layout:
    """Where the parts of a file lie; follows from three counts and the header's text.

    Attributes:
        origin: what the header says of the proposals.
        images: I.
        proposals: N.
        id_bytes: M.
    """

    origin: Origin
    images: int
    proposals: int
    id_bytes: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each array, in the order of the file."""
        return {
            "id_ends": (self.images + 1,),
            "id_bytes": (self.id_bytes,),
            "sizes": (self.images, 2),
            "ends": (self.images + 1,),
            "scores": (self.proposals,),
            "boxes": (self.proposals, 4),
        }

    @property
    def offsets(self) -> dict[str, int]:
        """The start of each array in part 3, in bytes; ``""`` is the end of the last one."""
        position, offsets = 0, {}
        for name, shape in self.shapes.items():
            position = offsets[name] = aligned(position)
            position += math.prod(shape) * ITEM_BYTES[DTYPES[name]]
        return {**offsets, "": position}

    @property
    def header(self) -> bytes:
        """Part 2."""
        counts = {"images": self.images, "proposals": self.proposals}
        return json.dumps({**self.origin.fields, **counts, "arrays": self._arrays}).encode()

    @property
    def _arrays(self) -> dict[str, dict[str, object]]:
        return {
            name: {"dtype": DTYPES[name], "shape": list(shape), "offset": self.offsets[name]}
            for name, shape in self.shapes.items()
        }

    @property
    def start(self) -> int:
        """Where part 3 begins in the file."""
        return aligned(PREFIX.size + len(self.header))

    @property
    def length(self) -> int:
        """Bytes of the whole file."""
        return self.start + self.offsets[""]

    @property
    def prefix(self) -> bytes:
        """Part 1."""
        return PREFIX.pack(MARK, VERSION, len(self.header), self.length)

    @classmethod
    def parse(cls, header: bytes) -> Layout:
        """Read part 2.

        Raises:
            ValueError: if it lacks something, or its arrays lie elsewhere than they have to.
        """
        content = json.loads(header)
        if not isinstance(content, dict):
            raise ValueError("the header is no JSON object")
        images, proposals = content.get("images"), content.get("proposals")
        arrays = content.get("arrays")
        ids = arrays.get("id_bytes") if isinstance(arrays, dict) else None
        shape = ids.get("shape") if isinstance(ids, dict) else None
        id_bytes = shape[0] if isinstance(shape, list) and shape else None
        if not (_is_count(images) and _is_count(proposals) and _is_count(id_bytes)):
            raise ValueError("the counts of images, proposals or bytes of ids are missing")
        layout = cls(Origin.parse(content), images, proposals, id_bytes)
        if arrays != layout._arrays:
            raise ValueError(f"the arrays are not {', '.join(layout.shapes)} as version 1 has them")
        return layout


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
