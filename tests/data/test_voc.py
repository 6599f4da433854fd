"""Folders in VOC layout, and PASCAL VOC by name."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.datasets

from rcnn.data import PASCAL_CLASSES, DataError, DataWarning, VOCDataset, pascal_voc

Write = Callable[..., Path]
Element = Callable[..., str]


def test_corners_become_continuous_and_zero_based(write_voc: Write, voc_object: Element) -> None:
    root = write_voc(
        objects=voc_object("dog", (1, 1, 60, 40)) + voc_object("dog", (11, 21, 20, 30))
    )
    sample = VOCDataset(root, "train")[0]
    assert sample.ground_truth.boxes.tolist() == [[0, 0, 60, 40], [10, 20, 20, 30]]
    assert sample.ground_truth.areas.tolist() == [2400, 100]
    assert sample.image.shape == (3, 40, 60)
    assert sample.original_size == (40, 60)
    assert sample.image_id == "a"


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("names", [("dog",), ("cat", "dog")])
def test_image_with_any_number_of_objects_is_ordinary(
    write_voc: Write, voc_object: Element, count: int, names: tuple[str, ...]
) -> None:
    write_voc("a", "".join(voc_object(name, (1, 1, 9, 9)) for name in names))
    root = write_voc("b", voc_object("dog", (1, 1, 9, 9)) * count)
    dataset = VOCDataset(root, "train")
    assert (len(dataset), dataset.class_names) == (2, names)
    assert dataset[1].ground_truth.boxes.shape == (count, 4)
    assert dataset[1].ground_truth.labels.tolist() == [len(names)] * count


def test_coordinates_may_have_decimals_and_difficult_may_be_missing(
    write_voc: Write, voc_object: Element
) -> None:
    root = write_voc(
        objects=voc_object("dog", (1.5, 2, 9.25, 9), difficult=None)
        + voc_object("dog", (1, 1, 9, 9), difficult=1)
    )
    ground_truth = VOCDataset(root, "train").ground_truth(0)
    assert ground_truth.boxes[0].tolist() == [0.5, 1, 9.25, 9]
    assert ground_truth.difficult.tolist() == [False, True]


def test_parts_of_an_object_are_no_objects(write_voc: Write, voc_object: Element) -> None:
    person = voc_object("person", (5, 5, 30, 30))
    head = "<part><name>head</name><bndbox><xmin>6</xmin></bndbox></part></object>"
    dataset = VOCDataset(write_voc(objects=person.replace("</object>", head)), "train")
    assert dataset.class_names == ("person",)
    assert dataset.ground_truth(0).boxes.tolist() == [[4, 4, 30, 30]]


def test_classes_of_every_split_are_those_of_the_whole_folder(
    write_voc: Write, voc_object: Element
) -> None:
    write_voc("a", voc_object("dog", (1, 1, 9, 9)))
    root = write_voc("b", voc_object("cat", (1, 1, 9, 9)), split="test")
    for split, label in (("train", 2), ("test", 1)):
        dataset = VOCDataset(root, split)
        assert dataset.class_names == ("cat", "dog")
        assert dataset.ground_truth(0).labels.tolist() == [label]


def test_file_of_classes_fixes_their_order_and_given_names_go_before_it(
    write_voc: Write, voc_object: Element
) -> None:
    root = write_voc(objects=voc_object("cat", (1, 1, 9, 9)))
    (root / "classes.txt").write_text("dog\n\ncat\n")
    dataset = VOCDataset(root, "train")
    assert dataset.class_names == ("dog", "cat")
    assert dataset.ground_truth(0).labels.tolist() == [2]
    assert VOCDataset(root, "train", ["cat"]).ground_truth(0).labels.tolist() == [1]


def test_unknown_class_is_an_error_that_names_the_nearest(
    write_voc: Write, voc_object: Element
) -> None:
    root = write_voc(objects=voc_object("dog", (1, 1, 9, 9)) + voc_object("catt", (1, 1, 9, 9)))
    with pytest.raises(
        DataError, match=r"a\.xml, object 2: unknown class: 'catt'.*'cat'.*cat, dog"
    ):
        VOCDataset(root, "train", ["cat", "dog"])


def test_split_all_takes_every_annotation_in_order(write_voc: Write) -> None:
    write_voc("b", split="train")
    root = write_voc("a", split="test")
    assert list(VOCDataset(root, "all", ["dog"]).image_ids) == ["a", "b"]
    assert list(VOCDataset(root, "train", ["dog"]).image_ids) == ["b"]


def test_unknown_split_names_those_that_exist(write_voc: Write) -> None:
    write_voc("a", split="train")
    root = write_voc("b", split="test")
    with pytest.raises(DataError, match=r"'tran'.*There are test, train.*'all' takes every"):
        VOCDataset(root, "tran")


@pytest.mark.parametrize("folder", ["Annotations", "JPEGImages"])
def test_wrong_layout_names_the_missing_folder(tmp_path: Path, folder: str) -> None:
    for other in {"Annotations", "JPEGImages"} - {folder}:
        (tmp_path / other).mkdir()
    with pytest.raises(DataError, match=f"there is no folder {folder}"):
        VOCDataset(tmp_path)


def test_image_listed_twice_names_both_lines(write_voc: Write) -> None:
    write_voc("a")
    write_voc("b")
    root = write_voc("a")
    with pytest.raises(DataError, match=r"train\.txt, line 3: image 'a' .* line 1"):
        VOCDataset(root, "train")


def test_split_without_any_usable_image_is_an_error_even_under_skip(write_voc: Write) -> None:
    root = write_voc("a")
    (root / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"no usable image.*missing image"):
        VOCDataset(root, "train", ["dog"], on_error="skip")
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"train\.txt lists no image"):
        VOCDataset(root, "train", on_error="skip")


def test_picture_may_have_another_format_and_jpeg_goes_first(
    write_voc: Write, write_image: Write
) -> None:
    root = write_voc("a")
    (root / "JPEGImages" / "a.jpg").rename(root / "JPEGImages" / "a.JPG")
    write_image(root / "JPEGImages" / "a.bmp", (9, 9))
    (root / "JPEGImages" / "a.txt").write_text("notes")
    assert VOCDataset(root, "train", ["dog"])[0].image.shape == (3, 40, 60)
    (root / "JPEGImages" / "a.JPG").unlink()
    (root / "JPEGImages" / "a.bmp").unlink()
    write_image(root / "JPEGImages" / "a.png")
    assert VOCDataset(root, "train", ["dog"])[0].image.shape == (3, 40, 60)


def test_annotation_without_size_takes_that_of_the_file(write_voc: Write) -> None:
    assert VOCDataset(write_voc(size=""), "train", ["dog"])[0].original_size == (40, 60)


SIZE = "<size><width>{}</width><height>{}</height></size>"
OBJECT = (
    "<object><name>dog</name><difficult>{flag}</difficult><bndbox><xmin>{x1}</xmin>"
    "<ymin>3</ymin><xmax>{x2}</xmax><ymax>9</ymax></bndbox></object>"
)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (OBJECT.format(flag=0, x1=7, x2=7), r"\(dog\): box without area: xmin=7 ymin=3 xmax=7"),
        (OBJECT.format(flag=0, x1=9, x2=5), r"\(dog\): inverted box: xmin=9 ymin=3 xmax=5"),
        (OBJECT.format(flag=0, x1=9, x2=62), r"\(dog\): box outside the image: .*xmax=62.*60 x 40"),
        (OBJECT.format(flag=0, x1=65535, x2=9), r"\(dog\): wrapped-around coordinate: xmin=65535"),
        (OBJECT.format(flag=0, x1="nan", x2=9), r"\(dog\): coordinate that is no finite.*xmin=nan"),
        (OBJECT.format(flag=0, x1="left", x2=9), r"\(dog\): unreadable coordinate: xmin='left'"),
        (OBJECT.format(flag=0, x1="", x2=9), r"\(dog\): unreadable coordinate: xmin=''"),
        (OBJECT.format(flag="maybe", x1=5, x2=9), r"\(dog\): unreadable flag: .*'maybe'"),
        ("<object><name> </name></object>", r"object without class"),
    ],
)
def test_bad_object_is_named_by_file_number_and_value_or_left_out(
    write_voc: Write, voc_object: Element, objects: str, message: str
) -> None:
    good = voc_object("dog", (1, 1, 9, 9))
    root = write_voc(objects=good + objects + good)
    with pytest.raises(DataError, match=rf"a\.xml, object 2.*{message}.*data\.on_error=skip"):
        VOCDataset(root, "train")
    with pytest.warns(DataWarning, match=rf"left out 1 x .*object 2.*{message}") as caught:
        dataset = VOCDataset(root, "train", on_error="skip")
    assert len(caught) == 1
    assert dataset.problems.counts.total() == 1
    assert dataset.ground_truth(0).boxes.tolist() == [[0, 0, 9, 9]] * 2


def cut(root: Path) -> None:
    file = root / "JPEGImages" / "b.jpg"
    file.write_bytes(file.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "JPEGImages/b.jpg").unlink(), r"b\.jpg: missing image"),
        (lambda root: (root / "JPEGImages/b.jpg").write_text("no"), r"b\.jpg: unreadable image"),
        (cut, r"b\.jpg: unreadable image"),
        (lambda root: (root / "Annotations/b.xml").unlink(), r"b\.xml: missing annotation"),
        (
            lambda root: (root / "Annotations/b.xml").write_text("<annotation>\n<object>"),
            r"b\.xml: unreadable annotation: no element found: line 2",
        ),
        (
            lambda root: (root / "Annotations/b.xml").write_text(
                f"<annotation>{SIZE.format(640, 480)}</annotation>"
            ),
            r"b\.xml.*b\.jpg: wrong image size: annotated as 640 x 480.* 60 x 40",
        ),
        (
            lambda root: (root / "Annotations/b.xml").write_text(
                f"<annotation>{SIZE.format('wide', 40)}</annotation>"
            ),
            r"b\.xml: wrong image size: .*width 'wide'",
        ),
    ],
)
def test_bad_image_is_named_or_left_out(
    write_voc: Write, voc_object: Element, spoil: Callable[[Path], None], message: str
) -> None:
    root = write_voc("a", voc_object("dog", (1, 1, 9, 9)))
    write_voc("b")
    write_voc("c")
    spoil(root)
    with pytest.raises(DataError, match=message):
        VOCDataset(root, "train")
    with pytest.warns(DataWarning, match=message) as caught:
        dataset = VOCDataset(root, "train", on_error="skip")
    assert len(caught) == 1
    assert list(dataset.image_ids) == ["a", "c"]
    assert dataset.problems.counts.total() == 1


def test_blood_cells_have_their_two_known_faults_and_no_other(shared_data: Path) -> None:
    with pytest.raises(DataError, match=r"BloodImage_00338\.xml, object 13 \(RBC\): box without"):
        VOCDataset(shared_data / "bccd", "trainval")
    with pytest.warns(DataWarning, match=r"2 x box without area.*00338.*00343"):
        whole = VOCDataset(shared_data / "bccd", "all", on_error="skip")
    assert len(whole.index.boxes) == 4888 - 2
    for split, count in {"train": 205, "val": 87, "test": 72}.items():
        with warnings.catch_warnings(action="ignore", category=DataWarning):
            dataset = VOCDataset(shared_data / "bccd", split, on_error="skip")
        assert len(dataset) == count
        assert dataset.class_names == ("Platelets", "RBC", "WBC")


def test_voc_photographs_read_as_documented(shared_data: Path) -> None:
    dataset = VOCDataset(shared_data / "voc100", "all")
    assert len(dataset) == 100
    assert len(dataset.class_names) == 20
    assert dataset.class_names[:2] == ("aeroplane", "bicycle")
    assert len(dataset.index.boxes) == 273
    assert int(dataset.index.difficult.sum()) == 38
    sample = dataset[0]
    assert sample.image_id == "2007_000027"
    assert sample.image.shape == (3, 500, 486)
    assert sample.image.dtype == torch.uint8
    assert sample.ground_truth.boxes.tolist() == [[173, 100, 349, 351]]
    assert dataset.class_names[sample.ground_truth.labels[0] - 1] == "person"
    assert dataset.aspect_ratios[0] == pytest.approx(486 / 500)


# --- PASCAL VOC by name ------------------------------------------------------------------------


@pytest.fixture
def devkit(tmp_path: Path, write_voc: Write, voc_object: Callable[..., str]) -> Path:
    """A small VOCdevkit: 2007 with trainval and test, 2012 with trainval."""
    cat = voc_object("cat", (1, 1, 9, 9))
    for year, image_id, split in (
        ("2007", "000005", "trainval"),
        ("2007", "000001", "test"),
        ("2012", "2008_000002", "trainval"),
    ):
        write_voc(image_id, cat, split=split, root=tmp_path / "VOCdevkit" / f"VOC{year}")
    return tmp_path


def test_one_year_has_its_own_images_and_all_classes(devkit: Path) -> None:
    dataset = pascal_voc("VOC2007", devkit)
    assert list(dataset.image_ids) == ["000005"]
    assert dataset.class_names == PASCAL_CLASSES
    assert len(PASCAL_CLASSES) == 20
    assert PASCAL_CLASSES[dataset.ground_truth(0).labels[0] - 1] == "cat"


def test_the_two_years_together_keep_their_ids_apart_and_have_the_test_set_of_2007(
    devkit: Path,
) -> None:
    dataset = pascal_voc("VOC0712", devkit)
    assert list(dataset.image_ids) == ["VOC2007/000005", "VOC2012/2008_000002"]
    assert dataset[1].image_id == "VOC2012/2008_000002"
    assert list(pascal_voc("VOC0712", devkit, "test").image_ids) == ["VOC2007/000001"]


def test_challenge_that_cannot_be_opened_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"VOC2012 test set .*'val'"):
        pascal_voc("VOC2012", tmp_path, "test")
    with pytest.raises(DataError, match=r"'VOC2017', did you mean 'VOC20\d\d'\? Known are"):
        pascal_voc("VOC2017", tmp_path)
    with pytest.raises(DataError, match=r"VOCdevkit/VOC2007.*data\.download=true"):
        pascal_voc("VOC2007", tmp_path)


@pytest.mark.parametrize(("split", "fetched"), [("trainval", []), ("val", [("2012", "val")])])
def test_only_what_is_missing_is_downloaded(
    devkit: Path,
    write_voc: Write,
    monkeypatch: pytest.MonkeyPatch,
    split: str,
    fetched: list[tuple[str, str]],
) -> None:
    made = []

    def download(root: str, year: str, image_set: str, download: bool) -> None:
        assert root == str(devkit)
        assert download
        made.append((year, image_set))
        write_voc("x", split=image_set, root=devkit / "VOCdevkit" / f"VOC{year}")

    monkeypatch.setattr(torchvision.datasets, "VOCDetection", download)
    assert len(pascal_voc("VOC2012", devkit, split, download=True)) == 1
    assert made == fetched
