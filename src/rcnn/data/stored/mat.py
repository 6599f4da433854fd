"""Proposals from .mat files, as the authors of R-CNN and Fast R-CNN distribute them.

Letters: P proposals of an image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError
from rcnn.data.stored.checking import check_boxes
from rcnn.data.stored.matching import id_differences, require_same
from rcnn.data.stored.writer import ProposalWriter

RULE = (
    "Such a file has the variables 'boxes', a cell array with a P x 4 matrix for each image, and "
    "'images', a cell array with the id of each image"
)
SWAP_REMEDY = (
    "The file has them as (x1, y1, x2, y2), where selective search writes (y1, x1, y2, x2): "
    "exchange its columns"
)


def import_mat(
    path: Path | Mapping[str, Path],
    dataset: DetectionDataset,
    out: Path,
    source: str = "selective search",
) -> Path:
    """Make a stored-proposal file of the selective-search boxes in a .mat file.

    The boxes in it are (y1, x1, y2, x2), 1-based and inclusive, best first and without scores.
    They become x1 - 1, y1 - 1, x2, y2, like the boxes of VOC annotations. The whole .mat file is
    held in memory.

    Args:
        path: the file; for a joined data set one for each part, by the part's name (``VOC2007``).
        dataset: whose images they are; every one has to be in the file, and no other.
        out: the file to be made.
        source: what made the boxes, in words.

    Returns:
        ``out``.

    Raises:
        ImportError: if scipy is not installed.
        DataError: if a file cannot be read, is of other images, or has an unsound box.
    """
    parts = path if isinstance(path, Mapping) else {"": path}
    found: dict[str, tuple[str, np.ndarray]] = {}
    for prefix, file in parts.items():
        for name, boxes in _read(file).items():
            found[f"{prefix}/{name}" if prefix else name] = (f"{file}, image {name}", boxes)
    where = " and ".join(str(file) for file in parts.values())
    require_same(where, id_differences(found, dataset.image_ids))
    sizes = dataset.sizes.tolist()
    with ProposalWriter(out, dataset, source, resume=False) as writer:
        for image_id, (height, width) in zip(dataset.image_ids, sizes, strict=True):
            place, boxes = found[image_id]
            corners = _continuous(boxes, place)
            check_boxes(
                corners,
                (height, width),
                f"{place} (0-based, continuous)",
                swap_remedy=SWAP_REMEDY,
            )
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
            allowed=RULE,
        )
    y1, x1, y2, x2 = boxes.astype(np.float64).T
    return np.stack([x1 - 1, y1 - 1, x2, y2], axis=1)


def _read(file: Path) -> dict[str, np.ndarray]:
    """Return the boxes of each image as they stand in the file."""
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
            f"{file} cannot be read as .mat: {error}. {RULE}.", "unreadable proposals"
        ) from error
    missing = [name for name in ("boxes", "images") if name not in content]
    if missing:
        raise DataError(f"{file} has no {' and no '.join(missing)}. {RULE}.", "missing variable")
    boxes, images = content["boxes"].ravel(), content["images"].ravel()
    if boxes.dtype != object or images.dtype != object or len(boxes) != len(images):
        raise DataError.about(
            "variables of the wrong shape",
            where=str(file),
            found=f"{len(boxes)} boxes of type {boxes.dtype}, {len(images)} images of type "
            f"{images.dtype}",
            allowed=RULE,
        )
    names = ["".join(map(str, image.ravel())) for image in images]
    found = dict(zip(names, boxes, strict=True))
    if len(found) < len(names):
        name = Counter(names).most_common(1)[0][0]
        raise DataError.about("image twice", where=str(file), found=name, allowed=RULE)
    return found
