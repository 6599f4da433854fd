import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rcnn.view.canvas import Canvas

RED = (250, 10, 20)
GREY = 120


def is_red(picture: Tensor) -> Tensor:
    return (picture == torch.tensor(RED, dtype=torch.uint8)[:, None, None]).all(0)


def plain(height: int = 330, width: int = 400) -> Tensor:
    return torch.full((3, height, width), GREY, dtype=torch.uint8)


def test_an_empty_canvas_is_the_image(image: Tensor) -> None:
    torch.testing.assert_close(Canvas(image).finish(), image, rtol=0, atol=0)


def test_a_frame_lies_inside_its_box() -> None:
    canvas = Canvas(plain())
    canvas.frame([50.0, 60.0, 150.2, 199.8], RED)
    red = is_red(canvas.finish())
    line = canvas.line
    expected = torch.zeros(330, 400, dtype=torch.bool)
    expected[60:200, 50:150] = True
    expected[60 + line : 200 - line, 50 + line : 150 - line] = False
    assert torch.equal(red, expected)


def test_the_image_is_untouched_beside_the_frame_and_its_seam(image: Tensor) -> None:
    canvas = Canvas(image)
    canvas.frame([50.0, 60.0, 150.0, 200.0], RED)
    picture, line = canvas.finish(), canvas.line
    changed = (picture != image).any(0)
    changed[59:201, 49:151] = False
    assert not changed.any()
    inside = slice(60 + line + 1, 200 - line - 1), slice(50 + line + 1, 150 - line - 1)
    assert torch.equal(picture[:, *inside], image[:, *inside])


def test_the_image_itself_is_never_changed(image: Tensor) -> None:
    before = image.clone()
    canvas = Canvas(image)
    canvas.frame([50.0, 60.0, 150.0, 200.0], RED)
    canvas.hatch([10.0, 10.0, 90.0, 90.0], RED)
    canvas.points(torch.tensor([[5.0, 5.0]]), RED)
    canvas.label([50.0, 60.0, 150.0, 200.0], "sheep", RED)
    canvas.finish()
    assert torch.equal(image, before)


def test_the_frame_of_the_whole_image_is_seen_whole() -> None:
    canvas = Canvas(plain())
    canvas.frame([0.0, 0.0, 400.0, 330.0], RED)
    red = is_red(canvas.finish())
    assert red[0].all()
    assert red[-1].all()
    assert red[:, 0].all()
    assert red[:, -1].all()


def test_a_box_that_sticks_out_is_seen_without_the_sides_outside() -> None:
    canvas = Canvas(plain())
    canvas.frame([-1e6, 100.0, 200.0, 150.0], RED)
    red = is_red(canvas.finish())
    assert red[100, :200].all()
    assert red[100:150, 199].all()
    assert not red[110:140, :100].any()


@pytest.mark.parametrize(
    "box",
    [
        [float("nan"), 0.0, 10.0, 10.0],
        [0.0, 0.0, float("inf"), 10.0],
        [50.0, 50.0, 50.0, 90.0],
        [90.0, 50.0, 50.0, 90.0],
        [900.0, 50.0, 950.0, 90.0],
    ],
)
def test_a_box_that_cannot_be_seen_leaves_the_image_as_it_is(
    image: Tensor, box: list[float]
) -> None:
    canvas = Canvas(image)
    canvas.frame(box, RED)
    canvas.frame(box, RED, dashed=True)
    canvas.frame(box, RED, thin=True)
    canvas.hatch(box, RED)
    canvas.label(box, "sheep", RED)
    assert torch.equal(canvas.finish(), image)


@pytest.mark.parametrize("dashed", [False, True])
def test_a_box_smaller_than_a_pixel_is_seen(dashed: bool) -> None:
    canvas = Canvas(plain())
    canvas.frame([50.1, 60.1, 50.4, 60.4], RED, dashed=dashed)
    assert is_red(canvas.finish()).nonzero().tolist() == [[60, 50]]


def test_a_dashed_frame_has_gaps_and_all_four_corners() -> None:
    canvas = Canvas(plain())
    canvas.frame([50.0, 60.0, 150.0, 200.0], RED, dashed=True)
    red = is_red(canvas.finish())
    for y in (60, 199):
        for x in (50, 149):
            assert red[y, x]
    for side in (red[60, 50:150], red[199, 50:150], red[60:200, 50], red[60:200, 149]):
        assert 0.4 < side.float().mean() < 0.8
    red[60:200, 50:150] = False
    assert not red.any()


def test_a_thin_frame_lets_the_image_through() -> None:
    canvas = Canvas(plain())
    canvas.frame([50.0, 60.0, 150.0, 200.0], RED, thin=True)
    picture = canvas.finish()
    red, green, blue = picture[:, 60, 100].tolist()
    assert GREY < red < RED[0]
    assert RED[1] < green < GREY
    assert RED[2] < blue < GREY
    assert picture[:, 60 + canvas.line, 100].tolist() == [GREY] * 3


def test_hatching_covers_a_part_of_its_box_and_nothing_else(image: Tensor) -> None:
    canvas = Canvas(image)
    canvas.hatch([50.0, 60.0, 150.0, 200.0], RED)
    changed = (canvas.finish() != image).any(0)
    assert 0.02 < changed[60:200, 50:150].float().mean() < 0.5
    changed[60:200, 50:150] = False
    assert not changed.any()


def test_a_point_is_drawn_where_it_is() -> None:
    canvas = Canvas(plain())
    canvas.points(torch.tensor([[30.0, 40.0], [-50.0, 9.0]]), RED)
    ys, xs = is_red(canvas.finish()).nonzero(as_tuple=True)
    assert len(ys) > 0
    assert ys.float().mean() == pytest.approx(39.5, abs=1)
    assert xs.float().mean() == pytest.approx(29.5, abs=1)


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((320, 500), 1),
        ((319, 500), 2),
        ((160, 160), 3),
        ((100, 120), 5),
        ((10, 500), 3),
        ((10, 1000), 1),
    ],
)
def test_small_images_are_enlarged_by_a_whole_number(size: tuple[int, int], scale: int) -> None:
    picture = Canvas(plain(*size)).finish()
    assert picture.shape == (3, size[0] * scale, size[1] * scale)


def test_boxes_are_enlarged_with_the_image() -> None:
    canvas = Canvas(plain(160, 160))
    canvas.frame([10.0, 20.0, 60.0, 90.0], RED)
    ys, xs = is_red(canvas.finish()).nonzero(as_tuple=True)
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (30, 60, 180, 270)


def test_lines_grow_with_the_image() -> None:
    assert Canvas(plain(1500, 2000)).line > 2 * Canvas(plain()).line


def test_labels_are_smaller_where_there_are_many() -> None:
    def ground_of_one_label(labels: int) -> float:
        canvas = Canvas(plain(480, 640))
        for i in range(labels):
            canvas.label([0.0, 25.0 + 20 * i, 50.0, 27.0 + 20 * i], "sheep", RED)
        return is_red(canvas.finish()).sum().item() / labels

    assert ground_of_one_label(20) < 0.8 * ground_of_one_label(3)


def test_the_first_label_lies_on_top() -> None:
    canvas = Canvas(plain(330, 330))
    long = "a name as long as the picture is wide, and then some"
    for i in range(40):  # too many to find a free place
        colour = RED if i == 0 else (10, 20, 250)
        canvas.label([0.0, 0.0, 330.0, 330.0], long, colour)
    alone = Canvas(plain(330, 330))
    alone.label([0.0, 0.0, 330.0, 330.0], long, RED)
    covered = is_red(canvas.finish()).sum() / is_red(alone.finish()).sum()
    assert covered > 0.8


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([0.0, 200.0, 395.0]),
    st.sampled_from([0.0, 150.0, 325.0]),
    st.floats(1, 60),
    st.text(),
)
def test_a_label_lies_whole_inside_the_picture(x: float, y: float, side: float, text: str) -> None:
    # The ground of the label has one size wherever the box is, so nothing of it is cut off.
    def ground(box: list[float]) -> tuple[int, int]:
        canvas = Canvas(plain())
        canvas.label(box, text, RED)
        ys, xs = is_red(canvas.finish()).nonzero(as_tuple=True)
        return int(xs.max() - xs.min()), int(ys.max() - ys.min())

    assert ground([x, y, x + side, y + side]) == ground([150.0, 150.0, 250.0, 250.0])
