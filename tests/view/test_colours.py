from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcnn.view.colours import (
    CLASS_COLOURS,
    CORRECT,
    HUES,
    IGNORED,
    MISSED,
    SCORE_RAMP,
    WRONG,
    Colour,
    class_colour,
    luminance,
    score_colour,
    text_colour,
)

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def lab(colour: Colour, vision: str) -> np.ndarray:
    """CIE L*a*b* (D65) of a colour as it is seen with this kind of vision."""
    channels = np.array(colour) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    seen = np.clip(VISION[vision] @ linear, 0, 1)
    xyz = TO_XYZ @ seen / np.array([0.95047, 1.0, 1.08883])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def smallest_difference(colours: tuple[Colour, ...], vision: str) -> float:
    seen = [lab(colour, vision) for colour in colours]
    return min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2))


@pytest.mark.parametrize("vision", VISION)
def test_the_first_classes_differ_for_every_kind_of_colour_vision(vision: str) -> None:
    assert smallest_difference(CLASS_COLOURS[:HUES], vision) > 25


def test_twenty_classes_differ_for_normal_vision() -> None:
    assert len(CLASS_COLOURS) == 20
    assert smallest_difference(CLASS_COLOURS, "normal") > 18


@pytest.mark.parametrize("vision", VISION)
def test_the_outcomes_differ_for_every_kind_of_colour_vision(vision: str) -> None:
    assert smallest_difference((CORRECT, WRONG, MISSED, IGNORED), vision) > 25


def test_a_class_keeps_its_colour() -> None:
    assert class_colour(1) == CLASS_COLOURS[0]
    assert class_colour(20) == CLASS_COLOURS[19]
    assert class_colour(21) == class_colour(1)
    assert class_colour(500) == CLASS_COLOURS[19]


@pytest.mark.parametrize("colour", [*CLASS_COLOURS, CORRECT, WRONG, MISSED, IGNORED])
def test_text_has_contrast_to_its_ground(colour: Colour) -> None:
    high, low = sorted((luminance(colour), luminance(text_colour(colour))), reverse=True)
    assert (high + 0.05) / (low + 0.05) > 3  # WCAG 2.1, graphics and large text


def test_higher_scores_are_lighter() -> None:
    lights = [luminance(score_colour(step / 20)) for step in range(21)]
    assert all(low < high for low, high in pairwise(lights))
    assert score_colour(0.0) == SCORE_RAMP[0]
    assert score_colour(1.0) == SCORE_RAMP[-1]


@settings(deadline=None)
@given(st.floats(-10, 10))
def test_every_score_has_a_colour(fraction: float) -> None:
    assert all(0 <= channel <= 255 for channel in score_colour(fraction))
