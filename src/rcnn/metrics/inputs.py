"""Detections and objects of many images, laid end to end on the CPU.

Letters: B images, D detections and G objects of all images.

This is the form in which they are matched in one go, kept from batch to batch, and gathered from
several processes: one tensor per column and one count per image, nothing ragged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch import distributed as dist
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors


@dataclass(frozen=True)
class FlatDetections:
    """The detections of several images, image after image.

    Attributes:
        boxes: absolute pixels.
        scores: higher is better.
        labels: 1..K.
        counts: how many detections each image has.
    """

    boxes: Float[Tensor, "D 4"]
    scores: Float[Tensor, " D"]
    labels: Int[Tensor, " D"]
    counts: Int[Tensor, " B"]

    @property
    def images(self) -> Int[Tensor, " D"]:
        """The position of the image that each detection belongs to."""
        return torch.arange(len(self.counts)).repeat_interleave(self.counts)

    def above(self, min_score: float) -> FlatDetections:
        """Return those with at least this score; the images stay."""
        return self.where(self.scores >= min_score)

    def where(self, kept: Bool[Tensor, " D"]) -> FlatDetections:
        """Return the marked ones; the images stay."""
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
        ignore: neither hit nor miss (difficult in VOC).
        crowd: regions of many objects (COCO).
        areas: square pixels that sort an object into small, medium and large.
        counts: how many objects each image has.
    """

    boxes: Float[Tensor, "G 4"]
    labels: Int[Tensor, " G"]
    ignore: Bool[Tensor, " G"]
    crowd: Bool[Tensor, " G"]
    areas: Float[Tensor, " G"]
    counts: Int[Tensor, " B"]

    @property
    def images(self) -> Int[Tensor, " G"]:
        """The position of the image that each object belongs to."""
        return torch.arange(len(self.counts)).repeat_interleave(self.counts)

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
    """A metric whose state is tables that grow by rows, beside ordinary tensor states."""

    full_state_update = False
    is_differentiable = False
    higher_is_better: bool | None = True

    def __init__(self) -> None:
        super().__init__(dist_sync_fn=gather)
        self._empty_tables: dict[str, Tensor] = {}

    def add_table(self, name: str, dtype: torch.dtype, columns: Sequence[int] = ()) -> None:
        """Add a list state, to which ``update`` appends tensors of shape (rows, *columns)."""
        self.add_state(name, default=[], dist_reduce_fx="cat")
        self._empty_tables[name] = torch.zeros((0, *columns), dtype=dtype)

    def table(self, name: str) -> Shaped[Tensor, "N ..."]:
        """Return all rows so far, on the CPU; after a synchronisation those of every process."""
        state = getattr(self, name)
        parts = [state] if isinstance(state, Tensor) else state
        return torch.cat([self._empty_tables[name], *(part.cpu() for part in parts)])

    def sync(
        self,
        dist_sync_fn: Callable[..., Any] | None = None,
        process_group: Any | None = None,
        should_sync: bool = True,
        distributed_available: Callable[..., Any] | None = None,
    ) -> None:
        """Gather the states of all processes, as ``Metric.sync`` does.

        Each table becomes one tensor first, which has its type and columns even without a row:
        torchmetrics would send an untyped vector for a process that saw no image, and NCCL and
        gloo would then wait for, or misread, each other's bytes.
        """
        for name in self._empty_tables:
            setattr(self, name, [self.table(name)])
        super().sync(dist_sync_fn, process_group, should_sync, distributed_available)


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
