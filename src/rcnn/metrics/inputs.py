"""Detections and objects of many images, laid end to end on the CPU.

Letters: B images, N boxes of all images.

Metrics match them in this form, keep them from batch to batch and gather them from several
processes: one tensor per column and one count per image, nothing ragged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch import distributed as dist
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from rcnn.ops.boxes import area

F = TypeVar("F", bound="FlatBoxes")

Images = Sequence[Mapping[str, object]]
"""One dict of tensors per image."""


@dataclass(frozen=True)
class FlatBoxes:
    """The boxes of several images, image after image.

    Attributes:
        boxes: absolute pixels.
        labels: 1..K; 0 for an ignored region of unknown class, which is a crowd.
        counts: number of boxes of each image.
    """

    boxes: Float[Tensor, "N 4"]
    labels: Int[Tensor, " N"]
    counts: Int[Tensor, " B"]

    @property
    def images(self) -> Int[Tensor, " N"]:
        """The index of each box's image."""
        return torch.arange(len(self.counts)).repeat_interleave(self.counts)

    @property
    def groups(self) -> Int[Tensor, " N"]:
        """A number for each box's image and class, which rises with the image, then the class."""
        return (self.images << 32) + self.labels


@dataclass(frozen=True)
class FlatDetections(FlatBoxes):
    """The detections of several images.

    Attributes:
        scores: higher is better.
    """

    scores: Float[Tensor, " N"]

    def ranked(self) -> tuple[FlatDetections, Int[Tensor, " N"]]:
        """Return the detections of each image by class and score, and the index of each here.

        The best score comes first, of equal scores the first.
        """
        keys = -self.scores, self.labels, self.images
        order = torch.from_numpy(np.lexsort([key.numpy() for key in keys]))
        boxes, labels, scores = (part[order] for part in (self.boxes, self.labels, self.scores))
        return FlatDetections(boxes, labels, self.counts, scores), order


@dataclass(frozen=True)
class FlatObjects(FlatBoxes):
    """The annotated objects of several images.

    Attributes:
        ignore: objects that need not be found (difficult in VOC).
        crowd: regions of many objects, which need not be found either (COCO).
        areas: area in square pixels that makes an object small, medium or large.
    """

    ignore: Bool[Tensor, " N"]
    crowd: Bool[Tensor, " N"]
    areas: Float[Tensor, " N"]

    @property
    def counted(self) -> Bool[Tensor, " N"]:
        """The objects that have to be found."""
        return ~(self.ignore | self.crowd)


NO_DETECTIONS = FlatDetections(
    boxes=torch.zeros(0, 4),
    labels=torch.zeros(0, dtype=torch.int64),
    counts=torch.zeros(0, dtype=torch.int64),
    scores=torch.zeros(0),
)
NO_OBJECTS = FlatObjects(
    boxes=torch.zeros(0, 4),
    labels=torch.zeros(0, dtype=torch.int64),
    counts=torch.zeros(0, dtype=torch.int64),
    ignore=torch.zeros(0, dtype=torch.bool),
    crowd=torch.zeros(0, dtype=torch.bool),
    areas=torch.zeros(0),
)


def transport_device(group: dist.ProcessGroup | None) -> torch.device:
    """Return the device on which tensors have to lie to be sent between these processes."""
    if dist.get_backend(group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def gather(tensor: Tensor, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """Return the tensor of every process, in the order of ranks; their lengths may differ.

    Args:
        tensor: on any device, to which the others are brought too.
        group: the processes to gather from, all by default.
    """
    parts = gather_all_tensors(tensor.to(transport_device(group)), group)
    return [part.to(tensor.device) for part in parts]


class DetectionMetric(Metric):
    """A metric that takes detections and objects and computes a dict of tensors."""

    full_state_update = False
    is_differentiable = False
    higher_is_better: bool | None = True

    def __init__(self) -> None:
        super().__init__(dist_sync_fn=gather)


class ClassMetric(DetectionMetric):
    """A metric that keeps the detections and objects of all images until ``compute``.

    They take about 30 bytes each, on the CPU.

    Args:
        class_names: the names of the classes 1..K, or K.

    Raises:
        ValueError: there is no class, or one string is given instead of a list of names.
    """

    def __init__(self, class_names: Sequence[str] | int) -> None:
        super().__init__()
        if isinstance(class_names, str):
            raise ValueError(
                f"class_names is the string {class_names!r}: give a list, as [{class_names!r}]."
            )
        names = range(1, class_names + 1) if isinstance(class_names, int) else class_names
        if len(names) == 0:
            raise ValueError(f"class_names is {class_names!r}: at least one class is needed.")
        self.class_names = tuple(map(str, names))
        self._empty = _columns(NO_DETECTIONS, NO_OBJECTS)
        for name in self._empty:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, predictions: Images, targets: Images) -> None:
        """Add images.

        Args:
            predictions: per image ``boxes`` (N, 4), ``scores`` (N,), ``labels`` (N,).
            targets: per image ``boxes`` (M, 4), ``labels`` (M,), if wanted ``ignore`` (M,) bool,
                ``crowd`` (M,) bool and ``area`` (M,) in square pixels (by default the box's). The
                label of a crowd may be 0: an ignored region of unknown class, in which a
                detection of any class is no false positive.

        Raises:
            ValueError: a key is missing or a value is wrong; names it and the image's index.
        """
        read = read_update(predictions, targets, len(self.class_names))
        for name, column in _columns(*read).items():
            getattr(self, name).append(column)

    def detections(self) -> FlatDetections:
        """Return all detections so far; after a synchronisation those of every process."""
        names = [field.name for field in fields(FlatDetections)]
        return FlatDetections(*(self._column(f"detection_{name}") for name in names))

    def objects(self) -> FlatObjects:
        """Return all objects so far; after a synchronisation those of every process."""
        names = [field.name for field in fields(FlatObjects)]
        return FlatObjects(*(self._column(f"object_{name}") for name in names))

    def _column(self, name: str) -> Shaped[Tensor, "N ..."]:
        state = getattr(self, name)
        parts = [state] if isinstance(state, Tensor) else state
        return torch.cat([self._empty[name], *(part.cpu() for part in parts)])

    def sync(
        self,
        dist_sync_fn: Callable[..., Any] | None = None,
        process_group: Any | None = None,
        should_sync: bool = True,
        distributed_available: Callable[..., Any] | None = None,
    ) -> None:
        """Gather the states of all processes, as ``Metric.sync`` does.

        Each column becomes one tensor first, which has its type and width even without a row:
        torchmetrics would send an untyped vector for a process that saw no image, and NCCL and
        gloo would then wait for, or misread, each other's bytes.
        """
        for name in self._empty:
            setattr(self, name, [self._column(name)])
        super().sync(dist_sync_fn, process_group, should_sync, distributed_available)

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        # torchmetrics calls this when a metric is made, copied and unpickled, and makes a scalar
        # of every tensor with one element: so of the table of a data set with one class.
        squeezing = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def with_tables() -> dict[str, Tensor]:
            return {
                name: value.reshape(-1) if "per_class" in name else value
                for name, value in squeezing().items()
            }

        return with_tables


def _columns(detections: FlatDetections, objects: FlatObjects) -> dict[str, Tensor]:
    """Return all columns by the names of their states."""
    columns = {f"detection_{name}": column for name, column in vars(detections).items()}
    return columns | {f"object_{name}": column for name, column in vars(objects).items()}


def read_update(
    predictions: Images, targets: Images, num_classes: int | None
) -> tuple[FlatDetections, FlatObjects]:
    """Return the checked arguments of an update, laid end to end on the CPU.

    Args:
        predictions: see ``ClassMetric.update``.
        targets: as many.
        num_classes: K; ``None`` reads no labels and makes everything class 1 (class-agnostic).

    Raises:
        ValueError: a key is missing or a value is wrong; names the key and the image's index.
    """
    if len(predictions) != len(targets):
        raise ValueError(
            f"update got predictions of {len(predictions)} images and targets of {len(targets)}: "
            "give one dict of each per image, also where there is no box."
        )
    found = [
        _read_detections(f"predictions[{index}]", image, num_classes)
        for index, image in enumerate(predictions)
    ]
    there = [
        _read_objects(f"targets[{index}]", image, num_classes)
        for index, image in enumerate(targets)
    ]
    return _join([NO_DETECTIONS, *found]), _join([NO_OBJECTS, *there])


def _join(parts: Sequence[F]) -> F:
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return type(parts[0])(*map(torch.cat, columns))


def _read_detections(
    where: str, image: Mapping[str, object], num_classes: int | None
) -> FlatDetections:
    boxes = _boxes(where, image)
    labels = torch.ones(len(boxes), dtype=torch.int64)
    if num_classes is not None:
        labels = _column(where, image, "labels", "integer", len(boxes)).long()
        fine = (labels >= 1) & (labels <= num_classes)
        _require(where, "labels", labels, fine, f"1 to {num_classes} (0 is background)")
    scores = _column(where, image, "scores", "real", len(boxes)).float()
    _require(where, "scores", scores, scores.isfinite(), "a finite number")
    return FlatDetections(boxes, labels, torch.tensor([len(boxes)]), scores)


def _read_objects(where: str, image: Mapping[str, object], num_classes: int | None) -> FlatObjects:
    boxes = _boxes(where, image)
    no = torch.zeros(len(boxes), dtype=torch.bool)
    ignore = _column(where, image, "ignore", "bool", len(boxes), default=no)
    crowd = _column(where, image, "crowd", "bool", len(boxes), default=no)
    labels = torch.ones(len(boxes), dtype=torch.int64)
    if num_classes is not None:
        labels = _column(where, image, "labels", "integer", len(boxes)).long()
        fine = (labels >= 1) & (labels <= num_classes) | (labels == 0) & crowd
        _require(where, "labels", labels, fine, f"1 to {num_classes} (0 for a crowd alone)")
    areas = _column(where, image, "area", "real", len(boxes), default=area(boxes)).float()
    _require(where, "area", areas, areas >= 0, "zero or more square pixels")
    return FlatObjects(boxes, labels, torch.tensor([len(boxes)]), ignore, crowd, areas)


def _boxes(where: str, image: Mapping[str, object]) -> Float[Tensor, "N 4"]:
    boxes = _tensor(where, image, "boxes")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"{where}['boxes'] has shape {tuple(boxes.shape)}: give (N, 4), "
            "which is torch.zeros(0, 4) for an image without boxes."
        )
    boxes = boxes.float()
    sides = boxes[:, 2:] - boxes[:, :2]  # not finite if a coordinate is not
    fine = (sides.isfinite() & (sides >= 0)).all(dim=1)
    _require(where, "boxes", boxes, fine, "finite (x1, y1, x2, y2) with x1 <= x2, y1 <= y2")
    return boxes


def _column(
    where: str,
    image: Mapping[str, object],
    key: str,
    kind: Literal["real", "integer", "bool"],
    count: int,
    default: Shaped[Tensor, " N"] | None = None,
) -> Shaped[Tensor, " N"]:
    """Return one value per box, the default if there is one and the key is missing."""
    if default is not None and key not in image:
        return default
    values = _tensor(where, image, key)
    if values.shape != (count,):
        raise ValueError(
            f"{where}[{key!r}] has shape {tuple(values.shape)}: its boxes ask for ({count},)."
        )
    is_bool, is_real = values.dtype == torch.bool, values.dtype.is_floating_point
    if is_bool != (kind == "bool") or (is_real and kind == "integer"):
        raise ValueError(f"{where}[{key!r}] has dtype {values.dtype}: give {kind} numbers.")
    return values


def _tensor(where: str, image: Mapping[str, object], key: str) -> Tensor:
    if key not in image:
        keys = ", ".join(map(repr, image)) or "none"
        raise ValueError(f"{where} has no {key!r}; its keys: {keys}.")
    value = image[key]
    if not isinstance(value, Tensor):
        raise ValueError(f"{where}[{key!r}] is a {type(value).__name__}, not a tensor.")
    return value.detach().cpu()


def _require(
    where: str, key: str, values: Shaped[Tensor, "N ..."], fine: Bool[Tensor, " N"], allowed: str
) -> None:
    """Raise ValueError for the first value that is not fine."""
    if not fine.all():
        row = int((~fine).nonzero()[0])
        value = values[row].tolist()
        raise ValueError(f"{where}[{key!r}][{row}] is {value}: allowed is {allowed}.")
