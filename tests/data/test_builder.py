"""The builder that makes sense of what readers find."""

import gc
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rcnn.data.builder import IndexBuilder
from rcnn.data.class_names import checked_class_names
from rcnn.data.dataset import IndexedDataset
from rcnn.data.errors import DataError, DataWarning, OnError, Problems
from rcnn.data.image_files import checked_size
from rcnn.data.index import AnnotationIndex
from rcnn.data.reading import list_files, read_lines
from rcnn.settings import SettingsError

Write = Callable[..., Path]


@pytest.fixture
def builder(tmp_path: Path, write_image: Write) -> Callable[..., IndexBuilder]:
    """A builder for a folder with the pictures a.jpg, b.jpg and c.jpg of 40 x 60."""
    for name in "abc":
        write_image(tmp_path / f"{name}.jpg")

    def make(
        names: Sequence[str] = ("cat", "dog"), on_error: OnError = "repair", **options: Any
    ) -> IndexBuilder:
        return IndexBuilder(names, Problems(on_error), image_folder=tmp_path, **options)

    return make


def add(building: IndexBuilder, image_id: str = "a", *boxes: Sequence[float], **flags: Any) -> int:
    """Add an image with dogs, numbered from 1."""
    image = building.add_image(image_id, f"{image_id[0]}.jpg", source=f"{image_id}.xml")
    for number, corners in enumerate(boxes, start=1):
        building.add_object(image, number, [*map(float, corners)], "dog", **flags)
    return image


# --- what is sound ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("names", [("dog",), ("cat", "dog")])
def test_ground_truth_is_what_was_added(
    builder: Callable[..., IndexBuilder], count: int, names: tuple[str, ...]
) -> None:
    building = builder(names)
    add(building, "b", (0, 0, 1, 1))
    image = add(building, "a")
    add(building, "c", (0, 0, 1, 1))
    for number in range(count):
        corners = [float(number), 2.0, 9.0, 12.0]
        building.add_object(image, number, corners, "dog", difficult=number == 1)
    ground_truth = building.build().ground_truth(image)
    assert ground_truth.boxes.shape == (count, 4)
    assert ground_truth.boxes.tolist() == [[number, 2, 9, 12] for number in range(count)]
    assert ground_truth.labels.tolist() == [len(names)] * count
    assert ground_truth.labels.dtype == torch.int64
    assert ground_truth.difficult.tolist() == [number == 1 for number in range(count)]
    assert not ground_truth.crowd.any()
    assert ground_truth.areas.tolist() == [(9 - number) * 10 for number in range(count)]
    assert building.problems.summary() == []


def test_objects_may_come_in_any_order_and_keep_it_within_their_image(
    builder: Callable[..., IndexBuilder],
) -> None:
    building = builder()
    images = [add(building, name) for name in "abc"]
    for number, image in enumerate((2, 0, 2, 0, 2)):
        corners = (float(number), 0.0, 10.0, 10.0)
        building.add_object(images[image], number, corners, "cat", area=float(number))
    index = building.build()
    assert [index.ground_truth(image).areas.tolist() for image in images] == [[1, 3], [], [0, 2, 4]]


def test_changing_a_ground_truth_does_not_change_the_index(
    builder: Callable[..., IndexBuilder],
) -> None:
    building = builder()
    add(building, "a", (0, 0, 9, 9))
    index = building.build()
    index.ground_truth(0).boxes.zero_()
    assert index.ground_truth(0).boxes.sum() > 0


def test_box_one_pixel_over_the_border_is_clipped_without_a_word(
    builder: Callable[..., IndexBuilder],
) -> None:
    building = builder(on_error="raise")
    add(building, "a", (-0.5, -1.0, 60.25, 41.0))
    index = building.build()
    assert index.ground_truth(0).boxes.tolist() == [[0, 0, 60, 40]]
    assert index.aspect_ratios.tolist() == [1.5]


@pytest.mark.parametrize(
    ("flags", "difficult", "crowd"),
    [
        ({"difficult": "Unspecified", "crowd": None}, False, False),
        ({"difficult": "1", "crowd": 0.0}, True, False),
        ({"difficult": "0", "crowd": True}, False, True),
        ({"difficult": 2, "crowd": "false"}, True, False),
    ],
)
def test_flags_have_their_sense(
    builder: Callable[..., IndexBuilder], flags: dict[str, object], difficult: bool, crowd: bool
) -> None:
    building = builder(on_error="raise")
    add(building, "a", (0, 0, 9, 9), **flags)
    ground_truth = building.build().ground_truth(0)
    assert (ground_truth.difficult.item(), ground_truth.crowd.item()) == (difficult, crowd)


@pytest.mark.parametrize(
    ("area", "expected", "counted"),
    [(90.5, 90.5, 0), ("90.5", 90.5, 0), (0, 0, 0), (None, 81, 0), (-1, 81, 1), ("big", 81, 1)],
)
def test_area_without_sense_is_that_of_the_box(
    builder: Callable[..., IndexBuilder], area: object, expected: float, counted: int
) -> None:
    building = builder()
    add(building, "a", (0, 0, 9, 9), area=area)
    assert building.build().areas.tolist() == [expected]
    assert building.problems.counts.total() == counted


def test_index_holds_no_python_object_per_image_or_box(
    builder: Callable[..., IndexBuilder],
) -> None:
    building = builder()
    for number in range(4_000):
        image = building.add_image(f"image{number:06d}", "a.jpg", (40, 60), source="a.xml")
        for k in range(5):
            building.add_object(image, k, (0.0, 0.0, k + 1.0, 10.0), "dog")
    gc.collect()
    before = len(gc.get_objects())
    index = building.build()
    gc.collect()
    assert len(gc.get_objects()) - before < 200
    # 20,000 boxes of 16 + 2 + 1 + 1 + 4 bytes, 4,000 images of 8 + 8 + 8 + 8 bytes and names
    assert len(pickle.dumps(index)) < 20_000 * 24 + 4_000 * 64


# --- what is not --------------------------------------------------------------------------------


def test_bad_box_is_named_by_file_object_class_and_value(
    builder: Callable[..., IndexBuilder],
) -> None:
    building = builder()
    add(building, "a", (0, 0, 9, 9), (9, 5, 5, 9))
    with pytest.raises(DataError, match=r"a\.xml, object 2 \(dog\): inverted box: .*9\.0"):
        building.build()


def test_what_is_left_out_of_an_image_is_ignored_and_its_neighbours_stay(
    builder: Callable[..., IndexBuilder],
) -> None:
    building = builder(on_error="skip")
    add(building, "a", (1, 0, 10, 10), (30, 0, 20, 10), (3, 0, 10, 10))
    ground_truth = building.build().ground_truth(0)
    assert ground_truth.boxes[:, 0].tolist() == [1, 20, 3]
    assert ground_truth.labels.tolist() == [2, 0, 2]
    assert ground_truth.crowd.tolist() == [False, True, False]
    assert building.problems.counts == {"inverted box": 1}


@pytest.mark.parametrize("corner", [float("nan"), float("inf"), 65535.0])
def test_object_without_a_known_box_takes_its_image_along(
    builder: Callable[..., IndexBuilder], corner: float
) -> None:
    building = builder(on_error="skip")
    add(building, "a", (0, 0, 9, 9), (corner, 0, 20, 10))
    add(building, "b", (1, 1, 9, 9))
    index = building.build()
    assert list(index.image_ids) == ["b"]
    assert index.ground_truth(0).boxes.tolist() == [[1, 1, 9, 9]]
    assert building.problems.counts.total() == 1


@pytest.mark.parametrize("error", [UnicodeError, LookupError, OverflowError, RecursionError])
def test_any_exception_is_named_by_file_or_takes_out_what_was_added(
    builder: Callable[..., IndexBuilder], error: type[Exception]
) -> None:
    def read(building: IndexBuilder) -> None:
        with building.reading("folder/a.xml"):
            add(building, "a", (0, 0, 9, 9))
            raise error("details")

    with pytest.raises(DataError, match=rf"folder/a\.xml: .*{error.__name__}: .*details"):
        read(builder())
    building = builder(on_error="skip")
    add(building, "b")
    read(building)
    assert list(building.build().image_ids) == ["b"]
    assert building.problems.summary()[0]["cases"][0]["where"] == "folder/a.xml"


def test_lack_of_memory_is_no_fault_of_the_data(builder: Callable[..., IndexBuilder]) -> None:
    with pytest.raises(MemoryError), builder(on_error="skip").reading("a.xml"):
        raise MemoryError


def test_two_images_of_one_id_are_an_error_and_both_go(
    builder: Callable[..., IndexBuilder],
) -> None:
    building = builder(on_error="skip")
    for image_id, file in (("x", "a.jpg"), ("y", "b.jpg"), ("x", "c.jpg")):
        with building.reading(file):
            building.add_image(image_id, file, source=file)
    assert list(building.build().image_ids) == ["y"]
    assert building.problems.counts == {"one id for two images": 1}


# --- classes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", ["error", "drop", "ignore"])
def test_object_of_another_class_is_a_fault_or_not_selected_or_ignored(
    builder: Callable[..., IndexBuilder], others: str
) -> None:
    building = builder(["dog"], others=others)
    image = add(building, "a", (0, 0, 9, 9))

    def add_other() -> AnnotationIndex:
        building.add_object(image, 2, [1.0, 1.0, 5.0, 5.0], "dogg")
        return building.build()

    if others == "error":
        with pytest.raises(DataError, match=r"a\.xml, object 2: unknown class: 'dogg'.*'dog'"):
            add_other()
        return
    labels = add_other().labels.tolist()
    assert labels == {"drop": [1], "ignore": [1, 0]}[others]
    (row,) = building.problems.summary()
    assert row["outcome"] == {"drop": "noted", "ignore": "repaired"}[others]
    assert "dogg" in row["cases"][0]["found"]


def test_chosen_classes_have_names_of_their_own(builder: Callable[..., IndexBuilder]) -> None:
    with pytest.raises(SettingsError, match=r"class_names=.*'dog', 'cat', 'dog'"):
        builder(["dog", "cat", "dog"])


def test_selected_class_that_is_misspelt_is_noted_with_the_nearest(
    builder: Callable[..., IndexBuilder],
) -> None:
    building = builder(["dogg"], others="drop")
    add(building, "a", (0, 0, 9, 9))
    assert len(building.build().boxes) == 0
    assert any(
        "'dogg', did you mean 'dog'?" in row["cases"][0]["found"]
        for row in building.problems.summary()
    )


def test_data_of_other_classes_alone_are_an_error(builder: Callable[..., IndexBuilder]) -> None:
    building = builder(["circle"], others="ignore")
    add(building, "a", (0, 0, 9, 9))
    with pytest.raises(DataError, match=r"objects of dog.*circle"):
        building.build()


# --- picture files ------------------------------------------------------------------------------


def test_size_of_the_file_counts_where_none_is_annotated(
    write_image: Write, tmp_path: Path
) -> None:
    assert checked_size(write_image(tmp_path / "a.jpg", (4, 6)), None, "a.xml") == (4, 6)


@pytest.mark.parametrize("size", [("", ""), (None, None), (40, 60), ("40", "60.0")])
def test_written_size_has_its_sense(
    builder: Callable[..., IndexBuilder], size: tuple[object, object]
) -> None:
    building = builder(on_error="raise")
    building.add_image("a", "a.jpg", size, source="a.xml")
    assert building.build().size(0) == (40, 60)


@pytest.mark.parametrize("size", [(0, 0), ("high", 60), (40.5, 60), (None, 60)])
def test_size_without_sense_is_that_of_the_file_and_counted(
    builder: Callable[..., IndexBuilder], size: tuple[object, object]
) -> None:
    building = builder()
    building.add_image("a", "a.jpg", size, source="a.xml")
    assert building.build().size(0) == (40, 60)
    assert building.problems.counts == {"unusable image size": 1}


def test_wrong_size_names_annotation_image_and_both_sizes(
    builder: Callable[..., IndexBuilder],
) -> None:
    with pytest.raises(DataError, match=r"a\.xml, .*a\.jpg: .* 8 x 4.* 60 x 40"):
        builder().add_image("a", "a.jpg", (4, 8), source="a.xml")


def test_cut_off_jpeg_is_refused_and_bytes_behind_the_end_are_not(
    write_image: Write, tmp_path: Path
) -> None:
    file = write_image(tmp_path / "a.jpg")
    content = file.read_bytes()
    file.write_bytes(content + b"maker's notes")
    assert checked_size(file, (40, 60), "a.xml") == (40, 60)
    file.write_bytes(content[:-100])
    with pytest.raises(DataError, match=r"a\.jpg: unreadable image"):
        checked_size(file, (40, 60), "a.xml")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("sub\\x 1.jpg", "sub/x 1.jpg"),
        ("sub/x%201.jpg", "sub/x 1.jpg"),
        ("C:\\data\\x 1.jpg", "sub/x 1.jpg"),
        ("/elsewhere/X 1.JPG", "sub/x 1.jpg"),
    ],
)
def test_picture_is_found_by_the_name_that_another_system_gave_it(
    builder: Callable[..., IndexBuilder],
    write_image: Write,
    tmp_path: Path,
    written: str,
    meant: str,
) -> None:
    write_image(tmp_path / "sub" / "x 1.jpg")
    building = builder()
    building.add_image("x", written, source="x.xml")
    assert list(building.build().files) == [meant]
    assert building.problems.counts == {"image file under another name": 1}
    with pytest.raises(DataError, match=r"data\.on_error=repair: sub/x 1\.jpg"):
        builder(on_error="raise").add_image("x", written, source="x.xml")


def test_picture_of_several_with_its_name_is_not_guessed(
    builder: Callable[..., IndexBuilder], write_image: Write, tmp_path: Path
) -> None:
    for folder in ("one", "two"):
        write_image(tmp_path / folder / "x.jpg")
    with pytest.raises(DataError, match=r"missing image: .*three/x\.jpg.*one/x\.jpg, two/x\.jpg"):
        builder().add_image("x", "three/x.jpg", source="x.xml")


# --- a reader of one's own ----------------------------------------------------------------------


class TextDataset(IndexedDataset):
    """The example of the module's docstring."""

    def __init__(self, root: Path, class_names: Any = None, on_error: OnError = "repair") -> None:
        problems = Problems(on_error)
        names = checked_class_names(read_lines(root / "classes.txt"), problems, "classes.txt")
        others: Any = "drop" if class_names else "error"
        building = IndexBuilder(class_names or names, problems, image_folder=root, others=others)
        for file in list_files(root):
            if file.endswith(".csv"):
                with building.reading(f"{root}/{file}"):
                    image = building.add_image(file[:-4], f"{file[:-4]}.jpg", source=file)
                    for number, line in enumerate(read_lines(root / file), start=1):
                        name, *corners = line.split(",")
                        building.add_object(image, number, [*map(float, corners)], name)
        super().__init__(building, str(root))


def test_reader_of_another_layout_gets_checks_and_policies_from_the_builder(
    tmp_path: Path, write_image: Write
) -> None:
    for name, text in (("a", "dog,1,1,9,9\ncat,2,2,70,9"), ("b", "dog,1,1,left,9")):
        write_image(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"b\.csv: .*'left'"):
        TextDataset(tmp_path)
    with pytest.warns(DataWarning, match="1 x box over the border"):
        dataset = TextDataset(tmp_path, on_error="skip")
    assert list(dataset.image_ids) == ["a"]
    assert dataset[0].ground_truth.boxes.tolist() == [[1, 1, 9, 9], [2, 2, 60, 9]]
    assert np.array_equal(dataset.sizes, [[40, 60]])
