"""The colours of the pictures: one fixed colour per class, one per outcome, one ramp for scores.

The first ten class colours were chosen so that any two of them differ under normal vision and under
simulated protanopia, deuteranopia and tritanopia (Machado, Oliveira and Fernandes 2009), and so
that each is strong enough for a thin line on a photograph. The next ten are paler or darker tones
of the same hues, different under normal vision. The tests check both.
"""

from __future__ import annotations

from typing import TypeAlias

from PIL import ImageColor

Colour: TypeAlias = tuple[int, int, int]
"""Red, green and blue in 0..255."""


def _rgb(code: str) -> Colour:
    red, green, blue = ImageColor.getrgb(code)[:3]
    return red, green, blue


_HUES = "#5764F9 #E38900 #2A9350 #B81E77 #C50000 #00C1FF #EBE773 #B7E7A2 #9D2EAC #FFABCA"
_TONES = "#929AFB #EDB259 #75B98D #D16DA7 #D95959 #007499 #8D8B45 #6E8B61 #BF77C9 #996779"
CLASS_COLOURS: tuple[Colour, ...] = tuple(map(_rgb, f"{_HUES} {_TONES}".split()))

HUES = 10
"""Number of colours that differ in hue; the ones after them are other tones of these."""

CORRECT = _rgb("#12C48B")
WRONG = _rgb("#D9302C")
MISSED = _rgb("#FFC533")
IGNORED = _rgb("#E4E7EC")

PAPER = _rgb("#FAFAFB")
INK = _rgb("#2B3038")
WHITE = _rgb("#FFFFFF")

SCORE_RAMP: tuple[Colour, ...] = tuple(map(_rgb, ["#6A3FC2", "#C2407F", "#F97B57", "#FFE66D"]))


def class_colour(label: int) -> Colour:
    """Return the colour of class ``label`` (1..K), the same in every picture.

    Colours repeat from the twenty-first class on; the written names distinguish those classes.
    """
    return CLASS_COLOURS[(label - 1) % len(CLASS_COLOURS)]


def score_colour(fraction: float) -> Colour:
    """Return the colour of a score, from 0 (lowest, violet) to 1 (highest, yellow)."""
    position = min(max(fraction, 0.0), 1.0) * (len(SCORE_RAMP) - 1)
    left = min(int(position), len(SCORE_RAMP) - 2)
    weight = position - left
    red, green, blue = (
        round((1 - weight) * low + weight * high)
        for low, high in zip(SCORE_RAMP[left], SCORE_RAMP[left + 1], strict=True)
    )
    return red, green, blue


def luminance(colour: Colour) -> float:
    """Return the relative luminance, 0 (black) to 1 (white) (WCAG 2.1)."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (channel / 255 for channel in colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def text_colour(background: Colour) -> Colour:
    """Return ink or white, the one with more contrast to ``background`` (WCAG 2.1)."""

    def contrast(colour: Colour) -> float:
        high, low = sorted((luminance(colour), luminance(background)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    return max((INK, WHITE), key=contrast)
