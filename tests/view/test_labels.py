from hypothesis import given
from hypothesis import strategies as st

from rcnn.view.labels import place_labels

PICTURE = (400, 330)


def test_a_label_stands_on_its_box() -> None:
    assert place_labels([(50, 60, 150, 160)], [(40, 15)], PICTURE) == [(50, 45, 90, 60)]


def test_no_box_has_no_label() -> None:
    assert place_labels([], [], PICTURE) == []


def test_three_labels_of_one_box_do_not_cover_each_other() -> None:
    places = place_labels([(50, 60, 150, 160)] * 3, [(40, 15)] * 3, PICTURE)
    assert len(set(places)) == 3
    assert places[0] == (50, 45, 90, 60)
    assert places[1] == (50, 60, 90, 75)  # inside the box
    assert places[2] == (110, 45, 150, 60)  # above its right corner


def test_a_label_moves_inside_at_every_border() -> None:
    boxes = [(0, 0, 30, 30), (370, 0, 400, 30), (0, 300, 30, 330), (370, 300, 400, 330)]
    places = place_labels(boxes, [(60, 15)] * 4, PICTURE)
    assert places[0] == (0, 0, 60, 15)
    assert places[1] == (340, 0, 400, 15)
    assert places[2] == (0, 285, 60, 300)
    assert places[3] == (340, 285, 400, 300)


def test_a_label_larger_than_the_picture_begins_at_its_border() -> None:
    assert place_labels([(50, 60, 70, 80)], [(500, 15)], PICTURE) == [(0, 45, 500, 60)]


sides = st.tuples(st.integers(1, 400), st.integers(1, 40))
corners = st.tuples(st.integers(-50, 450), st.integers(-50, 400))


@given(st.lists(st.tuples(corners, sides, sides), max_size=12))
def test_labels_of_any_boxes_lie_inside_the_picture(rows: list) -> None:
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h), _ in rows]
    sizes = [size for _, _, size in rows]
    for (left, top, right, bottom), size in zip(
        place_labels(boxes, sizes, PICTURE), sizes, strict=True
    ):
        assert (right - left, bottom - top) == size
        assert left >= 0
        assert top >= 0
        assert right <= PICTURE[0]
        assert bottom <= PICTURE[1]
