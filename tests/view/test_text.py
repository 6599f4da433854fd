import pytest

from rcnn.view.text import fit, font


def test_a_short_text_stays() -> None:
    assert fit("sheep 0.93", font(12), 200) == "sheep 0.93"


@pytest.mark.parametrize("width", [60, 100, 180])
def test_a_long_text_is_cut_until_it_fits(width: int) -> None:
    letters = font(12)
    text = fit("a class with a very long and winding name 0.93", letters, width)
    assert text.endswith("…")
    assert text.startswith("a class")
    assert width / 2 < letters.getlength(text) <= width


def test_larger_letters_are_larger() -> None:
    assert font(24).getlength("sheep") > 1.8 * font(12).getlength("sheep")
