"""Time by stage: of a clock that counts, and of detectors."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest
import torch

from rcnn.model.build import Detector, build_detector, needs_proposals
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.settings import DetectorSettings
from rcnn.structures import ImageBatch, Proposals
from rcnn.training.breakdown import Breakdown, measure, stages
from rcnn.training.stopwatch import Stopwatch

CPU = torch.device("cpu")


def test_a_stopwatch_charges_one_part_at_a_time() -> None:
    ticks: Iterator[float] = iter([0.0, 1.0, 3.0, 7.0, 15.0])
    watch = Stopwatch("outer", CPU, clock=lambda: next(ticks))
    around = watch.switch("inner")  # outer: 1
    assert around == "outer"
    assert watch.switch(around) == "inner"  # inner: 2
    watch.switch("inner")  # outer: 4 more
    watch.switch("nothing")  # inner: 8 more
    assert watch.seconds == {"outer": 5.0, "inner": 10.0}


def test_the_total_is_the_sum_of_the_stages() -> None:
    assert Breakdown({"convolutions": 1.0, "rest": 0.5}).total == 1.5


def images(detector: Detector, number: int) -> list[ImageBatch]:
    pixels = torch.zeros(3, 48, 64, dtype=torch.uint8)
    return [detector.images.batch([pixels] * number)]


@pytest.mark.parametrize(
    ("system", "box_head", "expected"),
    [
        ("faster_rcnn", "own", "convolutions proposals pooling box head rest"),
        ("faster_rcnn", "linear", "convolutions proposals pooling fc6 fc7 rest"),
        ("fast_rcnn", "linear", "convolutions pooling fc6 fc7 rest"),
        ("sppnet", "linear", "convolutions pooling fc6 fc7 rest"),
        ("rcnn", "linear", "convolutions pooling fc6 fc7 rest"),
        ("rpn", "own", "convolutions proposals rest"),
    ],
)
def test_every_stage_of_a_system_takes_its_time(
    system: str, box_head: str, expected: str, settings: DetectorSettings
) -> None:
    settings = replace(settings, backbone=replace(settings.backbone, box_head=box_head, hidden=16))
    if system == "sppnet":
        settings = replace(settings, pooling=PoolingSettings(kind="pyramid"))
    detector = build_detector(system, settings).eval()
    batches = images(detector, 1)
    if needs_proposals(system):
        proposals = Proposals.pad([torch.tensor([[0.0, 0.0, 40.0, 40.0]])], torch.ones(1, 2))
        batches = [replace(batch, proposals=proposals) for batch in batches]
    result = measure(detector, batches, repeats=1)
    assert list(result.stages) == stages(detector) == expected.split()
    assert min(result.stages.values()) > 0


def test_measuring_leaves_the_detector_as_it_was(settings: DetectorSettings) -> None:
    detector = build_detector("faster_rcnn", settings).eval()
    measure(detector, images(detector, 1), repeats=1)
    assert "detect" not in vars(detector.roi_heads)
    hooks = [
        hook
        for part in detector.modules()
        for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
    ]
    assert hooks == []


def test_seconds_are_those_of_one_image(
    settings: DetectorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a clock that counts its questions, every stage takes one second for each of its calls.
    detector = build_detector("faster_rcnn", settings).eval()
    ticks = count()
    monkeypatch.setattr(Stopwatch, "_now", lambda _: float(next(ticks)))
    one = measure(detector, images(detector, 1), repeats=1)
    two = measure(detector, images(detector, 2), repeats=1)
    assert one.stages == {**dict.fromkeys(stages(detector), 1.0), "rest": one.stages["rest"]}
    assert two.stages == {name: seconds / 2 for name, seconds in one.stages.items()}
