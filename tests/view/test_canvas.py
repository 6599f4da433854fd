"""Images in and out of PIL, texts that fit, labels beside boxes, and what a canvas draws."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rcnn.structures import ImageBatch
from rcnn.view.canvas import (
    Canvas,
    fit,
    font,
    from_pil,
    image_of,
    place_labels,
    to_pil,
    to_uint8,
)

RED = (250, 10, 20)
GREY = 120
SIZE = (400, 330)


def is_red(picture: Tensor) -> Tensor:
    return (picture == torch.tensor(RED, dtype=torch.uint8)[:, None, None]).all(0)


def plain(height: int = 330, width: int = 400) -> Tensor:
    return torch.full((3, height, width), GREY, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_zero_becomes_black_and_one_becomes_white(dtype: torch.dtype) -> None:
    image = torch.tensor([0.0, 1.0, 1.0005], dtype=dtype).expand(3, 1, 3)
    assert to_uint8(image).tolist() == [[[0, 255, 255]]] * 3


def test_bytes_stay_bytes_also_by_way_of_floats_and_of_pil(image: Tensor) -> None:
    assert torch.equal(to_uint8(image), image)
    assert (to_uint8(image.float() / 255).int() - image.int()).abs().max() <= 1
    assert torch.equal(from_pil(to_pil(image)), image)
    assert np.asarray(to_pil(image))[2, 3].tolist() == image[:, 2, 3].tolist()


@pytest.mark.parametrize("value", [-1.5, 2.0, 255.0, float("nan")])
def test_a_normalised_image_is_an_error(value: float) -> None:
    image = torch.full((3, 4, 4), 0.5)
    image[0, 0, 0] = value
    with pytest.raises(ValueError, match=r"0\.\.1.*normalised"):
        to_uint8(image)
    with pytest.raises(ValueError, match=r"torch\.int64.*torch\.uint8"):
        to_uint8(torch.zeros(3, 4, 4, dtype=torch.int64))


def test_an_image_of_a_batch_comes_without_its_padding() -> None:
    pixels = torch.zeros(2, 3, 8, 10)
    pixels[1, :, :5, :7] = 1
    sizes = torch.tensor([[8, 10], [5, 7]])
    picture = image_of(ImageBatch(pixels, sizes, sizes), 1)
    assert (picture.dtype, picture.shape) == (torch.uint8, (3, 5, 7))
    assert picture.min() == 255


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_pil_image_shares_no_memory_with_the_tensor(image: Tensor, channels_last: bool) -> None:
    if channels_last:  # then the bytes already lie as PIL has them
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    before = image.clone()
    to_pil(image).paste((0, 0, 0), (0, 0, 50, 50))
    assert torch.equal(image, before)


@pytest.mark.parametrize("name", ["a class with a very long name 0.93", "очень длинное имя 0.93"])
@pytest.mark.parametrize("width", [60, 100, 400])
def test_a_text_is_cut_until_it_fits(name: str, width: int) -> None:
    text, letters, length = fit(name, 12, width)
    assert text[:4] == name[:4]
    assert letters.getlength(text) <= length <= width
    assert text == name if width == 400 else text.endswith("…")


def test_a_line_break_in_a_name_is_a_space() -> None:
    assert fit("fire\r\ntruck\n", 12, 300).text == "fire truck"


def test_letters_beyond_ascii_are_seen_if_matplotlib_is_installed() -> None:
    pytest.importorskip("matplotlib")
    shapes = {bytes(fit(letter, 20, 99).letters.getmask(letter)) for letter in "яжйüλ"}
    assert len(shapes) == 5  # without the letters each is the same empty box
    assert font(20).getlength("sheep") > 1.5 * font(12).getlength("sheep")


def test_a_label_is_written_on_its_box() -> None:
    assert place_labels([(50, 60, 150, 160)], [(40, 15)], SIZE) == [(50, 45, 90, 60)]
    assert place_labels([], [], SIZE) == []
    # One that is larger than the picture begins at its border.
    assert place_labels([(50, 60, 70, 80)], [(500, 15)], SIZE) == [(0, 45, 500, 60)]


def test_labels_of_one_box_take_one_corner_each() -> None:
    placed = place_labels([(50, 60, 150, 160)] * 12, [(40, 15)] * 12, SIZE)
    assert placed[:3] == [(50, 45, 90, 60), (50, 60, 90, 75), (110, 45, 150, 60)]
    for (left, top, right, bottom), (x1, y1, x2, y2) in combinations(placed, 2):
        assert right <= x1 or x2 <= left or bottom <= y1 or y2 <= top


def test_a_frame_lies_inside_its_box() -> None:
    canvas = Canvas(plain())
    canvas.frame([50.0, 60.0, 150.2, 199.8], RED)
    red = is_red(canvas.finish())
    line = canvas.line
    expected = torch.zeros(330, 400, dtype=torch.bool)
    expected[60:200, 50:150] = True
    expected[60 + line : 200 - line, 50 + line : 150 - line] = False
    assert torch.equal(red, expected)


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
        ((1, 400), 4),
        ((400, 1), 4),
        ((1, 1), 480),
    ],
)
def test_small_images_are_enlarged_by_a_whole_number(size: tuple[int, int], scale: int) -> None:
    picture = Canvas(plain(*size)).finish()
    assert picture.shape == (3, size[0] * scale, size[1] * scale)


def test_the_first_label_lies_on_top() -> None:
    canvas = Canvas(plain(330, 330))
    long = "a name as long as the picture is wide, and then some"
    for i in range(40):  # too many to find free room
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
