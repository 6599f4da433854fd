"""COCO annotation files."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rcnn.data import COCODataset, DataError, DataWarning, VOCDataset

Write = Callable[..., Path]


def dog(number: int = 1, **changes: object) -> dict[str, object]:
    """An annotation of image 7."""
    entry = {"id": number, "image_id": 7, "category_id": 5, "bbox": [10, 5, 20.5, 8], "area": 90.5}
    return {key: value for key, value in {**entry, **changes}.items() if value is not ...}


def opened(file: Path, on_error: str = "raise") -> COCODataset:
    return COCODataset(file, file.parent / "images", on_error)  # type: ignore[arg-type]


def test_box_is_corner_and_size_zero_based(write_coco: Write) -> None:
    sample = opened(write_coco([dog()]))[0]
    assert sample.ground_truth.boxes.tolist() == [[10, 5, 30.5, 13]]
    assert sample.ground_truth.areas.tolist() == [90.5]
    assert sample.image.shape == (3, 40, 60)
    assert sample.image_id == "7"


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("names", [("dog",), ("cat", "dog")])
def test_image_with_any_number_of_objects_is_ordinary(
    write_coco: Write, count: int, names: tuple[str, ...]
) -> None:
    categories = [{"id": {"cat": 2, "dog": 5}[name], "name": name} for name in names]
    dataset = opened(write_coco([dog(k) for k in range(count)], categories=categories))
    assert dataset.class_names == names
    assert dataset[0].ground_truth.boxes.shape == (count, 4)
    assert dataset[0].ground_truth.labels.tolist() == [len(names)] * count


def test_category_ids_with_gaps_become_labels_in_their_order_and_map_back(
    write_coco: Write,
) -> None:
    dataset = opened(write_coco([dog(1), dog(2, category_id=2)]))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.category_ids == (2, 5)
    labels = dataset.ground_truth(0).labels
    assert labels.tolist() == [2, 1]
    assert [dataset.category_ids[label - 1] for label in labels] == [5, 2]


def test_flags_and_missing_area(write_coco: Write) -> None:
    ground_truth = opened(
        write_coco([dog(1, iscrowd=1), dog(2, ignore=1), dog(3, area=...), dog(4, area=0)])
    ).ground_truth(0)
    assert ground_truth.crowd.tolist() == [True, False, False, False]
    assert ground_truth.difficult.tolist() == [False, True, False, False]
    assert ground_truth.areas.tolist() == [90.5, 90.5, 164, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [5, 5, 0, 9]}, r"\(dog\): box without area: bbox=\[5, 5, 0, 9\]"),
        ({"bbox": [5, 5, -2, 9]}, r"\(dog\): inverted box: bbox=\[5, 5, -2, 9\]"),
        ({"bbox": [50, 5, 12, 9]}, r"\(dog\): box outside the image: .*60 x 40"),
        ({"bbox": [float("nan"), 5, 12, 9]}, r"\(dog\): coordinate that is no finite number"),
        ({"bbox": [65535, 5, 12, 9]}, r"\(dog\): wrapped-around coordinate"),
        ({"bbox": [5, 5, 12]}, r"unreadable coordinate: bbox=\[5, 5, 12\]"),
        ({"bbox": [5, 5, 12, "9"]}, r"unreadable coordinate: bbox=\[5, 5, 12, '9'\]"),
        ({"bbox": ...}, r"unreadable coordinate: bbox=None"),
        ({"category_id": 3}, r"unknown class: category_id=3"),
        ({"category_id": [5]}, r"unknown class: category_id=\[5\]"),
        ({"image_id": 8}, r"unknown image: image_id=8"),
        ({"image_id": [7]}, r"unknown image: image_id=\[7\]"),
        ({"iscrowd": "no"}, r"unreadable flag: iscrowd='no'"),
        ({"area": -1}, r"unreadable area: area=-1"),
        ({"area": float("nan")}, r"unreadable area: area=nan"),
    ],
)
def test_bad_annotation_is_named_by_file_id_and_value_or_left_out(
    write_coco: Write, changes: dict[str, object], message: str
) -> None:
    file = write_coco([dog(1), dog(44, **changes), dog(3)])
    with pytest.raises(DataError, match=rf"instances\.json.*annotation 44.*{message}.*=skip"):
        opened(file)
    with pytest.warns(DataWarning, match=message) as caught:
        dataset = opened(file, "skip")
    assert len(caught) == 1
    assert dataset.problems.counts.total() == 1
    assert dataset.ground_truth(0).boxes.tolist() == [[10, 5, 30.5, 13]] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_name": "eight.jpg"}, r"eight\.jpg: missing image"),
        ({"height": 41}, r"image 8 \(seven\.jpg\).*wrong image size: annotated as 60 x 41"),
        ({"height": None}, r"image number 2: incomplete image entry: .*height=None"),
        ({"id": None}, r"image number 2: incomplete image entry: id=None"),
        ({"id": 7}, r"image number 2: image listed twice: .* id 7 "),
    ],
)
def test_bad_image_is_named_or_left_out_with_its_objects(
    write_coco: Write, changes: dict[str, object], message: str
) -> None:
    seven = {"id": 7, "file_name": "seven.jpg", "height": 40, "width": 60}
    bad = {**seven, "id": 8, **changes}
    orphans = [dog(2, image_id=8)] if bad["id"] == 8 else []
    file = write_coco([dog(1), *orphans], images=[seven, bad])
    with pytest.raises(DataError, match=message):
        opened(file)
    with pytest.warns(DataWarning, match=message):
        dataset = opened(file, "skip")
    assert list(dataset.image_ids) == ["7"]
    assert len(dataset.ground_truth(0)) == 1
    assert dataset.problems.counts.total() == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"cannot be read as JSON: .*line 1"),
        ("[]", r"no list of entries 'images'"),
        ('{"images": [], "annotations": {}}', r"no list of entries 'annotations'"),
        ('{"images": [], "annotations": []}', r"no list of entries 'categories'"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1}]}',
            r"category number 1: id=1 name=None",
        ),
        (
            '{"images": [], "annotations": [], "categories": '
            '[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}',
            r"category number 2: id=2 or name='a' was used before",
        ),
        ('{"images": [], "annotations": [], "categories": []}', r"no usable image"),
    ],
)
def test_file_that_is_no_coco_file_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "instances.json").write_text(content)
    with pytest.raises(DataError, match=rf"instances\.json.*{message}"):
        COCODataset(tmp_path / "instances.json", tmp_path, on_error="skip")


def test_missing_file_names_the_settings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json.*data\.train, .*data\.root"):
        COCODataset(tmp_path / "nowhere.json", tmp_path)


@pytest.mark.parametrize(("split", "images", "empty"), [("train", 343, 3), ("val", 206, 2)])
def test_photographs_agree_with_pycocotools(
    shared_data: Path, split: str, images: int, empty: int, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    file = shared_data / "coco_mini" / "annotations" / f"instances_{split}.json"
    dataset = COCODataset(file, shared_data / "coco_mini" / split)
    oracle = coco.COCO(str(file))
    assert len(dataset) == images
    assert dataset.category_ids == tuple(oracle.getCatIds())
    assert dataset.class_names == tuple(c["name"] for c in oracle.loadCats(oracle.getCatIds()))
    assert sum(len(dataset.ground_truth(index)) == 0 for index in range(images)) == empty
    sample = dataset[0]
    assert sample.image.shape == (3, *sample.original_size)
    for index, image_id in enumerate(dataset.image_ids):
        entries = oracle.loadAnns(oracle.getAnnIds(int(image_id)))
        ground_truth = dataset.ground_truth(index)
        corners = [[x, y, x + w, y + h] for x, y, w, h in (entry["bbox"] for entry in entries)]
        torch.testing.assert_close(ground_truth.boxes, torch.tensor(corners).reshape(-1, 4))
        assert ground_truth.crowd.tolist() == [entry["iscrowd"] == 1 for entry in entries]
        torch.testing.assert_close(ground_truth.areas, torch.tensor([e["area"] for e in entries]))
        categories = [dataset.category_ids[label - 1] for label in ground_truth.labels]
        assert categories == [entry["category_id"] for entry in entries]


def test_both_readers_agree_on_the_same_photographs(shared_data: Path) -> None:
    folder = shared_data / "voc100"
    coco = COCODataset(folder / "instances_coco.json", folder / "JPEGImages")
    voc = VOCDataset(folder, "all", class_names=coco.class_names)
    numbers = {file: number for number, file in enumerate(coco.index.files)}
    for index, image_id in enumerate(voc.image_ids):
        mine, other = voc.ground_truth(index), coco.ground_truth(numbers[f"{image_id}.jpg"])
        # That file was made without the shift of one pixel.
        shifted = mine.boxes + torch.tensor([1.0, 1.0, 0.0, 0.0])
        assert sorted(shifted.tolist()) == sorted(other.boxes.tolist())
        assert sorted(mine.labels.tolist()) == sorted(other.labels.tolist())


def test_outlines_of_any_kind_change_nothing(write_coco: Write) -> None:
    runs = {"counts": [3, 4], "size": [40, 60]}
    outlines: tuple[object, ...] = (
        [[1, 2, 3.5, 4]],
        [],
        runs,
        {**runs, "counts": "a]b"},
        [["a"]],
        None,
    )
    entries = [dog(k, segmentation=one, bbox=[k, 5, 7, 8]) for k, one in enumerate(outlines)]
    ground_truth = opened(write_coco(entries)).ground_truth(0)
    assert ground_truth.boxes.tolist() == [[k, 5, k + 7, 13] for k in range(len(outlines))]


def test_json_error_names_line_and_column_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "instances.json"
    file.write_text('{"annotations": [{"segmentation": [[1, 2]], "bbox": oops}]}')
    with pytest.raises(DataError, match="line 1 column 53"):
        COCODataset(file, tmp_path)
