"""Curves."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rcnn.view.colours import CLASS_COLOURS, Colour
from rcnn.view.curves import plot_curves

HasColour = Callable[[Tensor, Colour], bool]
LINE = ([0.0, 0.5, 1.0], [1.0, 0.8, 0.2])


@pytest.fixture(autouse=True)
def _matplotlib() -> None:
    pytest.importorskip("matplotlib")


@pytest.mark.parametrize("lines", [0, 1, 3])
def test_every_line_has_its_colour(has_colour: HasColour, lines: int) -> None:
    series = {f"class {i}": ([0.0, 1.0], [float(i), float(i)]) for i in range(lines)}
    picture = plot_curves(series, "Precision", "recall", "precision")
    assert picture.shape == (3, 600, 960)
    assert picture.dtype == torch.uint8
    drawn = [has_colour(picture, colour) for colour in CLASS_COLOURS[:4]]
    assert drawn == [k < lines for k in range(4)]


def test_a_falling_line_falls() -> None:
    picture = plot_curves({"a": ([0.0, 1.0], [1.0, 0.0])}, "", "", "")
    colour = torch.tensor(CLASS_COLOURS[0], dtype=torch.uint8)[:, None, None]
    ys, xs = (picture[..., :780] == colour).all(0).nonzero(as_tuple=True)
    left, right = ys[xs == xs.min()].float().mean(), ys[xs == xs.max()].float().mean()
    assert left < right - 300  # rows are counted from the top


def test_a_single_point_is_seen(has_colour: HasColour) -> None:
    picture = plot_curves({"a": ([1.0], [2.0])}, "", "", "")
    assert has_colour(picture[..., 100:700], CLASS_COLOURS[0])  # left of the legend


@pytest.mark.parametrize("gap", [float("nan"), float("inf")])
def test_values_that_are_not_finite_interrupt_the_line(has_colour: HasColour, gap: float) -> None:
    x = [0.0, 1.0, 2.0, 3.0, 4.0]
    picture = plot_curves({"a": (x, [1.0, 1.0, gap, 1.0, 1.0])}, "", "", "")
    assert has_colour(picture[..., :300], CLASS_COLOURS[0])
    assert not has_colour(picture[..., 420:440], CLASS_COLOURS[0])


def test_thirteen_lines_differ_by_dashes() -> None:
    def of_line(index: int) -> Tensor:
        series = {f"{i}": ([0.0, 1.0], [float(i == index)] * 2) for i in range(13)}
        colour = torch.tensor(CLASS_COLOURS[2], dtype=torch.uint8)[:, None, None]
        return (plot_curves(series, "", "", "")[:, :300, :780] == colour).all(0).sum()

    assert 0 < of_line(12) < 0.8 * of_line(2)


@pytest.mark.parametrize("name", ["_background_", "a", "[/red]", "кошка", r"$\frac{a$", "$a$"])
def test_every_name_is_in_the_legend(has_colour: HasColour, name: str) -> None:
    legend = plot_curves({name: LINE}, "", "", "")[..., 860:]
    assert (legend[:, :60] < 100).all(0).any()


def test_a_dollar_sign_begins_no_formula() -> None:
    plain, formula = (plot_curves({"a": LINE}, title, "", "") for title in ("a", "$a$"))
    assert not torch.equal(plain, formula)


def test_x_and_y_of_different_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="x and y"):
        plot_curves({"a": ([0.0, 0.5, 1.0], [1.0, 0.0])}, "", "", "")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'rcnn\[plots\]'"):
        plot_curves({"a": LINE}, "", "", "")
