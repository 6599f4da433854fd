"""Proposals from JSON in the format of COCO's results: https://cocodataset.org/#format-results."""

from __future__ import annotations

import json
from array import array
from collections import defaultdict
from pathlib import Path

import torch

from rcnn.data.coco import read_corners
from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError
from rcnn.data.stored.matching import id_differences, require_same
from rcnn.data.stored.writer import ProposalWriter


def import_json(
    path: Path,
    dataset: DetectionDataset,
    out: Path,
    source: str | None = None,
    *,
    absent_is_empty: bool = False,
) -> Path:
    """Make a stored-proposal file of a list of ``{"image_id", "bbox": [x, y, w, h], "score"}``.

    Categories are not looked at. Image ids have to be those of the data set letter by letter; a
    number counts as its digits. The whole list is held in memory.

    Args:
        path: the JSON file.
        dataset: whose images they are.
        out: the file to be made.
        source: what made the boxes, in words; the name of the JSON file, if None.
        absent_is_empty: an image of the data set that the list never mentions has no proposals; the
            format has no other way to say so. Else it is an error.

    Returns:
        ``out``.

    Raises:
        DataError: if the file cannot be read, is of other images, or has an unsound box or score.
    """
    rows = _read(path)
    known = [*rows, *dataset.image_ids] if absent_is_empty else list(rows)
    require_same(
        str(path),
        id_differences(dict.fromkeys(known), dataset.image_ids),
        "Take the data set and split that the proposals were made of; if images without any "
        "proposal are meant to be absent, import with absent_is_empty=True",
    )
    with ProposalWriter(out, dataset, source or path.name, resume=False) as writer:
        for image_id in dataset.image_ids:
            values = torch.tensor(rows.get(image_id, array("d")), dtype=torch.float32)
            table = values.reshape(-1, 5)
            writer.add(image_id, table[:, :4], table[:, 4])
        return writer.finish()


def _read(path: Path) -> dict[str, array[float]]:
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
