"""Regions of unknown class, crowds of label 0: what lies in them is no object or background."""

import pytest
import torch

from rcnn.model.anchors import AnchorGrid, AnchorSettings
from rcnn.model.targets import AnchorSampling, RoISampling, label_rois, sample_anchors
from rcnn.ops.boxes import coverage
from tests.model.inputs import A, Object, batch_of, proposals_of, targets_of

REGION = (50.0, 0.0, 128.0, 96.0)


@pytest.mark.parametrize("objects", [[], [A]])
def test_anchors_in_a_region_are_never_sampled_as_background(objects: list[Object]) -> None:
    grid = AnchorGrid(AnchorSettings(scales=(2.0, 4.0, 8.0)), strides=[8])
    anchors = grid([(12, 16)], (96, 128))
    batch = batch_of((96, 128))
    region = [(0, len(objects))]
    settings = AnchorSampling(samples=len(anchors), positive_fraction=1.0)
    unknown, known, none = (
        sample_anchors(anchors, targets, batch, settings)
        for targets in (
            targets_of([*objects, (*REGION, 0)], crowd=region),
            targets_of([*objects, (*REGION, 2)], crowd=region),
            targets_of(objects, padding=1),
        )
    )
    sampled = unknown.labels[0] >= 0
    inside = coverage(unknown.boxes[0], torch.tensor([REGION]))[:, 0] >= 0.5
    assert not (inside & (unknown.labels[0] == 0)).any()
    assert (unknown.labels[0] == 1).sum() == (none.labels[0] == 1).sum()  # a region is no object
    assert 0 < sampled.sum() < (none.labels[0] >= 0).sum()
    assert torch.equal(unknown.labels.sort().values, known.labels.sort().values)


@pytest.mark.parametrize("ohem", [False, True])
@pytest.mark.parametrize("objects", [[], [A]])
def test_rois_in_a_region_are_neither_object_nor_background(
    objects: list[Object], ohem: bool
) -> None:
    boxes = [
        [10.0, 10.0, 50.0, 38.0],  # the object
        [60.0, 60.0, 80.0, 80.0],  # in the region
        [40.0, 60.0, 60.0, 80.0],  # half of it
        [30.0, 60.0, 60.0, 80.0],  # a third of it
        [50.0, 0.0, 128.0, 96.0],  # the region
    ]
    targets = targets_of([*objects, (*REGION, 0)], crowd=[(0, len(objects))])
    rois = label_rois(proposals_of(torch.tensor([boxes])), targets, RoISampling(ohem=ohem))
    given = [1] if objects else []  # the objects are RoIs, too; the region is not
    assert rois.labels.tolist() == [[len(objects), -1, -1, 0, -1, *given, -1]]
    assert rois.deltas.isfinite().all()
