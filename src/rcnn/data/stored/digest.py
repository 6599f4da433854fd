"""What identifies a data set for proposals: ids and sizes of its images, and its classes."""

from __future__ import annotations

import hashlib
import json

from rcnn.data.dataset import DetectionDataset


def digest(dataset: DetectionDataset) -> str:
    """Return 64 hexadecimal digits that change with the image ids, sizes and class names.

    The order of the images, their objects and their pixels do not matter: proposals are found by
    id and hold whatever the annotation says. The same on every platform.
    """
    sizes = dataset.sizes.tolist()
    lines = sorted(
        json.dumps([image_id, *size])
        for image_id, size in zip(dataset.image_ids, sizes, strict=True)
    )
    content = "\n".join([json.dumps(list(dataset.class_names)), *lines])
    return hashlib.sha256(content.encode()).hexdigest()
