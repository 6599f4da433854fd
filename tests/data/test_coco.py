"""COCO annotation files."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rcnn.data import COCODataset, DataError, DataWarning, VOCDataset

Write = Callable[..., Path]


def dog(number: object = 1, **changes: object) -> dict[str, object]:
    """An annotation of image 7."""
    entry = {"id": number, "image_id": 7, "category_id": 5, "bbox": [10, 5, 20.5, 8], "area": 90.5}
    return {key: value for key, value in {**entry, **changes}.items() if value is not ...}


def opened(file: Path, on_error: str = "repair") -> COCODataset:
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
    ("image_id", "category_id"), [(7, 5), ("7", "5"), (7.0, 5.0), (7, "5"), ("7", 5)]
)
@pytest.mark.parametrize("number", [44, 2**128, "8f3e", None])
def test_ids_may_be_numbers_or_texts_of_any_size(
    write_coco: Write, image_id: object, category_id: object, number: object
) -> None:
    entry = dog(number, image_id=image_id, category_id=category_id)
    dataset = opened(write_coco([entry]), "raise")
    assert dataset.ground_truth(0).labels.tolist() == [2]


def test_numbers_and_flags_have_their_sense(write_coco: Write) -> None:
    entry = dog(bbox=["10", 5.0, "20.5", 8], area="90.5", iscrowd="0", ignore=None)
    image = {"id": 7, "file_name": "seven.jpg", "height": "40", "width": 60.0}
    ground_truth = opened(write_coco([entry], [image]), "raise").ground_truth(0)
    assert ground_truth.boxes.tolist() == [[10, 5, 30.5, 13]]
    assert ground_truth.areas.tolist() == [90.5]
    assert not (ground_truth.crowd | ground_truth.difficult).any()


def test_image_of_lvis_is_named_by_its_address(write_coco: Write) -> None:
    image = {"id": 7, "coco_url": "http://images.org/train2017/seven.jpg", "height": 40}
    assert list(opened(write_coco([dog()], [{**image, "width": 60}]), "raise").index.files) == [
        "seven.jpg"
    ]


def test_objects_go_with_an_image_that_is_left_out(write_coco: Write) -> None:
    seven = {"id": 7, "file_name": "seven.jpg", "height": 40, "width": 60}
    eight = {**seven, "id": 8, "file_name": "eight.jpg"}
    file = write_coco([dog(1), dog(2, image_id=8), dog(3, image_id="8")], [seven, eight])
    with pytest.warns(DataWarning, match=r"eight\.jpg"):
        dataset = opened(file, "skip")
    assert list(dataset.image_ids) == ["7"]
    assert dataset.problems.counts == {"missing image": 1}


def test_file_of_which_no_annotation_has_an_image_is_an_error(write_coco: Write) -> None:
    file = write_coco([dog(1, image_id="seven.jpg"), dog(2, image_id="seven.jpg")])
    with pytest.raises(DataError, match="not one of 2 annotations"):
        opened(file, "skip")


# --- classes ------------------------------------------------------------------------------------


def test_group_of_categories_without_objects_is_no_class(write_coco: Write) -> None:
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 2, "name": "cat", "supercategory": "animals"},
        {"id": 5, "name": "dog", "supercategory": "animals"},
    ]
    with pytest.warns(DataWarning, match=r"category that only groups others.*\n.*'animals'"):
        dataset = opened(write_coco([dog()], categories=categories), "raise")
    assert (dataset.class_names, dataset.category_ids) == (("cat", "dog"), (2, 5))
    with_objects = opened(write_coco([dog(), dog(category_id=0)], categories=categories))
    assert with_objects.class_names == ("animals", "cat", "dog")


def test_category_that_is_its_own_group_stays(write_coco: Write) -> None:
    categories = [{"id": 1, "name": "person", "supercategory": "person"}, {"id": 5, "name": "dog"}]
    assert opened(write_coco([dog()], categories=categories)).class_names == ("person", "dog")


def test_categories_of_one_name_are_one_class(write_coco: Write) -> None:
    categories = [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 9, "name": "dog"}]
    file = write_coco([dog(1), dog(2, category_id=9)], categories=categories)
    with pytest.warns(DataWarning, match="class named twice"):
        dataset = opened(file)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.ground_truth(0).labels.tolist() == [2, 2]
    with pytest.raises(DataError, match="class named twice: 'dog'"):
        opened(file, "raise")


def test_background_is_no_class_unless_it_has_objects(write_coco: Write) -> None:
    categories = [{"id": 0, "name": "__background__"}, {"id": 5, "name": "dog"}]
    with pytest.warns(DataWarning, match="class named background"):
        assert opened(write_coco([dog()], categories=categories)).class_names == ("dog",)
    with pytest.warns(DataWarning, match="class named background"):
        dataset = opened(write_coco([dog(category_id=0)], categories=categories))
    assert dataset.class_names == ("__background__", "dog")


def test_chosen_classes_have_their_order_and_others_are_background(write_coco: Write) -> None:
    file = write_coco([dog(1), dog(2, category_id=2)])
    folder = file.parent / "images"
    both = COCODataset(file, folder, class_names=["dog", "cat"])
    assert both.category_ids == (5, 2)
    assert both.ground_truth(0).labels.tolist() == [1, 2]
    with pytest.warns(DataWarning, match=r"1 x class not selected \(noted\)\n.*'cat'"):
        one = COCODataset(file, folder, "raise", class_names=["dog"])
    assert one.ground_truth(0).labels.tolist() == [1]


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("categories", [True, False])
def test_file_without_annotations_is_for_prediction(write_coco: Write, categories: bool) -> None:
    file = write_coco()
    content = json.loads(file.read_text())
    del content["annotations"]
    if not categories:
        del content["categories"]
    file.write_text(json.dumps(content))
    with pytest.warns(DataWarning, match="prediction"):
        dataset = opened(file)
    assert (len(dataset), len(dataset.ground_truth(0)), dataset.is_annotated) == (1, 0, False)
    assert dataset.class_names == (("cat", "dog") if categories else ())


def test_folder_that_is_not_there_is_named_with_its_whole_path(
    write_coco: Write, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"^{tmp_path}/nowhere is no folder.*data\.train_images"):
        COCODataset(write_coco(), tmp_path / "nowhere")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_file_may_come_from_windows(write_coco: Write, encoding: str) -> None:
    file = write_coco([dog()])
    file.write_bytes(file.read_text().encode(encoding))
    assert len(opened(file, "raise")) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"cannot be read as JSON: .*line 1"),
        ("[]", r"no list of entries 'images'"),
        ("[" * 100_000, r"cannot be read as JSON: .*recursion"),
        ('{"images": [], "annotations": {}}', r"no list of entries 'annotations'"),
        ('{"images": [], "annotations": []}', r"no list of entries 'categories'"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1}]}',
            r"category number 1: unreadable category.*'name'",
        ),
        (
            '{"images": [], "annotations": [], "categories": '
            '[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            r"category number 2: unreadable category.*used before, for 'a'",
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
