"""Measured normalisation of a training set's box targets (Fast R-CNN, section 2.3).

Letters: K classes, N foreground proposals of an image.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from rcnn.data.proposals import ProposedDataset
from rcnn.model.settings import DeltaSettings, DetectorSettings, Means
from rcnn.ops.boxes import sides_at_least
from rcnn.ops.deltas import encode
from rcnn.ops.matching import best_match, masked_iou
from rcnn.structures import Targets

SMALLEST_STD = 1e-6
"""Standard deviation of deltas below which the proposals of a class are none, one, or copies of
the ground truth."""


def measure_deltas(
    dataset: ProposedDataset, settings: DetectorSettings, flip: float
) -> DeltaSettings:
    """Return mean and standard deviation of the box targets, so that they get 0 and 1.

    They are those of py-faster-rcnn's ``add_bbox_regression_targets``: of every proposal that
    overlaps a target object by ``roi_sampling.foreground_iou`` or more, whether a sampler would
    draw it or not, the ground-truth boxes among them (with targets of 0) if they are appended to
    the proposals, as its roidb has them. Means do not change when an image is resized, so
    everything is measured in original pixels, and no picture is decoded.

    The data is read once, an image at a time, and summed in double precision: every process of a
    run finds the same numbers.

    Args:
        dataset: the training images with their proposals.
        settings: detector settings: the choice of the proposals that it learns from, the class
            names, and the fixed normalisation for classes that have too few proposals.
        flip: probability of mirroring a training image, which changes the sign of tx: at 0.5 its
            mean is 0, as if every image existed in both orientations.

    Returns:
        One row for each class, or the same for all if the head is class-agnostic.
    """
    table = torch.zeros(len(settings.class_names) + 1, 9, dtype=torch.float64)
    for index in range(len(dataset)):
        labels, deltas = _foreground(dataset, index, settings)
        ones = torch.ones_like(deltas[:, :1])
        table.index_add_(0, labels, torch.cat([ones, deltas, deltas**2], dim=1))

    fixed, agnostic = settings.deltas, settings.box_predictor.class_agnostic
    table = table.sum(dim=0, keepdim=True) if agnostic else table[1:]
    counts, sums, squares = table.split([1, 4, 4], dim=1)
    means = sums / counts.clamp(min=1) * torch.tensor([1 - 2 * flip, 1, 1, 1])
    stds = (squares / counts.clamp(min=1) - means**2).clamp(min=0).sqrt()
    usable = (stds > SMALLEST_STD).all(dim=1, keepdim=True)
    _warn(usable.flatten(), ("any class",) if agnostic else settings.class_names)
    means = torch.where(usable, means, torch.tensor(fixed.mean, dtype=torch.float64))
    stds = torch.where(usable, stds, torch.tensor(fixed.std, dtype=torch.float64))
    if agnostic:
        return DeltaSettings(_rows(means)[0], _rows(stds)[0])
    return DeltaSettings(fixed.mean, fixed.std, _rows(means), _rows(stds))


def _foreground(
    dataset: ProposedDataset, index: int, settings: DetectorSettings
) -> tuple[Int[Tensor, " N"], Float[Tensor, "N 4"]]:
    """Return the labels and the targets of the foreground of an image."""
    sampling, limits = settings.roi_sampling, settings.proposals
    ground_truth = Targets.pad([dataset.ground_truth(index)])
    boxes = dataset.stored.boxes(dataset.image_ids[index], dataset.limit)
    boxes = boxes[sides_at_least(boxes, limits.min_size)][: limits.after_nms_train]
    if sampling.append_gt:
        boxes = torch.cat([boxes, ground_truth.boxes[ground_truth.is_target]])
    ious = masked_iou(ground_truth.boxes, ground_truth.is_target, boxes[None])
    match = best_match(ious, ground_truth.boxes, ground_truth.crowd, boxes[None])
    foreground = match.ious[0] >= sampling.foreground_iou
    owners = match.indices[0, foreground]
    deltas = encode(boxes[foreground].double(), ground_truth.boxes[0, owners].double())
    return ground_truth.labels[0, owners], deltas


def _warn(usable: Tensor, names: tuple[str, ...]) -> None:
    """Name the classes that keep the fixed normalisation."""
    without = [name for name, enough in zip(names, usable.tolist(), strict=True) if not enough]
    if without:
        rank_zero_warn(
            "The training split has too few different foreground proposals to measure the box "
            f"targets of {', '.join(without)}: model.deltas.mean and std stay there.",
            stacklevel=3,
        )


def _rows(table: Float[Tensor, "_ 4"]) -> tuple[Means, ...]:
    return tuple((x, y, width, height) for x, y, width, height in table.tolist())
