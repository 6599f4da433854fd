"""Proposals of a whole data set by a trained RPN."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import torch
from rich.progress import Progress
from torch.utils.data import DataLoader, Dataset

from rcnn.data import (
    DataError,
    DetectionBatch,
    DetectionDataset,
    EvaluationBatchSampler,
    EvaluationTransform,
    SampleIndex,
    collate,
)
from rcnn.data.proposal_writer import Found, ProposalWriter, decode
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.proposal_network import ProposalNetwork
from rcnn.model.proposals import ProposalSettings, propose
from rcnn.model.roi_heads import eval_mode
from rcnn.model.transform import ImageSettings
from rcnn.ops.boxes import clip, scale
from rcnn.settings import require, to_plain
from rcnn.training.module import DetectionModule


def propose_with(
    module: DetectionModule,
    dataset: DetectionDataset,
    path: Path,
    *,
    limit: int = 2000,
    before_nms: int | None = None,
    batch_size: int = 2,
    workers: int = 2,
) -> Path:
    """Make a file of proposals with an RPN, or go on with one that was interrupted.

    The images pass through the network as in an evaluation of the module, on its device, and with
    its settings but for the two numbers below. On one machine the file has the same bytes however
    often it was interrupted. One process only may do this at a time.

    Args:
        module: system with an RPN.
        dataset: the images, of any classes. Under ``on_error=skip`` a broken one gets no
            proposals.
        path: file to be made.
        limit: number of proposals of an image after suppression (Fast R-CNN, section 2: about
            2000), where a Faster R-CNN that detects needs 300 only.
        before_nms: number of proposals of each level before suppression; by default the module's
            ``before_nms_test``.
        batch_size: number of images that go through the network at once; it moves boxes near the
            border a little, because the images of a batch are padded to one size.
        workers: number of processes that decode and resize; 0 does it in this one.

    Returns:
        ``path``.

    Raises:
        ValueError: the module has no RPN.
        DataError: the file exists, its shards are of something else, or an image cannot be
            decoded.
    """
    network = module.detector
    if not isinstance(network, ProposalNetwork | FasterRCNN):
        raise ValueError(
            f"{type(network).__name__} has no RPN, it needs proposals itself. Give a detector or a "
            "checkpoint of model=faster_rcnn or model=rpn, or use selective search."
        )
    require(limit >= 1, "limit", limit, "it is 1 or more")
    limits = dataclasses.replace(module.settings.proposals, after_nms_test=limit)
    if before_nms is not None:
        limits = dataclasses.replace(limits, before_nms_test=before_nms)
    with ProposalWriter(path, dataset, _origin(module, limits)) as writer, eval_mode(network):
        missing = set(writer.missing())
        # Whole batches, as without an interruption: an image's padding depends on its neighbours.
        batches = [
            batch
            for batch in EvaluationBatchSampler(dataset.aspect_ratios, batch_size)
            if any(dataset.image_ids[index.image] in missing for index in batch)
        ]
        loader = DataLoader(
            _Batches(dataset, module.settings.images),
            sampler=batches,
            batch_size=None,
            num_workers=workers,
            pin_memory=module.device.type == "cuda",
        )
        results = iter(loader)  # starts the workers; the bar's thread must not be forked
        with Progress() as progress:
            for batch, errors in progress.track(results, len(batches), description="rpn"):
                found = _propose(network, batch, limits, module.device) if batch else {}
                for image_id in missing & found.keys():
                    writer.add(image_id, *found[image_id])
                for image_id in missing & errors.keys():
                    writer.add_failed(image_id, errors[image_id])
        return writer.finish()


class _Batches(Dataset[tuple[DetectionBatch | None, dict[str, DataError]]]):
    """Minibatches of what can be decoded, if anything, and the faults of the rest."""

    def __init__(self, dataset: DetectionDataset, images: ImageSettings) -> None:
        self.dataset = dataset
        self.multiple = images.multiple
        self.transform = EvaluationTransform(
            images.shorter_side, images.longer_side, images.antialias
        )

    def __getitem__(
        self, batch: list[SampleIndex]
    ) -> tuple[DetectionBatch | None, dict[str, DataError]]:
        samples, errors = [], {}
        for index in batch:
            sample = decode(self.dataset, index.image)
            if isinstance(sample, DataError):
                errors[self.dataset.image_ids[index.image]] = sample
            else:
                samples.append(self.transform(sample, torch.Generator()))
        return (collate(samples, self.multiple) if samples else None), errors


@torch.no_grad()
def _propose(
    network: ProposalNetwork | FasterRCNN,
    batch: DetectionBatch,
    limits: ProposalSettings,
    device: torch.device,
) -> dict[str, Found]:
    """Return the proposals of each image, in original pixels, and their scores."""
    images = batch.images.to(device, non_blocking=True)
    output = network.rpn(network.extract_features(images), images)
    proposals = propose(output.anchors, output.logits, output.deltas, images, limits, train=False)
    boxes = clip(scale(proposals.boxes, 1 / images.scales), images.original_sizes)
    # Without a smallest side a box may lie beyond the border, and nothing of it be left.
    kept = proposals.valid & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
    return {
        image_id: (boxes[row, kept[row]], proposals.scores[row, kept[row]])
        for row, image_id in enumerate(batch.image_ids)
    }


def _origin(module: DetectionModule, limits: ProposalSettings) -> str:
    """Return what makes the proposals, in words, with everything that changes them."""
    content = hashlib.sha256(json.dumps(to_plain(module.settings)).encode())
    for name, tensor in module.detector.state_dict().items():
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(values.numpy().tobytes())
    return (
        f"RPN of {module.system}, settings and weights {content.hexdigest()[:16]}, at most "
        f"{limits.before_nms_test} of a level before and {limits.after_nms_test} after suppression"
    )
