"""Names for the classes of a model that brings only their number."""

from __future__ import annotations

from collections.abc import Sequence

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from rcnn.interop.errors import InteropError


def name_classes(given: Sequence[str] | None, rows: int) -> tuple[str, ...]:
    """Return the names of the classes 1..K.

    Args:
        given: the user's names; None: COCO's for 91 rows (see :func:`coco_names`), else "class 1"
            to "class K".
        rows: K + 1, the outputs of the classifier with background.

    Raises:
        InteropError: there are not K names.
    """
    if given is None:
        coco = coco_names()
        return coco if rows == len(coco) + 1 else tuple(f"class {i}" for i in range(1, rows))
    if isinstance(given, str) or len(given) != rows - 1:
        raise InteropError(
            f"class_names={given!r} is not possible: the model has {rows} rows, so it takes a list "
            f"of {rows - 1} names; background is row 0 and has none."
        )
    return tuple(given)


def coco_names() -> tuple[str, ...]:
    """Return the names of the 90 category ids of COCO that torchvision's released models know.

    Ten of the ids are unused. Torchvision calls each of them "N/A"; since a name stands only once
    here, they are "N/A 12", "N/A 26" and so on, with their id.
    """
    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return tuple(
        f"N/A {label}" if name == "N/A" else name for label, name in enumerate(names) if label > 0
    )
