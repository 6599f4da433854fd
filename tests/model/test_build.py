"""The systems by name, with 0, 1 and 3 objects, one class and several."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from rcnn.model.build import SYSTEMS, build_detector, needs_proposals, system_class
from rcnn.model.proposal_network import ProposalNetwork
from rcnn.model.roi_pooling import PoolingSettings, WarpSettings
from rcnn.model.settings import DetectorSettings
from rcnn.settings import SettingsError
from rcnn.structures import ImageBatch, Proposals
from tests.model.inputs import (
    NO_ONE_AND_THREE_OBJECTS,
    ONE_CLASS,
    TINY,
    Object,
    assert_all_trained,
    noise_of,
    targets_of,
)
from tests.ops.inputs import random_boxes


def settings_of(system: str, settings: DetectorSettings = TINY) -> DetectorSettings:
    if system == "sppnet":
        return replace(settings, pooling=PoolingSettings(kind="pyramid"))
    return replace(settings, warp=WarpSettings(size=32, context=2))


def batch_for(system: str, count: int = 20) -> ImageBatch:
    """Two images of noise, with proposals for the systems that need them."""
    batch = noise_of((64, 96), (50, 80))
    if not needs_proposals(system):
        return batch
    boxes = random_boxes(0, 2, count, extent=48.0) + torch.tensor([0.0, 0.0, 2.0, 2.0])
    return replace(batch, proposals=Proposals.pad(list(boxes), torch.ones(2, 2)))


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_is_built_by_its_name(system: str) -> None:
    detector = build_detector(system, settings_of(system))
    assert type(detector) is system_class(system)
    assert detector.settings == settings_of(system)


@pytest.mark.parametrize("settings", [TINY, ONE_CLASS], ids=["3 classes", "1 class"])
@pytest.mark.parametrize("images", NO_ONE_AND_THREE_OBJECTS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_losses_reach_every_parameter_and_each_verb_gives_the_same(
    system: str, images: list[list[Object]], settings: DetectorSettings
) -> None:
    torch.manual_seed(0)
    detector, batch = build_detector(system, settings_of(system, settings)), batch_for(system)
    targets = targets_of(*images)
    targets = replace(targets, labels=targets.labels.clamp(max=len(settings.class_names)))
    detector.eval()  # nothing but the sampling is random, and it has a seed
    losses = detector.losses(batch, targets, torch.Generator().manual_seed(0))
    rpn, rois = {"rpn_objectness", "rpn_boxes"}, {"roi_classes", "roi_boxes"}
    expected = {"rpn": rpn, "faster_rcnn": rpn | rois}.get(system, rois)
    assert set(losses.named) == expected
    assert_close(losses.total, torch.stack(list(losses.named.values())).sum())
    for name, term in losses.named.items():
        assert (term > 0) == (any(images) or not name.endswith("boxes")), name
    assert_all_trained(detector, losses, some=any(images))

    run = detector.training_outputs(batch, targets, torch.Generator().manual_seed(0))
    both = detector.evaluation_outputs(batch, targets, torch.Generator().manual_seed(0))
    assert_close(run.losses.named, losses.named)
    assert_close(both.losses.named, losses.named)
    assert not both.losses.total.requires_grad
    detections, proposals = detector.detect_batch(batch)
    assert torch.equal(both.proposals.boxes, proposals.boxes)
    assert (both.detections is None) == (system == "rpn")
    for one, other in zip(both.detections or detections, detections, strict=True):
        assert len(one) > 0
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)
        assert not one.boxes.requires_grad
        assert set(one.names) <= set(settings.class_names) | {"object"}


@pytest.mark.parametrize("system", SYSTEMS)
def test_difficult_and_crowd_objects_are_not_trained_on(system: str) -> None:
    detector = build_detector(system, settings_of(system))
    objects: list[Object] = [(10.0, 10.0, 50.0, 40.0, 1), (5.0, 5.0, 40.0, 45.0, 2)]
    targets = targets_of(objects, [], difficult=[(0, 0)], crowd=[(0, 1)])
    losses = detector.losses(batch_for(system), targets)
    assert all(term == 0 for name, term in losses.named.items() if name.endswith("boxes"))
    counts = losses.counts.named
    assert sum(n for name, n in counts.items() if name.endswith(("positive", "foreground"))) == 0


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_generator_makes_the_losses_reproducible(system: str) -> None:
    torch.manual_seed(0)
    detector, batch = build_detector(system, settings_of(system)), batch_for(system, 100)
    targets, before = targets_of(*NO_ONE_AND_THREE_OBJECTS[2]), torch.get_rng_state()
    first, same, other = (
        detector.losses(batch, targets, torch.Generator().manual_seed(seed)).total
        for seed in (1, 1, 2)
    )
    assert first == same != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("system", SYSTEMS)
def test_detecting_keeps_the_mode(system: str) -> None:
    detector = build_detector(system, settings_of(system))
    detector.detect_batch(batch_for(system))
    assert detector.training


def test_those_without_rpn_need_proposals() -> None:
    needy = {system for system in SYSTEMS if needs_proposals(system)}
    assert needy == {"fast_rcnn", "rcnn", "sppnet"}
    for system in SYSTEMS:
        detector = build_detector(system, settings_of(system))
        assert any("rpn" in name for name, _ in detector.named_modules()) == (system not in needy)
        assert hasattr(detector, "roi_heads") == (not isinstance(detector, ProposalNetwork))


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [("fast_rcn", "fast_rcnn"), ("sppent", "sppnet"), ("faster-rcnn", "faster_rcnn")],
)
def test_a_typo_is_an_error_that_names_the_nearest(typo: str, nearest: str) -> None:
    for function in (system_class, needs_proposals):
        with pytest.raises(SettingsError, match=f"system='{typo}'.*did you mean '{nearest}'"):
            function(typo)


@pytest.mark.parametrize("system", ["fast_rcnn", "faster_rcnn", "rpn"])
def test_padding_must_suit_the_stride(system: str) -> None:
    settings = replace(TINY, images=replace(TINY.images, multiple=24))
    with pytest.raises(SettingsError, match=r"images\.multiple=24.*stride 16"):
        build_detector(system, settings)
