"""Detections and ground truth, alone and compared."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rcnn.structures import Detections, GroundTruth
from rcnn.view.colours import CORRECT, IGNORED, MISSED, WRONG, Colour, class_colour
from rcnn.view.draw import draw_comparison, draw_detections, draw_ground_truth
from rcnn.view.stages import LegendEntry, with_legend

Detected = Callable[..., Detections]
Annotated = Callable[..., GroundTruth]
HasColour = Callable[[Tensor, Colour], bool]


def test_an_image_without_boxes_stays_as_it_is(
    image: Tensor, detected: Detected, annotated: Annotated, class_names: tuple[str, ...]
) -> None:
    assert torch.equal(draw_detections(image, detected()), image)
    assert torch.equal(draw_ground_truth(image, annotated(), class_names), image)


def test_every_detection_has_the_colour_of_its_class_at_its_edge(
    image: Tensor, detected: Detected
) -> None:
    before = image.clone()
    boxes = [(20, 40, 120, 140), (150, 60, 250, 300), (280, 100, 400, 330)]
    rows = [(*box, 0.9 - 0.1 * i, i + 1) for i, box in enumerate(boxes)]
    picture = draw_detections(image, detected(*rows))
    for label, (x1, y1, x2, y2) in enumerate(boxes, start=1):
        middle = (x1 + x2) // 2, (y1 + y2) // 2
        for x, y in ((x1, middle[1]), (x2 - 1, middle[1]), (middle[0], y2 - 1)):
            assert tuple(picture[:, y, x].tolist()) == class_colour(label)
        assert torch.equal(picture[:, middle[1], middle[0]], image[:, middle[1], middle[0]])
    assert torch.equal(image, before)


def test_detections_below_the_minimum_score_or_beyond_the_limit_are_left_out(
    image: Tensor, detected: Detected, has_colour: HasColour
) -> None:
    found = detected((20, 40, 120, 140, 0.8, 1), (150, 60, 250, 300, 0.3, 2))
    picture = draw_detections(image, found)
    assert has_colour(picture, class_colour(1))
    assert not has_colour(picture, class_colour(2))
    assert has_colour(draw_detections(image, found, minimum_score=0.3 - 1e-6), class_colour(2))
    assert not has_colour(draw_detections(image, found, 0.1, limit=1), class_colour(2))


def test_a_small_box_inside_a_large_one_stays_in_sight(image: Tensor, detected: Detected) -> None:
    found = detected((100, 100, 300, 300, 0.9, 1), (100, 150, 140, 200, 0.6, 2))
    picture = draw_detections(image, found)
    assert tuple(picture[:, 190, 100].tolist()) == class_colour(2)


@pytest.mark.parametrize("label", [0, 4, -1])
def test_a_label_without_a_name_is_an_error(
    image: Tensor, detected: Detected, annotated: Annotated, label: int
) -> None:
    with pytest.raises(ValueError, match=rf"label {label} .*1\.\.3"):
        draw_detections(image, detected((20, 40, 120, 140, 0.8, label)))
    with pytest.raises(ValueError, match=rf"label {label} .*1\.\.2"):
        draw_ground_truth(image, annotated((20, 40, 120, 140, label)), ["cat", "dog"])


def test_a_difficult_object_is_dashed_and_a_crowd_is_hatched(
    image: Tensor, annotated: Annotated, class_names: tuple[str, ...]
) -> None:
    row = (50, 60, 350, 300, 1)
    difficult = draw_ground_truth(image, annotated(row, difficult=(0,)), class_names)
    crowd = draw_ground_truth(image, annotated(row, crowd=(0,)), class_names)
    of_no_class = annotated((*row[:4], 0), crowd=(0,))
    grey = torch.tensor(IGNORED, dtype=torch.uint8)[:, None]
    dashes = (difficult[:, 299, 50:350] == grey).all(0).float().mean()
    assert 0.4 < dashes < 0.8
    for picture in (crowd, draw_ground_truth(image, of_no_class, class_names)):
        assert (picture[:, 299, 50:350] == grey).all()
    inside = slice(100, 250), slice(100, 300)
    assert torch.equal(difficult[:, *inside], image[:, *inside])
    assert not torch.equal(crowd[:, *inside], image[:, *inside])


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (1, 1), (160, 160)])
@pytest.mark.parametrize("classes", [1, 500])
def test_any_image_box_and_name_can_be_drawn(
    detected: Detected, annotated: Annotated, size: tuple[int, int], classes: int
) -> None:
    height, width = size
    names = ("bolt[m8]", "[/red]", "кошка", "猫", "line\nbreak", "x" * 300, "", "$a_b$") * 63
    boxes = [(0, 0, width, height), (0, 0, 1, 1), (0, 0, 0.2, 0.2)]
    image = torch.full((3, *size), 99, dtype=torch.uint8)
    rows = [(*box, 0.9, min(k, classes)) for k, box in enumerate(boxes * 8, start=1)]
    found = detected(*rows, (0, 0, 1, 1, 0.8, classes), names=names[:classes])
    there = annotated(*[(*row[:4], row[5]) for row in rows])
    picture = draw_comparison(image, found, there)
    assert not torch.equal(picture, draw_comparison(image, detected(), annotated()))


@pytest.mark.parametrize(
    ("found", "there", "colours"),
    [
        ([], [], set()),
        ([(20, 40, 120, 140, 0.8, 1)], [(20, 40, 120, 140, 1)], {CORRECT}),
        ([(20, 40, 120, 140, 0.8, 2)], [(20, 40, 120, 140, 1)], {WRONG, MISSED}),
        ([(20, 40, 120, 140, 0.8, 1)], [], {WRONG}),
        ([], [(20, 40, 120, 140, 1)], {MISSED}),
        ([(20, 40, 120, 140, 0.4, 1)], [(20, 40, 120, 140, 1)], {MISSED}),
        (
            [(20, 40, 120, 140, 0.8, 1), (150, 60, 250, 300, 0.7, 2), (5, 5, 60, 60, 0.6, 3)],
            [(20, 40, 120, 140, 1), (150, 60, 250, 300, 2), (280, 100, 400, 330, 3)],
            {CORRECT, WRONG, MISSED},
        ),
    ],
)
def test_outcomes_have_their_colours(
    image: Tensor,
    detected: Detected,
    annotated: Annotated,
    has_colour: HasColour,
    found: list[tuple[float, ...]],
    there: list[tuple[float, ...]],
    colours: set[Colour],
) -> None:
    picture = draw_comparison(image, detected(*found), annotated(*there))
    panels = picture[:, :365]  # without the legend, which shows every colour
    assert {c for c in (CORRECT, WRONG, MISSED, IGNORED) if has_colour(panels, c)} == colours
    assert picture.shape[1] > 330
    assert picture.shape[2] > 800


def test_ground_truth_is_on_the_left_and_detections_are_on_the_right(
    image: Tensor, detected: Detected, annotated: Annotated, has_colour: HasColour
) -> None:
    found, ground_truth = detected((20, 40, 120, 140, 0.8, 1)), annotated((200, 40, 300, 140, 1))
    picture = draw_comparison(image, found, ground_truth)[:, :365]
    middle = picture.shape[2] // 2
    assert has_colour(picture[..., :middle], MISSED)
    assert not has_colour(picture[..., :middle], WRONG)
    assert has_colour(picture[..., middle:], WRONG)
    assert not has_colour(picture[..., middle:], MISSED)


def test_the_minimum_iou_decides_what_is_found(
    image: Tensor, detected: Detected, annotated: Annotated, has_colour: HasColour
) -> None:
    found, there = detected((20, 40, 120, 140, 0.8, 1)), annotated((20, 40, 120, 110, 1))
    for minimum_iou, right in ((0.5, True), (0.75, False)):
        picture = draw_comparison(image, found, there, minimum_iou=minimum_iou)[:, :365]
        assert has_colour(picture, CORRECT) == right


def test_the_legend_counts(image: Tensor, detected: Detected, annotated: Annotated) -> None:
    found = detected(
        (20, 40, 120, 140, 0.8, 1), (20, 40, 120, 130, 0.7, 1), (150, 60, 250, 300, 0.6, 2)
    )
    ground_truth = annotated(
        (20, 40, 120, 140, 1), (150, 60, 250, 300, 2), (280, 100, 390, 320, 3), difficult=(1,)
    )
    picture = draw_comparison(image, found, ground_truth)
    entries = [
        LegendEntry("1 correct", (CORRECT,)),
        LegendEntry("1 wrong", (WRONG,)),
        LegendEntry("1 missed", (MISSED,), dashed=True),
        LegendEntry("does not count", (IGNORED,)),
    ]
    blank = picture[:, :10]
    legend = with_legend(blank, entries)[:, 10:]
    assert torch.equal(picture[:, -legend.shape[1] :], legend)
