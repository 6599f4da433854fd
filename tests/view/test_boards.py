import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rcnn.view.boards import LegendEntry, side_by_side, stage_board, with_legend
from rcnn.view.palette import PAPER, Colour

HasColour = Callable[[Tensor, Colour], bool]
RED, BLUE = (250, 10, 20), (10, 20, 250)


def filled(colour: Colour, height: int, width: int) -> Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].repeat(1, height, width)


def area(picture: Tensor, colour: Colour) -> tuple[int, int, int, int]:
    """The rectangle (left, top, right, bottom) that has this colour."""
    target = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    ys, xs = (picture == target).all(0).nonzero(as_tuple=True)
    rectangle = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    assert len(xs) == (rectangle[2] - rectangle[0]) * (rectangle[3] - rectangle[1])
    return rectangle


def test_two_pictures_stand_side_by_side_at_one_height() -> None:
    picture = side_by_side(filled(RED, 100, 200), filled(BLUE, 100, 200), ("left", "right"))
    left, right = area(picture, RED), area(picture, BLUE)
    assert left[2] - left[0] == right[2] - right[0] == 200
    assert left[3] - left[1] == right[3] - right[1] == 100
    assert left[1] == right[1]
    assert left[2] < right[0]


def test_every_panel_has_its_title_above_it(image: Tensor) -> None:
    with_titles = side_by_side(image, image, ("anchors", "proposals"))
    without = side_by_side(image, image, ("", ""))
    assert with_titles.shape == without.shape
    ys, xs = (with_titles != without).any(0).nonzero(as_tuple=True)
    top = with_titles.shape[1] - 330
    assert ys.max() < top
    assert (xs < 200).any()
    assert (xs > 400).any()


@pytest.mark.parametrize("panels", [1, 2, 3, 7])
@pytest.mark.parametrize("columns", [1, 3])
def test_a_board_has_as_many_rows_as_it_needs(image: Tensor, panels: int, columns: int) -> None:
    board = stage_board([(f"stage {i}", image) for i in range(panels)], columns)
    one = stage_board([("stage", image)], 1)
    across, down = min(columns, panels), math.ceil(panels / columns)
    gap = one.shape[2] - 400
    assert gap % 2 == 0
    gap //= 2
    assert board.shape == (
        3,
        down * (one.shape[1] - gap) + gap,
        across * (400 + gap) + gap,
    )


def test_panels_come_from_left_to_right_and_then_down() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    board = stage_board([("", filled(colour, 90, 120)) for colour in colours], 2)
    first, second, third = (area(board, colour) for colour in colours)
    assert first[1] == second[1] < third[1]
    assert first[0] == third[0] < second[0]


def test_a_smaller_picture_is_enlarged_and_not_distorted() -> None:
    board = stage_board([("", filled(RED, 100, 200)), ("", filled(BLUE, 50, 50))], 2)
    left, top, right, bottom = area(board, BLUE)
    assert (right - left, bottom - top) == (100, 100)
    assert area(board, RED)[1] == top


def test_large_panels_are_made_smaller() -> None:
    left, top, right, bottom = area(stage_board([("", filled(RED, 1000, 2000))], 1), RED)
    assert (right - left, bottom - top) == (800, 400)


@pytest.mark.parametrize(("panels", "columns"), [(0, 3), (2, 0)])
def test_a_board_of_nothing_is_an_error(image: Tensor, panels: int, columns: int) -> None:
    with pytest.raises(ValueError, match=f"{panels} panels and columns={columns}"):
        stage_board([("stage", image)] * panels, columns)


def test_a_legend_stands_below_the_untouched_picture(image: Tensor, has_colour: HasColour) -> None:
    picture = with_legend(image, [LegendEntry("found", (RED,)), LegendEntry("missed", (BLUE,))])
    assert torch.equal(picture[:, :330], image)
    strip = picture[:, 330:]
    assert 15 < strip.shape[1] < 60
    assert area(strip, RED)[2] < area(strip, BLUE)[0]
    assert tuple(strip[:, 0, 0].tolist()) == PAPER


def test_a_legend_breaks_its_lines(image: Tensor) -> None:
    entries = [LegendEntry("a text of some length", (RED,))] * 6
    one, six = with_legend(image, entries[:1]), with_legend(image, entries)
    row = with_legend(image, [LegendEntry("x" * 500, (RED,))] * 2).shape[1] - one.shape[1]
    assert row > 10
    assert six.shape == (3, one.shape[1] + 2 * row, 400)


def test_nothing_of_a_legend_leaves_the_picture(image: Tensor) -> None:
    strip = with_legend(image, [LegendEntry("x" * 500, (RED,))])[:, 330:]
    border = torch.cat([strip[..., :2].flatten(1), strip[..., -2:].flatten(1), strip[:, -1]], 1)
    assert (border == torch.tensor(PAPER, dtype=torch.uint8)[:, None]).all()


def test_several_colours_make_a_scale(image: Tensor) -> None:
    strip = with_legend(image, [LegendEntry("score", (RED, BLUE))])[:, 330:]
    assert area(strip, RED)[2] == area(strip, BLUE)[0]


def test_a_dashed_swatch_is_not_filled(image: Tensor, has_colour: HasColour) -> None:
    def count(dashed: bool) -> int:
        strip = with_legend(image, [LegendEntry("", (RED,), dashed)])[:, 330:]
        return int((strip == torch.tensor(RED, dtype=torch.uint8)[:, None, None]).all(0).sum())

    assert 0 < count(dashed=True) < 0.7 * count(dashed=False)
