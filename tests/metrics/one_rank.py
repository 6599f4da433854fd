"""One of several gloo processes, started by test_inputs.py: evaluates its share of the images.

Arguments: rank, number of processes, folder. Reads folder/images.pt: a list of evaluations, each of
which is a number of classes, predictions, targets, and one share (start, stop) per rank. Writes
folder/<processes>_<rank>.pt: a list of the results of each evaluation, by metric and of the suite.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

from rcnn.metrics import COCOAveragePrecision, ProposalRecall, VOCAveragePrecision
from rcnn.metrics.suite import Scores
from rcnn.structures import Detections, GroundTruth, ImageBatch, Proposals


def update_suite(scores: Scores, prediction: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Add an image with its detections, which are its proposals, too, in an image half as large."""
    boxes, points, labels = (prediction[key] for key in ("boxes", "scores", "labels"))
    size = torch.tensor([[300, 400]])
    scores.update(
        [Detections(boxes, points, labels, scores.class_names)],
        [GroundTruth(*(target[key] for key in ("boxes", "labels", "ignore", "crowd", "area")))],
        Proposals(boxes[None] / 2, points[None], torch.ones(1, len(boxes), dtype=torch.bool)),
        ImageBatch(torch.zeros(1, 3, 150, 200), size // 2, size),
    )


rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
dist.init_process_group(
    "gloo", init_method=f"file://{folder}/store_{world_size}", rank=rank, world_size=world_size
)
results = []
for num_classes, predictions, targets, shares in torch.load(folder / "images.pt"):
    metrics = {
        "voc": VOCAveragePrecision(num_classes, iou_threshold=[0.5, 0.7]),
        "coco": COCOAveragePrecision(num_classes),
        "recall": ProposalRecall(limits=(1, 3, 10)),
    }
    start, stop = shares[rank] if world_size > 1 else (0, len(targets))
    for metric in metrics.values():
        for image in range(start, stop, 3):
            images = slice(image, min(image + 3, stop))
            metric.update(predictions[images], targets[images])
    suite = Scores([str(number) for number in range(1, num_classes + 1)])
    for image in range(start, stop):
        update_suite(suite, predictions[image], targets[image])
    computed = {name: metric.compute() for name, metric in metrics.items()}
    results.append(computed | {"suite": suite.compute()})
torch.save(results, folder / f"{world_size}_{rank}.pt")
dist.destroy_process_group()
