"""One of several gloo processes, started by test_state.py: evaluates its share of the images.

Arguments: rank, number of processes, folder. Reads folder/images.pt: predictions, targets, and for
each evaluation a list of shares (start, stop), one per rank. Writes folder/<rank>.pt: a list of the
results of each evaluation.
"""

import sys
from pathlib import Path

import torch
from torch import distributed as dist

from rcnn.metrics import COCOAveragePrecision, ProposalRecall, VOCAveragePrecision

rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
dist.init_process_group(
    "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size
)
predictions, targets, evaluations = torch.load(folder / "images.pt")
metrics = {
    "voc": VOCAveragePrecision(4, iou_threshold=[0.5, 0.7]),
    "coco": COCOAveragePrecision(4),
    "recall": ProposalRecall(limits=(1, 3, 10)),
}
results = []
for shares in evaluations:
    start, stop = shares[rank]
    for metric in metrics.values():
        for image in range(start, stop, 3):
            images = slice(image, min(image + 3, stop))
            metric.update(predictions[images], targets[images])
    results.append({name: metric.compute() for name, metric in metrics.items()})
    for metric in metrics.values():
        metric.reset()
torch.save(results, folder / f"{rank}.pt")
dist.destroy_process_group()
