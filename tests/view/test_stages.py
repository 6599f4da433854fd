from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rcnn.view.palette import CORRECT, IGNORED, SCORE_RAMP, WRONG, Colour, class_colour
from rcnn.view.stages import draw_anchors, draw_proposals, draw_regression, draw_rois

HasColour = Callable[[Tensor, Colour], bool]
BOXES = torch.tensor([[20.0, 40, 120, 140], [150, 60, 250, 300], [280, 100, 390, 320]])
EDGES = [(139, 70), (299, 200), (319, 335)]  # (y, x) in the middle of the lower sides


def at(picture: Tensor, edge: tuple[int, int]) -> Colour:
    red, green, blue = picture[:, edge[0], edge[1]].tolist()
    return red, green, blue


def between(value: Tensor, a: Tensor, b: Tensor) -> bool:
    """Whether a pixel is a true mixture of two colours."""
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    return bool(((value >= low) & (value <= high)).all()) and not any(
        torch.equal(value, c) for c in (a, b)
    )


def thin(picture: Tensor, image: Tensor, edge: tuple[int, int], colour: Colour) -> bool:
    """Whether a translucent line of this colour runs through a pixel."""
    y, x = edge
    return between(picture[:, y, x], image[:, y, x], torch.tensor(colour, dtype=torch.uint8))


def test_positive_and_negative_anchors_are_drawn_and_ignored_ones_are_dots(image: Tensor) -> None:
    before = image.clone()
    picture = draw_anchors(image, BOXES, torch.tensor([1, 0, -1]))
    assert at(picture, EDGES[0]) == CORRECT
    assert thin(picture, image, EDGES[1], WRONG)
    assert torch.equal(picture[:, 319, 335], image[:, 319, 335])
    assert at(picture, (209, 334)) == IGNORED  # the centre of the third
    assert torch.equal(image, before)


@pytest.mark.parametrize("anchors", [0, 1, 3])
def test_the_legend_stands_below_whatever_the_number_of_anchors(
    image: Tensor, anchors: int
) -> None:
    picture = draw_anchors(image, BOXES[:anchors], torch.full((anchors,), -1))
    assert picture.shape[2] == 400
    assert 330 < picture.shape[1] < 400
    changed = (picture[:, :330] != image).any(0)
    assert bool(changed.any()) == (anchors > 0)


def test_only_some_negative_anchors_are_drawn_the_same_every_time(image: Tensor) -> None:
    x = torch.arange(40.0) * 9
    anchors = torch.stack([x, torch.full((40,), 50.0), x + 5, torch.full((40,), 60.0)], 1)
    labels = torch.zeros(40, dtype=torch.long)
    picture = draw_anchors(image, anchors, labels, limit=10)
    touched = (picture[:, 55, :360] != image[:, 55, :360]).any(0).view(40, 9).any(1)
    assert touched.sum() == 10
    assert touched[0]
    assert touched[-1]
    assert torch.equal(picture, draw_anchors(image, anchors, labels, limit=10))


def test_the_best_proposal_is_yellow_and_the_worst_is_thin_and_violet(image: Tensor) -> None:
    picture = draw_proposals(image, BOXES, torch.tensor([0.2, 0.9, 0.1]))
    assert at(picture, EDGES[1]) == SCORE_RAMP[-1]
    assert thin(picture, image, EDGES[2], SCORE_RAMP[0])


def test_the_best_proposal_lies_on_top(image: Tensor) -> None:
    boxes = torch.tensor([[20.0, 40, 120, 140], [20.0, 40, 120, 150]])
    for scores in ([0.9, 0.1], [0.1, 0.9]):
        picture = draw_proposals(image, boxes, torch.tensor(scores))
        assert at(picture, (100, 20)) == SCORE_RAMP[-1]


def test_the_limit_keeps_the_best_proposals(image: Tensor) -> None:
    picture = draw_proposals(image, BOXES, torch.tensor([0.2, 0.9, 0.1]), limit=2)
    assert torch.equal(picture[:, 319, 335], image[:, 319, 335])
    assert not torch.equal(picture[:, 139, 70], image[:, 139, 70])


def test_padding_among_the_proposals_is_left_out(image: Tensor) -> None:
    scores = torch.tensor([0.2, 0.9, -torch.inf])
    expected = draw_proposals(image, BOXES[:2], scores[:2])
    torch.testing.assert_close(draw_proposals(image, BOXES, scores), expected, rtol=0, atol=0)


@pytest.mark.parametrize("proposals", [0, 1])
def test_few_proposals_are_ordinary(image: Tensor, proposals: int) -> None:
    picture = draw_proposals(image, BOXES[:proposals], torch.full((proposals,), 0.5))
    assert torch.equal(picture[:, 319, 335], image[:, 319, 335])
    assert (at(picture, EDGES[0]) == SCORE_RAMP[-1]) == (proposals == 1)


def test_regressed_boxes_are_solid_and_the_former_ones_dashed(image: Tensor) -> None:
    picture = draw_regression(image, BOXES[:1], BOXES[1:2])
    former = (picture[:, 139, 20:120] == torch.tensor(WRONG, dtype=torch.uint8)[:, None]).all(0)
    assert 0.4 < former.float().mean() < 0.8
    regressed = (picture[:, 299, 150:250] == torch.tensor(CORRECT, dtype=torch.uint8)[:, None]).all(
        0
    )
    assert regressed.all()


def test_regions_have_the_colour_of_their_class_and_background_is_thin_and_grey(
    image: Tensor,
) -> None:
    picture = draw_rois(image, BOXES, torch.tensor([0, 2, 1]))
    assert thin(picture, image, EDGES[0], IGNORED)
    assert at(picture, EDGES[1]) == class_colour(2)
    assert at(picture, EDGES[2]) == class_colour(1)


def test_unused_places_are_not_drawn(image: Tensor, has_colour: HasColour) -> None:
    picture = draw_rois(image, BOXES, torch.tensor([-1, -1, 3]))
    assert torch.equal(picture[:, 30:150, 10:130], image[:, 30:150, 10:130])
    assert has_colour(picture, class_colour(3))


def test_the_legend_of_regions_shows_the_classes_that_occur(
    image: Tensor, has_colour: HasColour
) -> None:
    legend = draw_rois(image, BOXES, torch.tensor([0, 2, 1]))[:, 330:]
    assert has_colour(legend, class_colour(1))
    assert has_colour(legend, class_colour(2))
    assert not has_colour(legend, class_colour(3))


@pytest.mark.parametrize("rois", [0, 1, 3])
def test_regions_of_any_number_are_ordinary(image: Tensor, rois: int) -> None:
    picture = draw_rois(image, BOXES[:rois], torch.ones(rois, dtype=torch.long))
    drawn = [at(picture, edge) == class_colour(1) for edge in EDGES]
    assert drawn == [place < rois for place in range(3)]


def test_a_small_image_is_enlarged_with_its_boxes() -> None:
    image = torch.full((3, 160, 160), 99, dtype=torch.uint8)
    picture = draw_rois(image, torch.tensor([[10.0, 20, 60, 90]]), torch.tensor([2]))
    assert picture.shape[2] == 480
    assert at(picture, (150, 30)) == class_colour(2)
