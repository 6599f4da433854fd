"""Folders in VOC layout, and PASCAL VOC by name."""

import re
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


def test_chosen_classes_leave_the_others_out_and_listed_ones_do_not(
    write_voc: Write, voc_object: Element
) -> None:
    root = write_voc(objects=voc_object("dog", (1, 1, 9, 9)) + voc_object("catt", (1, 1, 9, 9)))
    with pytest.warns(DataWarning, match=r"class not selected(.|\n)*'cat', did you mean 'catt'"):
        dataset = VOCDataset(root, "train", ["cat", "dog"], "raise")
    assert dataset.ground_truth(0).labels.tolist() == [2]
    (root / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(
        DataError, match=r"a\.xml, object 2: unknown class: 'catt'.*'cat'.*cat, dog"
    ):
        VOCDataset(root, "train")


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


def spread(tmp_path: Path, write_image: Write, *names: str, text: str = "<annotation/>") -> Path:
    """Write files of a data set of any layout."""
    for name in names:
        file = tmp_path / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in (".jpg", ".png"):
            write_image(file)
        else:
            file.write_text(text)
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("files", "split", "ids", "pictures"),
    [
        (("a.xml", "a.jpg", "b.xml", "b.png"), "all", ["a", "b"], ["a.jpg", "b.png"]),
        (("annotations/a.xml", "images/a.jpg"), "all", ["a"], ["images/a.jpg"]),
        (("xmls/a.xml", "masks/a.png", "images/a.jpg"), "all", ["a"], ["images/a.jpg"]),
        (("Annotations/a.XML", "JPEGImages/a.jpg"), "all", ["a"], ["a.jpg"]),
        (("a.jpg.xml", "a.jpg"), "all", ["a.jpg"], ["a.jpg"]),
        (
            ("train/a.xml", "train/a.jpg", "valid/a.xml", "valid/a.jpg"),
            "all",
            ["train/a", "valid/a"],
            ["train/a.jpg", "valid/a.jpg"],
        ),
        (
            ("train/a.xml", "train/a.jpg", "valid/a.xml", "valid/a.jpg"),
            "val",
            ["valid/a"],
            ["valid/a.jpg"],
        ),
        (("train/a.xml", "train/a.jpg"), "train", ["a"], ["train/a.jpg"]),
        (
            ("labels/x/a.xml", "labels/y/a.xml", "images/x/a.jpg", "images/y/a.jpg"),
            "all",
            ["x/a", "y/a"],
            ["images/x/a.jpg", "images/y/a.jpg"],
        ),
        (("Annotations/._a.xml", "Annotations/a.xml", "JPEGImages/a.jpg"), "all", ["a"], ["a.jpg"]),
    ],
)
def test_folders_are_found_by_what_is_in_them(
    tmp_path: Path,
    write_image: Write,
    files: tuple[str, ...],
    split: str,
    ids: list[str],
    pictures: list[str],
) -> None:
    dataset = VOCDataset(spread(tmp_path, write_image, *files), split, ["dog"], "raise")
    assert list(dataset.image_ids) == ids
    assert list(dataset.index.files) == pictures
    assert dataset[0].image.shape == (3, 40, 60)


def test_picture_of_another_name_is_that_of_the_element_filename(
    tmp_path: Path, write_image: Write
) -> None:
    text = "<annotation><filename>C:\\x\\one.jpg</filename></annotation>"
    root = spread(tmp_path, write_image, "1.xml", "one.jpg", text=text)
    assert list(VOCDataset(root, "all", ["dog"], "raise").index.files) == ["one.jpg"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), r"no annotation \(\*\.xml\), and 0 pictures"),
        (("a.jpg", "sub/b.png", "._c.xml"), r"no annotation \(\*\.xml\), and 2 pictures.*label"),
        (("a.xml", "b.xml", "notes.txt"), r"2 annotations .*, but no picture.*JPEGImages"),
        (("x/a.xml", "y/a.xml", "a.jpg"), r"y/a\.xml: two annotations of one picture.*x/a\.xml"),
        (("a.xml", "x/a.jpg", "y/a.jpg"), r"two pictures of one name: x/a\.jpg and y/a\.jpg"),
        (
            ("a.xml", "a.jpg", "VOC2007/train.txt", "VOC2012/train.txt"),
            r"two data sets in one folder.*VOC2007/train\.txt, VOC2012.*data\.root",
        ),
    ],
)
def test_folder_without_one_data_set_says_what_is_there_and_what_to_do(
    tmp_path: Path, write_image: Write, files: tuple[str, ...], message: str
) -> None:
    root = spread(tmp_path, write_image, *files)
    root.mkdir(exist_ok=True)
    split = "train" if any(file.endswith("train.txt") for file in files) else "all"
    with pytest.raises(DataError, match=rf"^{root}[^\n]*{message}[^\n]*$"):
        VOCDataset(root, split)


def test_folder_that_is_not_there_is_named_with_its_whole_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^{tmp_path}/nowhere.*no such folder.*data\.root"):
        VOCDataset(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "lines",
    [
        "b\na 1\nc",
        "b.jpg\na.xml\nc.png\n",
        "JPEGImages/b.jpg\n./a\n/data/VOC/JPEGImages/c.jpg",
        "'b'\n\"a\"\nc\n\n",
        "b  1\r\na -1\r\nc  0\r\n",
        "\ufeffb\n\n  a  \nc",
        "JPEGImages\\b.jpg Annotations\\b.xml\na 1 1 2\nc",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_lists_name_images_as_tools_write_them(write_voc: Write, lines: str, encoding: str) -> None:
    for name in ("a", "c", "d"):
        write_voc(name)
    root = write_voc("b")
    (root / "ImageSets/Main/dog_train.txt").write_bytes(lines.encode(encoding))
    assert list(VOCDataset(root, "dog_train", ["dog"], "raise").image_ids) == ["b", "a", "c"]


def test_id_may_have_blanks_and_end_with_a_number(write_voc: Write) -> None:
    write_voc("my image 1")
    root = write_voc("my image 2")
    assert list(VOCDataset(root, "train", ["dog"]).image_ids) == ["my image 1", "my image 2"]


def test_split_without_any_usable_image_is_an_error_even_under_skip(write_voc: Write) -> None:
    write_voc("b", split="test")
    root = write_voc("a")
    (root / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"no usable image.*missing image"):
        VOCDataset(root, "train", ["dog"], on_error="skip")
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n \n")
    with pytest.raises(DataError, match=rf"{root}/ImageSets/Main/train\.txt lists no image"):
        VOCDataset(root, "train", on_error="skip")


# --- XML ----------------------------------------------------------------------------------------


DOG = (
    "<object><name>{}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    "</bndbox></object>"
)


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("猫", "gb2312"),
        ("貓", "gbk"),
        ("犬", "shift_jis"),
        ("貓", "big5"),
        ("개", "euc-kr"),
        ("Käfer", "windows-1252"),
        ("кошка", "windows-1251"),
        ("größe", "utf-8-sig"),
        ("größe", "utf-16"),
        ("größe", "iso-8859-1"),
    ],
)
def test_annotation_in_the_encoding_of_a_tool_is_read(
    write_voc: Write, name: str, encoding: str
) -> None:
    root = write_voc("a")
    declared = encoding.removesuffix("-sig")
    text = f'<?xml version="1.0" encoding="{declared}"?>\n<annotation>{DOG.format(name)}'
    (root / "Annotations/a.xml").write_bytes(f"{text}</annotation>".encode(encoding))
    assert VOCDataset(root, "train", on_error="raise").class_names == (name,)


def test_class_name_of_no_known_encoding_is_an_error(write_voc: Write) -> None:
    write_voc("b", DOG.format("dog"))
    root = write_voc("a")
    text = f"<annotation>{DOG.format('Käfer')}</annotation>"
    (root / "Annotations/a.xml").write_bytes(text.encode("cp1252"))
    with pytest.raises(DataError, match=r"a\.xml, object 1.*unreadable class name"):
        VOCDataset(root, "train")
    with pytest.warns(DataWarning):
        dataset = VOCDataset(root, "train", on_error="skip")
    assert (list(dataset.image_ids), dataset.class_names) == (["b"], ("dog",))


@pytest.mark.parametrize(
    "text",
    [
        '<annotation xmlns="http://x">{}</annotation>',
        '<v:annotation xmlns:v="http://x">{}</v:annotation>',
        "<annotations><annotation><objects>{}</objects></annotation></annotations>",
        "\n\n  <annotation>{}</annotation>\n\0",
        "{}",
    ],
)
def test_objects_are_found_in_namespaces_and_other_elements(write_voc: Write, text: str) -> None:
    inner = DOG.format("dog")
    if "v:" in text:
        inner = re.sub(r"<(/?)", r"<\1v:", inner)
    root = write_voc("a")
    (root / "Annotations/a.xml").write_text(text.format(inner))
    dataset = VOCDataset(root, "train", on_error="raise")
    assert dataset.class_names == ("dog",)
    assert dataset.ground_truth(0).boxes.tolist() == [[0, 0, 9, 9]]


def test_object_that_was_deleted_in_its_tool_is_none(write_voc: Write) -> None:
    deleted = DOG.format("cat").replace("</name>", "</name><deleted>1</deleted>")
    dataset = VOCDataset(write_voc("a", DOG.format("dog") + deleted), "train", on_error="raise")
    assert len(dataset.ground_truth(0)) == 1


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


@pytest.mark.filterwarnings("ignore::rcnn.data.DataWarning")
def test_blood_cells_have_their_two_known_faults_and_no_other(shared_data: Path) -> None:
    with pytest.raises(DataError, match=r"BloodImage_00338\.xml, object 13 \(RBC\): box without"):
        VOCDataset(shared_data / "bccd", "trainval", on_error="raise")
    whole = VOCDataset(shared_data / "bccd", "all")
    assert whole.problems.counts == {"box without area": 2}
    assert len(whole.index.boxes) == 4888 - 2
    for split, count in {"train": 205, "val": 87, "test": 72}.items():
        dataset = VOCDataset(shared_data / "bccd", split)
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


def test_classes_of_the_challenge_may_be_chosen(devkit: Path) -> None:
    assert pascal_voc("VOC2007", devkit, class_names=["cat"]).class_names == ("cat",)


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
