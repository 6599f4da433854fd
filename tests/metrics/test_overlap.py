import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from rcnn.metrics.matching import areas, coverage, iou, pairs_within_groups

groups = st.lists(st.integers(0, 4), max_size=12).map(lambda numbers: np.array(numbers, dtype=int))


def test_iou_of_halves_quarters_and_strangers() -> None:
    unit = np.array([[0.0, 0.0, 1.0, 1.0]])
    others = np.array(
        [[0, 0, 1, 1], [0, 0, 1, 0.5], [0, 0, 0.5, 0.5], [0.5, 0.5, 1.5, 1.5], [2, 2, 3, 3]]
    )
    np.testing.assert_allclose(iou(unit, others), [1, 0.5, 0.25, 1 / 7, 0])


def test_plus_one_counts_the_last_pixel() -> None:
    # Pixels 0..9 and 5..14 of one row: 5 of 15 are common.
    a, b = np.array([[0.0, 0.0, 9.0, 0.0]]), np.array([[5.0, 0.0, 14.0, 0.0]])
    np.testing.assert_allclose(iou(a, b, plus_one=True), [5 / 15])
    np.testing.assert_allclose(iou(a, b), [0.0])


def test_two_empty_boxes_do_not_overlap() -> None:
    point = np.array([[3.0, 3.0, 3.0, 3.0]])
    assert iou(point, point).tolist() == [0.0]


def test_coverage_is_the_share_inside_and_areas_count_a_last_pixel_if_asked() -> None:
    a = np.array([[0.0, 0.0, 4.0, 2.0], [0.0, 0.0, 4.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    b = np.array([[1.0, 0.0, 9.0, 9.0], [5.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0]])
    assert coverage(a, b).tolist() == [0.75, 0.0, 0.0]
    assert areas(a).tolist() == [8.0, 8.0, 0.0]
    assert areas(a, 1.0).tolist() == [15.0, 15.0, 1.0]


def test_iou_equals_torchvision() -> None:
    corners = torch.rand(2, 30, 2, generator=torch.Generator().manual_seed(0)) * 50
    sizes = torch.rand(2, 30, 2, generator=torch.Generator().manual_seed(1)) * 50
    a, b = torch.cat([corners, corners + sizes], dim=2).double()
    np.testing.assert_allclose(iou(a.numpy()[:, None], b.numpy()[None]), box_iou(a, b).numpy())


def test_an_overlap_of_exactly_the_threshold_is_not_rounded_away() -> None:
    a, b = np.float32([[0, 0, 10, 10]]), np.float32([[0, 0, 10, 7]])
    assert iou(a, b)[0] == 0.7


@given(groups, groups)
def test_pairs_are_those_of_equal_groups_in_order(
    detections: np.ndarray, objects: np.ndarray
) -> None:
    pairs = pairs_within_groups(detections, objects)
    expected = [
        (d, o)
        for d in range(len(detections))
        for o in range(len(objects))
        if detections[d] == objects[o]
    ]
    assert list(zip(pairs.detections.tolist(), pairs.objects.tolist(), strict=True)) == expected
