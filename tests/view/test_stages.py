"""The stages of a detector, legends, and boards of pictures."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rcnn.view.colours import CORRECT, IGNORED, PAPER, SCORE_RAMP, WRONG, Colour, class_colour
from rcnn.view.stages import (
    LegendEntry,
    draw_anchors,
    draw_proposals,
    draw_regression,
    draw_rois,
    stage_board,
    with_legend,
)

HasColour = Callable[[Tensor, Colour], bool]
RED, BLUE = (250, 10, 20), (10, 20, 250)
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


def filled(colour: Colour, height: int, width: int) -> Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].repeat(1, height, width)


def area(picture: Tensor, colour: Colour) -> tuple[int, int, int, int]:
    """The rectangle (left, top, right, bottom) that has this colour."""
    target = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    ys, xs = (picture == target).all(0).nonzero(as_tuple=True)
    rectangle = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    assert len(xs) == (rectangle[2] - rectangle[0]) * (rectangle[3] - rectangle[1])
    return rectangle


@pytest.mark.parametrize(("panels", "columns"), [(1, 1), (1, 3), (2, 1), (3, 3), (7, 3)])
def test_a_board_has_as_many_rows_as_it_needs(image: Tensor, panels: int, columns: int) -> None:
    board = stage_board([(f"stage {i}", image) for i in range(panels)], columns)
    one = stage_board([("stage", image)], 1)
    gap = (one.shape[2] - 400) // 2
    across, down = min(columns, panels), math.ceil(panels / columns)
    assert board.shape == (3, down * (one.shape[1] - gap) + gap, across * (400 + gap) + gap)


def test_panels_come_from_left_to_right_and_then_down() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    board = stage_board([("", filled(colour, 90, 120)) for colour in colours], 2)
    first, second, third = (area(board, colour) for colour in colours)
    assert first[1] == second[1] < third[1]
    assert first[0] == third[0] < second[0]


def test_panels_are_scaled_to_one_size_and_not_distorted() -> None:
    board = stage_board([("", filled(RED, 100, 200)), ("", filled(BLUE, 50, 50))], 2)
    left, top, right, bottom = area(board, BLUE)
    assert (right - left, bottom - top) == (100, 100)
    assert area(board, RED)[1] == top
    left, top, right, bottom = area(stage_board([("", filled(RED, 1000, 2000))], 1), RED)
    assert (right - left, bottom - top) == (800, 400)
    left, top, right, bottom = area(stage_board([("", filled(RED, 1, 2000))], 1), RED)
    assert (right - left, bottom - top) == (800, 1)


@pytest.mark.parametrize(("panels", "columns"), [(0, 3), (2, 0)])
def test_a_board_of_nothing_is_an_error(image: Tensor, panels: int, columns: int) -> None:
    with pytest.raises(ValueError, match=f"{panels} panels and columns={columns}"):
        stage_board([("stage", image)] * panels, columns)


def test_a_legend_is_below_the_untouched_picture(image: Tensor) -> None:
    entries = [LegendEntry("found", (RED,)), LegendEntry("score", (BLUE, CORRECT))]
    picture = with_legend(image, entries)
    assert torch.equal(picture[:, :330], image)
    strip = picture[:, 330:]
    assert 15 < strip.shape[1] < 60
    assert area(strip, RED)[2] < area(strip, BLUE)[0]
    assert area(strip, BLUE)[2] == area(strip, CORRECT)[0]  # a scale
    assert tuple(strip[:, 0, 0].tolist()) == PAPER


def test_a_legend_breaks_its_lines_and_stays_inside_the_picture(image: Tensor) -> None:
    entries = [LegendEntry("a text of some length", (RED,))] * 6
    one, six = with_legend(image, entries[:1]), with_legend(image, entries)
    two = with_legend(image, [LegendEntry("x" * 500, (RED,))] * 2)
    row = two.shape[1] - one.shape[1]
    assert row > 10
    assert six.shape == (3, one.shape[1] + 2 * row, 400)
    strip = two[:, 330:]
    border = torch.cat([strip[..., :2].flatten(1), strip[..., -2:].flatten(1), strip[:, -1]], 1)
    assert (border == torch.tensor(PAPER, dtype=torch.uint8)[:, None]).all()


def test_a_dashed_swatch_is_not_filled(image: Tensor) -> None:
    def count(dashed: bool) -> int:
        strip = with_legend(image, [LegendEntry("", (RED,), dashed)])[:, 330:]
        return int((strip == torch.tensor(RED, dtype=torch.uint8)[:, None, None]).all(0).sum())

    assert 0 < count(dashed=True) < 0.7 * count(dashed=False)


def test_positive_and_negative_anchors_are_drawn_and_ignored_ones_are_dots(image: Tensor) -> None:
    before = image.clone()
    picture = draw_anchors(image, BOXES, torch.tensor([1, 0, -1]))
    assert at(picture, EDGES[0]) == CORRECT
    assert thin(picture, image, EDGES[1], WRONG)
    assert torch.equal(picture[:, 319, 335], image[:, 319, 335])
    assert at(picture, (209, 334)) == IGNORED  # the centre of the third
    assert torch.equal(image, before)


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


def test_the_limit_keeps_the_best_proposals(image: Tensor) -> None:
    picture = draw_proposals(image, BOXES, torch.tensor([0.2, 0.9, 0.1]), limit=2)
    assert torch.equal(picture[:, 319, 335], image[:, 319, 335])
    assert not torch.equal(picture[:, 139, 70], image[:, 139, 70])


def test_the_best_proposal_lies_on_top(image: Tensor) -> None:
    boxes = torch.tensor([[20.0, 40, 120, 140], [20.0, 40, 120, 150]])
    for scores in ([0.9, 0.1], [0.1, 0.9]):
        picture = draw_proposals(image, boxes, torch.tensor(scores))
        assert at(picture, (100, 20)) == SCORE_RAMP[-1]


def test_padding_among_the_proposals_is_left_out(image: Tensor) -> None:
    scores = torch.tensor([0.2, 0.9, -torch.inf])
    expected = draw_proposals(image, BOXES[:2], scores[:2])
    torch.testing.assert_close(draw_proposals(image, BOXES, scores), expected, rtol=0, atol=0)


def test_regressed_boxes_are_solid_and_the_former_ones_dashed(image: Tensor) -> None:
    picture = draw_regression(image, BOXES[:1], BOXES[1:2])
    wrong, correct = (torch.tensor(c, dtype=torch.uint8)[:, None] for c in (WRONG, CORRECT))
    assert 0.4 < (picture[:, 139, 20:120] == wrong).all(0).float().mean() < 0.8
    assert (picture[:, 299, 150:250] == correct).all()


def test_rois_have_the_colour_of_their_class_and_background_is_thin_and_grey(
    image: Tensor, has_colour: HasColour
) -> None:
    picture = draw_rois(image, BOXES, torch.tensor([0, 2, -1]))
    assert thin(picture, image, EDGES[0], IGNORED)
    assert at(picture, EDGES[1]) == class_colour(2)
    assert torch.equal(picture[:, 319, 335], image[:, 319, 335])  # an unused slot
    assert not has_colour(picture, class_colour(1))


def test_500_classes_have_each_colour_once_in_the_legend(image: Tensor) -> None:
    labels = torch.arange(1, 501)
    legend = draw_rois(image, BOXES[:1].repeat(500, 1), labels)[:, 330:]
    left, _, right, _ = area(legend, class_colour(1))
    assert area(legend, class_colour(20))[2] == left + 20 * (right - left)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_boxes_can_be_drawn_and_has_a_legend(image: Tensor, count: int) -> None:
    boxes, ones = BOXES[:count], torch.ones(count, dtype=torch.long)
    for picture, colour in (
        (draw_anchors(image, boxes, ones), CORRECT),
        (draw_proposals(image, boxes, ones.float()), SCORE_RAMP[-1]),
        (draw_regression(image, boxes, boxes), CORRECT),
        (draw_rois(image, boxes, ones), class_colour(1)),
    ):
        assert [at(picture, edge) == colour for edge in EDGES] == [k < count for k in range(3)]
        assert picture.shape[2] == 400
        assert 330 < picture.shape[1] < 400
