"""What ``update`` is given, checked: a dict of tensors per image becomes flat tensors.

Letters: B images, N boxes of one or of all images, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from rcnn.metrics.flat import FlatDetections, FlatObjects

Images = Sequence[Mapping[str, object]]
"""One dict of tensors per image."""

Side = Literal["predictions", "targets"]
Kind = Literal["real", "integer", "bool"]


def class_names_of(classes: Sequence[str] | int) -> tuple[str, ...]:
    """Return the names of the classes 1..K, which are their numbers if only K is given.

    Raises:
        ValueError: there is no class, or one string is given in place of a list of names.
    """
    if isinstance(classes, str):
        raise ValueError(f"class_names is the string {classes!r}: give a list, as [{classes!r}].")
    names = range(1, classes + 1) if isinstance(classes, int) else classes
    if len(names) == 0:
        raise ValueError(f"class_names is {classes!r}: at least one class is needed.")
    return tuple(str(name) for name in names)


def read_update(
    predictions: Images, targets: Images, num_classes: int | None
) -> tuple[FlatDetections, FlatObjects]:
    """Check the arguments of an update and lay them end to end on the CPU.

    Args:
        predictions: dicts with ``boxes`` (N, 4), ``scores`` (N,) and ``labels`` (N,).
        targets: dicts with ``boxes`` (N, 4) and ``labels`` (N,), and if wanted ``ignore`` (N,)
            bool, ``crowd`` (N,) bool, ``area`` (N,); by default nothing is ignored or a crowd, and
            an area is the box's.
        num_classes: K; ``None`` reads no labels and makes everything class 1 (class-agnostic).

    Raises:
        ValueError: a key is missing or a value is wrong; names the key and the image's position.
    """
    if len(predictions) != len(targets):
        raise ValueError(
            f"update got predictions of {len(predictions)} images and targets of {len(targets)}: "
            "give one dict of each per image, also where there is no box."
        )
    boxes, counts = _boxes("predictions", predictions)
    scores = _column("predictions", predictions, "scores", "real", counts).float()
    _require("predictions", "scores", counts, scores, scores.isfinite(), "a finite number")
    labels = _labels("predictions", predictions, counts, num_classes)
    detections = FlatDetections(boxes=boxes, scores=scores, labels=labels, counts=counts)

    boxes, counts = _boxes("targets", targets)
    no = torch.zeros(len(boxes), dtype=torch.bool)
    box_areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    areas = _column("targets", targets, "area", "real", counts, default=box_areas).float()
    _require("targets", "area", counts, areas, areas >= 0, "zero or more square pixels")
    objects = FlatObjects(
        boxes=boxes,
        labels=_labels("targets", targets, counts, num_classes),
        ignore=_column("targets", targets, "ignore", "bool", counts, default=no),
        crowd=_column("targets", targets, "crowd", "bool", counts, default=no),
        areas=areas,
        counts=counts,
    )
    return detections, objects


def _boxes(side: Side, images: Images) -> tuple[Float[Tensor, "N 4"], Int[Tensor, " B"]]:
    parts = [_tensor(side, images, position, "boxes") for position in range(len(images))]
    for position, part in enumerate(parts):
        if part.ndim != 2 or part.shape[1] != 4:
            raise ValueError(
                f"{side}[{position}]['boxes'] has shape {tuple(part.shape)}: give (N, 4), "
                "which is torch.zeros(0, 4) for an image without boxes."
            )
    counts = torch.tensor([len(part) for part in parts], dtype=torch.int64)
    boxes = torch.cat([torch.zeros(0, 4), *(part.float() for part in parts)])
    fine = boxes.isfinite().all(dim=1) & (boxes[:, 2:] >= boxes[:, :2]).all(dim=1)
    _require(side, "boxes", counts, boxes, fine, "finite (x1, y1, x2, y2) with x1 <= x2, y1 <= y2")
    return boxes, counts


def _labels(
    side: Side, images: Images, counts: Int[Tensor, " B"], num_classes: int | None
) -> Int[Tensor, " N"]:
    if num_classes is None:
        return torch.ones(int(counts.sum()), dtype=torch.int64)
    labels = _column(side, images, "labels", "integer", counts).long()
    fine = (labels >= 1) & (labels <= num_classes)
    _require(side, "labels", counts, labels, fine, f"1 to {num_classes} (0 is background)")
    return labels


def _column(
    side: Side,
    images: Images,
    key: str,
    kind: Kind,
    counts: Int[Tensor, " B"],
    default: Shaped[Tensor, " N"] | None = None,
) -> Shaped[Tensor, " N"]:
    """One value per box of every image; where a dict lacks an optional key, the default's part."""
    defaults = [None] * len(images) if default is None else default.split(counts.tolist())
    parts = [torch.zeros(0, dtype=torch.bool)]
    for position, (image, fallback) in enumerate(zip(images, defaults, strict=True)):
        if fallback is not None and key not in image:
            parts.append(fallback)
            continue
        part = _tensor(side, images, position, key)
        expected = (int(counts[position]),)
        if part.shape != expected:
            raise ValueError(
                f"{side}[{position}][{key!r}] has shape {tuple(part.shape)}: "
                f"its boxes ask for {expected}."
            )
        if not _is(part.dtype, kind):
            raise ValueError(
                f"{side}[{position}][{key!r}] has dtype {part.dtype}: give {kind} numbers."
            )
        parts.append(part)
    return torch.cat(parts)


def _is(dtype: torch.dtype, kind: Kind) -> bool:
    if kind == "bool":
        return dtype == torch.bool
    return dtype != torch.bool and (kind == "real" or not dtype.is_floating_point)


def _tensor(side: Side, images: Images, position: int, key: str) -> Tensor:
    image = images[position]
    if key not in image:
        keys = ", ".join(map(repr, image)) or "none"
        raise ValueError(f"{side}[{position}] has no {key!r}; its keys: {keys}.")
    value = image[key]
    if not isinstance(value, Tensor):
        raise ValueError(f"{side}[{position}][{key!r}] is a {type(value).__name__}, not a tensor.")
    return value.detach().cpu()


def _require(
    side: Side,
    key: str,
    counts: Int[Tensor, " B"],
    values: Shaped[Tensor, "N ..."],
    fine: Bool[Tensor, " N"],
    allowed: str,
) -> None:
    """Raise ValueError for the first value that is not fine: its image, and its place there."""
    if bool(fine.all()):
        return
    index = int((~fine).nonzero()[0])
    ends = counts.cumsum(dim=0)
    position = int(torch.searchsorted(ends, index, right=True))
    place = index - int(ends[position] - counts[position])
    raise ValueError(
        f"{side}[{position}][{key!r}][{place}] is {values[index].tolist()}: allowed is {allowed}."
    )
