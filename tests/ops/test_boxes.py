"""Areas, overlaps and moves of boxes."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torchvision import ops as oracle

from rcnn.ops.boxes import (
    area,
    clip,
    coverage,
    first_on_grid,
    flip,
    inside,
    intersection,
    iou,
    scale,
    sides_at_least,
)
from tests.ops.inputs import GEOMETRY, random_boxes

# Numbers that float32 holds exactly, so that what is true of real numbers is true of these.
coordinate = st.integers(0, 4000).map(lambda quarter: quarter / 4)
box = st.tuples(coordinate, coordinate, coordinate, coordinate).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)
box_lists = st.lists(box, min_size=1, max_size=6).map(torch.tensor)


def test_area_is_width_times_height_without_an_added_pixel() -> None:
    boxes = torch.tensor([[1.0, 2.0, 4.0, 7.0], [0.5, 0.5, 1.0, 0.75], [3.0, 3.0, 3.0, 9.0]])
    assert area(boxes).tolist() == [15.0, 0.125, 0.0]


def test_published_overlaps_of_a_unit_box() -> None:
    case = GEOMETRY["iou"]
    unit, others = torch.tensor([case["box"]]).float(), torch.tensor(case["others"]).float()
    assert_close(iou(unit, others), torch.tensor([case["iou"]]))
    assert_close(coverage(others, unit), torch.tensor([case["ioa"]]).T)


def test_published_overlaps_of_large_boxes() -> None:
    case = GEOMETRY["iou_tv"]
    a, b = torch.tensor(case["a"]).float(), torch.tensor(case["b"]).float()
    assert_close(iou(a, b), torch.tensor(case["iou"], dtype=torch.float32))
    boxes = torch.tensor(case["float_boxes"])
    exact: dict[str, Any] = {"atol": 1e-4, "rtol": 0.0}
    assert_close(iou(boxes, boxes), torch.tensor(case["float_iou"]), **exact)
    assert_close(area(boxes), torch.tensor(case["float_area"]), atol=0.5, rtol=1e-6)


@pytest.mark.parametrize("extent", [1.0, 100.0, 1e5])
def test_iou_equals_torchvision(extent: float) -> None:
    a, b = random_boxes(0, 40, extent=extent), random_boxes(1, 30, extent=extent)
    assert_close(iou(a, b), oracle.box_iou(a, b))


def test_iou_of_a_batch_is_that_of_each_image() -> None:
    a, b = random_boxes(2, 2, 3, 5), random_boxes(3, 2, 3, 4)
    batched, shared = iou(a, b), intersection(a, b)
    assert batched.shape == (2, 3, 5, 4)
    for i in range(2):
        for j in range(3):
            assert_close(batched[i, j], iou(a[i, j], b[i, j]))
            assert_close(shared[i, j], intersection(a[i, j], b[i, j]))


@given(box_lists, box_lists)
@settings(deadline=None, max_examples=60)
def test_iou_is_symmetric_and_lies_in_0_to_1(a: Tensor, b: Tensor) -> None:
    overlaps = iou(a, b)
    assert torch.equal(overlaps, iou(b, a).T)
    assert overlaps.min() >= 0
    assert overlaps.max() <= 1 + 1e-6
    own = iou(a, a).diagonal()
    assert_close(own, (area(a) > 0).float())


@given(box_lists, box_lists)
@settings(deadline=None, max_examples=60)
def test_a_clipped_box_is_covered_and_coverage_is_never_below_iou(a: Tensor, b: Tensor) -> None:
    assert (coverage(a, b) >= iou(a, b) - 1e-6).all()
    window = torch.tensor([0.0, 0.0, 600.0, 400.0])
    clipped = clip(a[None], torch.tensor([[400, 600]]))[0]
    assert_close(coverage(clipped, window[None])[:, 0], (area(clipped) > 0).float())


def test_coverage_is_a_share_of_the_first_box() -> None:
    small, large = torch.tensor([[2.0, 2.0, 4.0, 4.0]]), torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    assert coverage(small, large).item() == 1.0
    assert coverage(large, small).item() == 4 / 64


def test_boxes_without_area_overlap_nothing_and_have_finite_gradients() -> None:
    boxes = torch.tensor(
        [[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 9.0], [0.0, 0.0, 0.0, 0.0], [4.0, 4.0, 6.0, 6.0]],
        requires_grad=True,
    )
    for measure in (iou, coverage):
        overlaps = measure(boxes, boxes)
        assert overlaps[:3, :3].abs().max() == 0
        assert overlaps[3, 3] == 1
        (gradient,) = torch.autograd.grad(overlaps.sum(), boxes)
        assert gradient.isfinite().all()


def test_no_boxes_have_no_overlaps() -> None:
    none, one = torch.zeros(0, 4), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert iou(none, one).shape == (0, 1)
    assert coverage(one, none).shape == (1, 0)
    assert area(none).shape == (0,)


def test_clip_equals_torchvision_image_by_image() -> None:
    boxes = random_boxes(4, 2, 30, extent=300.0) - 100
    sizes = torch.tensor([[60, 110], [150, 40]])
    clipped = clip(boxes, sizes)
    for i, size in enumerate(sizes.tolist()):
        assert torch.equal(clipped[i], oracle.clip_boxes_to_image(boxes[i], tuple(size)))
    per_class = clip(boxes.view(2, 10, 3, 4), sizes)
    assert torch.equal(per_class.flatten(1, 2), clipped)


def test_inside_counts_the_border_and_asks_each_image() -> None:
    boxes = torch.tensor(
        [
            [0.0, 0.0, 20.0, 10.0],  # exactly the first image
            [-0.5, 0.0, 5.0, 5.0],
            [0.0, 0.0, 20.5, 10.0],
            [0.0, 0.0, 10.0, 15.0],
        ]
    )
    sizes = torch.tensor([[10, 20], [20, 10]])  # (height, width)
    assert inside(boxes, sizes).tolist() == [
        [True, False, False, False],
        [False, False, False, True],
    ]
    assert inside(boxes, sizes, border=0.5).tolist() == [
        [True, True, True, False],
        [False, True, False, True],
    ]


def test_at_least_asks_both_sides_and_counts_equality() -> None:
    boxes = torch.tensor([[0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 15.9, 90.0], [0.0, 0.0, 90.0, 15.9]])
    assert sides_at_least(boxes, 16.0).tolist() == [True, False, False]
    # one limit per image
    limits = torch.tensor([[16.0], [15.0]])
    assert sides_at_least(boxes.expand(2, 3, 4), limits).tolist() == [
        [True, False, False],
        [True] * 3,
    ]


def test_scale_takes_the_vertical_factor_first() -> None:
    boxes = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    factors = torch.tensor([10.0, 100.0])
    assert scale(boxes, factors).tolist() == [[100.0, 20.0, 300.0, 40.0]]
    batch = scale(boxes.expand(2, 1, 4), torch.stack([factors, 1 / factors]))
    assert_close(batch[0], torch.tensor([[100.0, 20.0, 300.0, 40.0]]))
    assert_close(batch[1], torch.tensor([[0.01, 0.2, 0.03, 0.4]]))


def test_flip_mirrors_left_to_right() -> None:
    boxes = torch.tensor([[1.0, 2.0, 4.0, 6.0]])
    assert flip(boxes, 10).tolist() == [[6.0, 2.0, 9.0, 6.0]]


@given(box_lists)
@settings(deadline=None, max_examples=40)
def test_flipping_twice_changes_nothing(boxes: Tensor) -> None:
    mirrored = flip(boxes, 1000)
    assert torch.equal(flip(mirrored, 1000), boxes)
    assert torch.equal(area(mirrored), area(boxes))
    assert (mirrored[:, :2] <= mirrored[:, 2:]).all()


def test_the_first_of_those_on_the_same_cells_by_hand() -> None:
    boxes = torch.tensor(
        [
            [0.0, 0.0, 16.0, 16.0],
            [7.0, 7.0, 23.0, 23.0],  # less than half a cell away
            [9.0, 0.0, 16.0, 16.0],  # more
            [0.0, 0.0, 16.0, 16.0],
            [0.0, 0.0, 160.0, 16.0],
        ]
    )
    wanted = torch.ones(1, 5).bool()
    assert first_on_grid(boxes[None], wanted, 16).tolist() == [[True, False, True, False, True]]
    wanted[0, 0] = False  # the next one is the first now
    assert first_on_grid(boxes[None], wanted, 16).tolist() == [[False, True, True, False, True]]
    assert first_on_grid(boxes[None], wanted, 1).tolist() == [[False, True, True, True, True]]


def test_of_no_boxes_none_is_first() -> None:
    assert first_on_grid(torch.zeros(2, 0, 4), torch.zeros(2, 0).bool(), 16).shape == (2, 0)


few_cells = st.integers(0, 40).map(lambda eighth: eighth * 8.0)  # half cells are rounded to even
many_boxes = st.lists(
    st.tuples(few_cells, few_cells, few_cells, few_cells, st.booleans()), min_size=1, max_size=40
)


@given(many_boxes, st.sampled_from([1, 8, 16, 32]))
@settings(deadline=None, max_examples=60)
def test_first_on_the_grid_is_what_a_loop_with_a_set_finds(
    places: list[tuple[float, float, float, float, bool]], stride: int
) -> None:
    expected, seen = [], set()
    for *corners, wanted in places:
        cells = tuple(round(corner / stride) for corner in corners)
        expected.append(wanted and cells not in seen)
        if wanted:
            seen.add(cells)
    boxes = torch.tensor([corners for *corners, _ in places])
    flags = torch.tensor([wanted for *_, wanted in places])
    # a second image, the other way round, is a world of its own
    both = first_on_grid(
        torch.stack([boxes, boxes.flip(0)]), torch.stack([flags, flags.flip(0)]), stride
    )
    assert both[0].tolist() == expected
    assert both[1].sum() == both[0].sum()
