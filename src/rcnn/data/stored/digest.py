"""What identifies a data set for proposals: ids and sizes of its images, and its classes.

Letters: I images. Sizes are (height, width).
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from jaxtyping import Int32

from rcnn.data.dataset import DetectionDataset, IndexedDataset
from rcnn.data.joined import JoinedDataset
from rcnn.data.shapes import ShapesDataset
from rcnn.data.stored.proposed import ProposedDataset


def image_sizes(dataset: DetectionDataset) -> Int32[np.ndarray, "I 2"]:
    """Return (height, width) of every image.

    The data sets of this package know them without decoding; of another one every image is read.
    """
    if isinstance(dataset, IndexedDataset):
        return dataset.index.sizes
    if isinstance(dataset, JoinedDataset):
        return np.concatenate([image_sizes(part) for part in dataset._parts])
    if isinstance(dataset, ProposedDataset):
        return image_sizes(dataset.dataset)
    if isinstance(dataset, ShapesDataset):
        return np.tile(np.array(dataset[0].original_size, dtype=np.int32), (len(dataset), 1))
    sizes = [dataset[index].original_size for index in range(len(dataset))]
    return np.array(sizes, dtype=np.int32).reshape(-1, 2)


def digest(dataset: DetectionDataset) -> str:
    """Return 64 hexadecimal digits that change with the image ids, sizes and class names.

    The order of the images, their objects and their pixels do not matter: proposals are found by
    id and hold whatever the annotation says. The same on every platform.
    """
    sizes = image_sizes(dataset).tolist()
    lines = sorted(
        json.dumps([image_id, *size])
        for image_id, size in zip(dataset.image_ids, sizes, strict=True)
    )
    content = "\n".join([json.dumps(list(dataset.class_names)), *lines])
    return hashlib.sha256(content.encode()).hexdigest()
