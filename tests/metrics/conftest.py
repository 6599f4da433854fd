"""Images that the tests of the metrics share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

Images = list[dict[str, Tensor]]


@pytest.fixture
def stored() -> Callable[[str], Any]:
    """Reads a JSON file of the folder fixtures; each names its source and licence."""
    folder = Path(__file__).parent / "fixtures"
    return lambda name: json.loads((folder / name).read_text())


@pytest.fixture
def random_images() -> Callable[..., tuple[Images, Images]]:
    """Makes predictions and targets from a seed, with everything that is awkward.

    Coordinates are whole and scores have two digits, so that overlaps are equal, thresholds are met
    exactly and scores tie. Some images have no detection, some no object, and the last class has
    detections but no object. Detections are shifted objects, often several of one object.
    """

    def make(
        seed: int, num_images: int = 20, num_classes: int = 4, distinct_scores: bool = False
    ) -> tuple[Images, Images]:
        generator = torch.Generator().manual_seed(seed)

        def draw(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, shape, generator=generator)

        predictions, targets = [], []
        for _ in range(num_images):
            num_objects = int(draw(0, 6))
            corners = draw(0, 100, num_objects, 2)
            sizes = draw(4, 150, num_objects, 2)
            objects = torch.cat([corners, corners + sizes], dim=1)
            labels = draw(1, max(2, num_classes), num_objects)

            copies = int(draw(0, 4)) if num_objects else 0
            near = (objects + draw(-6, 7, num_objects, 4)).repeat(copies, 1)
            anywhere = int(draw(0, 5))
            far = torch.cat([(at := draw(0, 100, anywhere, 2)), at + draw(1, 90, anywhere, 2)], 1)
            boxes = torch.cat([near, far])
            boxes[:, 2:] = boxes[:, 2:].maximum(boxes[:, :2])
            near_labels = labels.repeat(copies)
            wrong = draw(0, 10, len(near_labels)) == 0
            near_labels[wrong] = draw(1, num_classes + 1, int(wrong.sum()))
            scores = draw(0, 100, len(boxes)) / 100
            if distinct_scores:
                scores = torch.rand(len(boxes), generator=generator)
            predictions.append(
                {
                    "boxes": boxes.float(),
                    "scores": scores,
                    "labels": torch.cat([near_labels, draw(1, num_classes + 1, anywhere)]),
                }
            )
            targets.append(
                {
                    "boxes": objects.float(),
                    "labels": labels,
                    "ignore": draw(0, 4, num_objects) == 0,
                    "crowd": draw(0, 6, num_objects) == 0,
                    "area": sizes.prod(dim=1) * draw(5, 11, num_objects) / 10,
                }
            )
        return predictions, targets

    return make
