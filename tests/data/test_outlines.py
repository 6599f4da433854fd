"""Boxes around outlines, with pycocotools as the oracle."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rcnn.data.outlines import mask_corners, polygon_corners, turned_corners


@pytest.mark.parametrize(
    "outline",
    [
        [1, 2, 30.5, 2, 30.5, 40],
        [[1, 2, 30.5, 2], [5, 5, 7, 40]],
        [[1, 2], [30.5, 2], [30.5, 40]],
        [["1", "2", "30.5", "40"]],
    ],
)
def test_polygon_in_any_form_gives_the_box_of_its_points(outline: object) -> None:
    assert polygon_corners(outline) == (1, 2, 30.5, 40)


@pytest.mark.parametrize("outline", [[], [[]], [1, 2], [1, 2, 3, 4, 5], [["a", 1, 2, 3]], {"a": 1}])
def test_polygon_without_a_box_is_refused(outline: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        polygon_corners(outline)


@given(
    arrays.arrays(
        np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)
    )
)
def test_box_of_a_mask_is_that_of_pycocotools_in_both_forms(pixels: np.ndarray) -> None:
    oracle = pytest.importorskip("pycocotools.mask")
    compressed = oracle.encode(np.asfortranarray(pixels))
    flat = pixels.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, len(flat)]).tolist()
    counts = [0, *runs] if flat[0] else runs
    for form in (compressed["counts"].decode(), counts):
        mask = {"size": list(pixels.shape), "counts": form}
        if not pixels.any():
            with pytest.raises(ValueError, match="without pixels"):
                mask_corners(mask, pixels.shape)
            continue
        x, y, width, height = oracle.toBbox(compressed).tolist()
        assert mask_corners(mask, pixels.shape) == (x, y, x + width, y + height)


def test_large_masks_with_long_runs_agree_with_pycocotools() -> None:
    oracle = pytest.importorskip("pycocotools.mask")
    pixels = np.zeros((480, 640), dtype=np.uint8)
    pixels[100:300, 50:600] = 1
    pixels[120:200, 100:300] = 0
    compressed = oracle.encode(np.asfortranarray(pixels))
    mask = {"size": [480, 640], "counts": compressed["counts"].decode()}
    assert mask_corners(mask, (480, 640)) == (50, 100, 600, 300)


@pytest.mark.parametrize(
    "mask",
    [
        {"size": [5, 4], "counts": [2, 3, 15]},
        {"size": [4, 5], "counts": [2, 30]},
        {"size": [4, 5], "counts": [2, -3, 15]},
        {"size": [4, 5], "counts": [20]},
        {"size": [4, 5], "counts": "a]b"},
        {"size": [4, 5]},
        {"size": [4, 5], "counts": None},
    ],
)
def test_mask_that_cannot_be_of_the_image_is_refused(mask: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        mask_corners(mask, (4, 5))


def test_turned_box_has_an_upright_box_around_it() -> None:
    assert turned_corners(10.0, 20.0, 8.0, 4.0, 0.0) == (6, 18, 14, 22)
    assert turned_corners(10.0, 20.0, 8.0, 4.0, math.pi / 2) == pytest.approx((8, 16, 12, 24))
    side = 2 * math.sqrt(2)
    expected = (10 - side, 20 - side, 10 + side, 20 + side)
    assert turned_corners(10.0, 20.0, 4.0, 4.0, math.pi / 4) == pytest.approx(expected)
    assert turned_corners(10.0, 20.0, 4.0, 4.0, -math.pi / 4) == pytest.approx(expected)
