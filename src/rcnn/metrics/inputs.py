"""Detections and objects of many images, laid end to end on the CPU.

Letters: B images, D detections and G objects of all images.

Metrics match them in this form, keep them from batch to batch and gather them from several
processes: one tensor per column and one count per image, nothing ragged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch import distributed as dist
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

Images = Sequence[Mapping[str, object]]
"""One dict of tensors per image."""

Side = Literal["predictions", "targets"]
Kind = Literal["real", "integer", "bool"]


@dataclass(frozen=True)
class FlatDetections:
    """The detections of several images, image after image.

    Attributes:
        boxes: absolute pixels.
        scores: higher is better.
        labels: 1..K.
        counts: number of detections of each image.
    """

    boxes: Float[Tensor, "D 4"]
    scores: Float[Tensor, " D"]
    labels: Int[Tensor, " D"]
    counts: Int[Tensor, " B"]

    @property
    def images(self) -> Int[Tensor, " D"]:
        """The index of each detection's image."""
        return torch.arange(len(self.counts)).repeat_interleave(self.counts)

    @property
    def groups(self) -> Int[Tensor, " D"]:
        """A number for each detection's image and class."""
        return self.labels * len(self.counts) + self.images

    def where(self, kept: Bool[Tensor, " D"]) -> FlatDetections:
        """Return the detections that are ``kept``, of as many images."""
        return FlatDetections(
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
            counts=torch.bincount(self.images[kept], minlength=len(self.counts)),
        )


@dataclass(frozen=True)
class FlatObjects:
    """The annotated objects of several images, image after image.

    Attributes:
        boxes: absolute pixels.
        labels: 1..K.
        ignore: objects that need not be found (difficult in VOC).
        crowd: regions of many objects, which need not be found either (COCO).
        areas: area in square pixels that makes an object small, medium or large.
        counts: number of objects of each image.
    """

    boxes: Float[Tensor, "G 4"]
    labels: Int[Tensor, " G"]
    ignore: Bool[Tensor, " G"]
    crowd: Bool[Tensor, " G"]
    areas: Float[Tensor, " G"]
    counts: Int[Tensor, " B"]

    @property
    def images(self) -> Int[Tensor, " G"]:
        """The index of each object's image."""
        return torch.arange(len(self.counts)).repeat_interleave(self.counts)

    @property
    def groups(self) -> Int[Tensor, " G"]:
        """A number for each object's image and class."""
        return self.labels * len(self.counts) + self.images

    @property
    def counted(self) -> Bool[Tensor, " G"]:
        """The objects that have to be found."""
        return ~(self.ignore | self.crowd)


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
    """A metric with a ``compute`` that returns a dict of tensors, which keep their shape.

    torchmetrics would make a scalar of every tensor with one element, and so of the per-class
    table of a data set with one class.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better: bool | None = True

    def __init__(self) -> None:
        super().__init__(dist_sync_fn=gather)
        self._shapes: dict[str, torch.Size] = {}

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        # torchmetrics calls this when a metric is made, copied and unpickled.
        @functools.wraps(compute)
        def recorded() -> dict[str, Tensor]:
            values: dict[str, Tensor] = compute()
            self._shapes = {name: value.shape for name, value in values.items()}
            return values

        squeezing = super()._wrap_compute(recorded)

        @functools.wraps(compute)
        def reshaped() -> dict[str, Tensor]:
            return {name: value.reshape(self._shapes[name]) for name, value in squeezing().items()}

        return reshaped


class ClassMetric(DetectionMetric):
    """A metric that keeps the detections and objects of all images until ``compute``.

    They take about 30 bytes each, on the CPU.

    Args:
        class_names: the names of the classes 1..K, or K.

    Raises:
        ValueError: there is no class.
    """

    def __init__(self, class_names: Sequence[str] | int) -> None:
        super().__init__()
        self.class_names = class_names_of(class_names)
        detections, objects = read_update([], [], num_classes=None)
        self._empty = {f"detection_{name}": column for name, column in vars(detections).items()}
        self._empty |= {f"object_{name}": column for name, column in vars(objects).items()}
        for name in self._empty:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, predictions: Images, targets: Images) -> None:
        """Add images.

        Args:
            predictions: per image ``boxes`` (N, 4), ``scores`` (N,), ``labels`` (N,).
            targets: per image ``boxes`` (M, 4), ``labels`` (M,), if wanted ``ignore`` (M,) bool,
                ``crowd`` (M,) bool and ``area`` (M,) in square pixels (by default the box's).

        Raises:
            ValueError: a key is missing or a value is wrong; names it and the image's index.
        """
        detections, objects = read_update(predictions, targets, len(self.class_names))
        for name, column in vars(detections).items():
            getattr(self, f"detection_{name}").append(column)
        for name, column in vars(objects).items():
            getattr(self, f"object_{name}").append(column)

    def detections(self) -> FlatDetections:
        """Return all detections so far; after a synchronisation those of every process."""
        columns = [field.name for field in fields(FlatDetections)]
        return FlatDetections(**{name: self._column(f"detection_{name}") for name in columns})

    def objects(self) -> FlatObjects:
        """Return all objects so far; after a synchronisation those of every process."""
        columns = [field.name for field in fields(FlatObjects)]
        return FlatObjects(**{name: self._column(f"object_{name}") for name in columns})

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


def class_names_of(classes: Sequence[str] | int) -> tuple[str, ...]:
    """Return the names of the classes 1..K, which are their numbers if only K is given.

    Raises:
        ValueError: there is no class, or one string is given instead of a list of names.
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
    """Return the checked arguments of an update, laid end to end on the CPU.

    Args:
        predictions: dicts with ``boxes`` (N, 4), ``scores`` (N,) and ``labels`` (N,).
        targets: dicts with ``boxes`` (N, 4) and ``labels`` (N,), and if wanted ``ignore`` (N,)
            bool, ``crowd`` (N,) bool, ``area`` (N,); by default nothing is ignored or a crowd, and
            an area is the box's.
        num_classes: K; ``None`` reads no labels and makes everything class 1 (class-agnostic).

    Raises:
        ValueError: a key is missing or a value is wrong; names the key and the image's index.
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
    parts = [_tensor(side, images, number, "boxes") for number in range(len(images))]
    for number, part in enumerate(parts):
        if part.ndim != 2 or part.shape[1] != 4:
            raise ValueError(
                f"{side}[{number}]['boxes'] has shape {tuple(part.shape)}: give (N, 4), "
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
    """Return one value per box; where a dict lacks an optional key, the default's part."""
    defaults = [None] * len(images) if default is None else default.split(counts.tolist())
    parts = [torch.zeros(0, dtype=torch.bool)]
    for number, (image, fallback) in enumerate(zip(images, defaults, strict=True)):
        if fallback is not None and key not in image:
            parts.append(fallback)
            continue
        part = _tensor(side, images, number, key)
        expected = (int(counts[number]),)
        if part.shape != expected:
            raise ValueError(
                f"{side}[{number}][{key!r}] has shape {tuple(part.shape)}: "
                f"its boxes ask for {expected}."
            )
        if not _is(part.dtype, kind):
            raise ValueError(
                f"{side}[{number}][{key!r}] has dtype {part.dtype}: give {kind} numbers."
            )
        parts.append(part)
    return torch.cat(parts)


def _is(dtype: torch.dtype, kind: Kind) -> bool:
    if kind == "bool":
        return dtype == torch.bool
    return dtype != torch.bool and (kind == "real" or not dtype.is_floating_point)


def _tensor(side: Side, images: Images, number: int, key: str) -> Tensor:
    image = images[number]
    if key not in image:
        keys = ", ".join(map(repr, image)) or "none"
        raise ValueError(f"{side}[{number}] has no {key!r}; its keys: {keys}.")
    value = image[key]
    if not isinstance(value, Tensor):
        raise ValueError(f"{side}[{number}][{key!r}] is a {type(value).__name__}, not a tensor.")
    return value.detach().cpu()


def _require(
    side: Side,
    key: str,
    counts: Int[Tensor, " B"],
    values: Shaped[Tensor, "N ..."],
    fine: Bool[Tensor, " N"],
    allowed: str,
) -> None:
    """Raise ValueError for the first value that is not fine, with its image and index there."""
    if bool(fine.all()):
        return
    index = int((~fine).nonzero()[0])
    ends = counts.cumsum(dim=0)
    number = int(torch.searchsorted(ends, index, right=True))
    row = index - int(ends[number] - counts[number])
    raise ValueError(
        f"{side}[{number}][{key!r}][{row}] is {values[index].tolist()}: allowed is {allowed}."
    )
