"""Folders as tools export them: every layout, named and found out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from rcnn.data.errors import DataError
from rcnn.data.find_layout import find_layout
from rcnn.data.layouts import AutoSource, CSVSource, LabelmeSource, YOLOSource
from rcnn.data.table import CSVDataset
from rcnn.data.yolo import YOLODataset

pytestmark = pytest.mark.filterwarnings("ignore::rcnn.data.DataWarning")

BOXES = [[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 100.0, 80.0]]


def picture(file: Path, width: int = 100, height: int = 80, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (4, 4, 3), generator=generator, dtype=torch.uint8).numpy()
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST).save(file)


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


# --- YOLO -------------------------------------------------------------------------------------

YOLO_LINES = "1 0.2 0.5 0.2 0.5\n0 0.5 0.5 1 1\n"


def yolo(root: Path, yaml: str, images: str = "images/train", labels: str = "labels/train") -> Path:
    picture(root / images / "a.png")
    picture(root / images / "empty.png", seed=1)
    write(root / labels / "a.txt", YOLO_LINES)
    write(root / "data.yaml", yaml)
    return root


@pytest.mark.parametrize(
    ("yaml", "images", "labels"),
    [
        ("train: images/train\nnames: [cup, cell]", "images/train", "labels/train"),
        ("path: .\ntrain: images/train\nnames: {0: cup, 1: cell}", "images/train", "labels/train"),
        # Roboflow names a folder above the file, in which it is not.
        ("train: ../train/images\nnames: ['cup', 'cell']\nnc: 2", "train/images", "train/labels"),
        ("train: [images/train]\nnames: [cup, cell]", "images/train", "labels/train"),
        ("names: [cup, cell]", "train", "train"),
        ("path: /elsewhere/data\ntrain: images/train\nnames: [cup, cell]", "images/train",
         "labels/train"),
    ],
)  # fmt: skip
def test_a_yolo_folder_is_read_whatever_its_file_calls_the_split(
    tmp_path: Path, yaml: str, images: str, labels: str
) -> None:
    dataset = YOLODataset(yolo(tmp_path, yaml, images, labels))
    assert dataset.class_names == ("cup", "cell")
    assert [Path(image_id).name for image_id in dataset.image_ids] == ["a.png", "empty.png"]
    found = dataset.ground_truth(0)
    torch.testing.assert_close(found.boxes, torch.tensor(BOXES))
    assert found.labels.tolist() == [2, 1]
    assert len(dataset.ground_truth(1)) == 0


def test_outlines_become_boxes_and_the_score_of_a_prediction_is_not_read(tmp_path: Path) -> None:
    yolo(tmp_path, "names: [cup, cell]\ntrain: images/train")
    lines = "0 0.1 0.25 0.3 0.25 0.2 0.75\n1 0.5 0.5 1 1 0.9\n\n"
    write(tmp_path / "labels/train/a.txt", lines)
    found = YOLODataset(tmp_path).ground_truth(0)
    torch.testing.assert_close(found.boxes, torch.tensor([[10.0, 20, 30, 60], [0.0, 0, 100, 80]]))


def test_a_list_of_pictures_keeps_its_order(tmp_path: Path) -> None:
    yolo(tmp_path, "names: [cup, cell]\ntrain: train.txt")
    write(tmp_path / "train.txt", "./images/train/empty.png\nimages\\train\\a.png\n")
    dataset = YOLODataset(tmp_path)
    assert [Path(image_id).name for image_id in dataset.image_ids] == ["empty.png", "a.png"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("7 0.5 0.5 1 1", "unknown class"),
        ("cup 0.5 0.5 1 1", "could not convert"),
        ("0 0.5 0.5 1", "unreadable coordinate"),
        ("0 50 40 20 20", "in pixels"),
        ("0 nan 0.5 1 1", "finite"),
    ],
)
def test_a_line_that_means_nothing_is_an_error_with_its_number(
    tmp_path: Path, line: str, reason: str
) -> None:
    yolo(tmp_path, "names: [cup, cell]\ntrain: images/train")
    write(tmp_path / "labels/train/a.txt", f"0 0.5 0.5 1 1\n{line}\n")
    with pytest.raises(DataError, match=reason) as caught:
        YOLODataset(tmp_path)
    assert "a.txt" in str(caught.value)
    skipped = YOLODataset(tmp_path, on_error="skip")
    kept = len(skipped) == 2
    assert kept == (reason == "unknown class")
    if kept:
        assert skipped.ground_truth(0).crowd.tolist() == [False, True]


def test_a_picture_on_its_side_has_boxes_as_viewers_show_it(tmp_path: Path) -> None:
    yolo(tmp_path, "names: [cup, cell]\ntrain: images/train")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 80)).save(tmp_path / "images/train/a.png", exif=exif)
    dataset = YOLODataset(tmp_path)
    assert dataset.sizes[0].tolist() == [100, 80]
    assert dataset[0].image.shape == (3, 100, 80)
    torch.testing.assert_close(dataset.ground_truth(0).boxes[0], torch.tensor([8.0, 25, 24, 75]))


def test_classes_without_names_are_called_by_their_numbers(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    write(tmp_path / "a.txt", YOLO_LINES)
    dataset = YOLODataset(tmp_path, "all")
    assert dataset.class_names == ("0", "1")
    assert "classes without names" in {kind for kind, _ in dataset.problems.kinds}


def test_pictures_without_any_labels_are_an_error_not_background(tmp_path: Path) -> None:
    yolo(tmp_path, "names: [cup, cell]\ntrain: images/train", labels="elsewhere")
    with pytest.raises(DataError, match=r"labels/train/a\.txt"):
        YOLODataset(tmp_path)


# --- tables -----------------------------------------------------------------------------------

TABLES = {
    "tensorflow": "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    "a.png,100,80,cell,10,20,30,60\na.png,100,80,cup,0,0,100,80\nempty.png,100,80,,,,,\n",
    "retinanet": "a.png,10,20,30,60,cell\na.png,0,0,100,80,cup\nempty.png,,,,,\n",
    "semicolons": "Image;Label;X;Y;Width;Height\n"
    "a.png;cell;10;20;20;40\na.png;cup;0;0;100;80\nempty.png;;;;;\n",
    "kaggle": 'image_id,width,height,bbox,label\na,100,80,"[10, 20, 20, 40]",cell\n'
    'a,100,80,"[0.0, 0.0, 100.0, 80.0]",cup\nempty,100,80,,\n',
    "open images": "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n"
    "a,cell,0.1,0.3,0.25,0.75,0\na,cup,0,1,0,1,0\nempty,,,,,,\n",
    "tabulators": "path\tx1\ty1\tx2\ty2\tclass_name\nx/a.png\t10\t20\t30\t60\tcell\n"
    "x/a.png\t0\t0\t100\t80\tcup\nx/empty.png\t\t\t\t\t\n",
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_is_read_whatever_its_columns_are(tmp_path: Path, kind: str) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "empty.png")
    dataset = CSVDataset(write(tmp_path / "boxes.csv", TABLES[kind]))
    assert dataset.class_names == ("cell", "cup")
    assert len(dataset) == 2
    found = dataset.ground_truth(0)
    torch.testing.assert_close(found.boxes, torch.tensor(BOXES))
    assert found.labels.tolist() == [1, 2]
    assert len(dataset.ground_truth(1)) == 0


def test_a_table_without_classes_has_one(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    table = write(tmp_path / "t.csv", 'image_id,width,height,bbox\na,100,80,"[1, 2, 3, 4]"\n')
    assert CSVDataset(table).class_names == ("object",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("filename,class\na.png,cell\n", "missing column"),
        ("a.png,1,2,3\n", "missing column"),
        ("filename,class,xmin,ymin,xmax,ymax\na.png,cell,10,x,30,60\n", "could not convert"),
        ("filename,class,xmin,ymin,xmax,ymax\na.png,cell,10,20\n", "KeyError"),
        ("filename,class,xmin,ymin,xmax,ymax\nb.png,cell,10,20,30,40\n", "missing image"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path: Path, text: str, reason: str) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=reason) as caught:
        CSVDataset(write(tmp_path / "boxes.csv", text))
    assert "boxes.csv" in str(caught.value)


# --- Labelme ----------------------------------------------------------------------------------


def labelme(file: Path, **changes: object) -> None:
    picture(file.with_suffix(".png"), seed=len(file.name))
    shapes = [
        {"label": "cell", "points": [[10, 20], [30, 60]], "shape_type": "rectangle"},
        {"label": "cup", "points": [[0, 0], [100, 0], [100, 80], [0, 80]]},
        {"label": "ball", "points": [[50, 40], [53, 44]], "shape_type": "circle"},
        {"label": "cell", "points": [[1, 1]], "shape_type": "point"},
    ]
    content = {"imagePath": f"..\\{file.stem}.png", "imageHeight": 80, "imageWidth": 100}
    write(file, json.dumps({**content, "shapes": shapes, **changes}))


def test_shapes_of_labelme_become_boxes(tmp_path: Path) -> None:
    labelme(tmp_path / "a.json")
    source = LabelmeSource(tmp_path, val=None, test=None)
    dataset = source.dataset("train")
    assert dataset.class_names == ("ball", "cell", "cup")
    found = dataset.ground_truth(0)
    torch.testing.assert_close(found.boxes, torch.tensor([*BOXES, [45.0, 35, 55, 45]]))
    assert found.labels.tolist() == [2, 3, 1]
    assert dataset.problems.counts == {"shape without area": 1}


# --- found out ---------------------------------------------------------------------------------


def coco_file(file: Path, *names: str) -> None:
    images = [
        {"id": n, "file_name": name, "height": 80, "width": 100} for n, name in enumerate(names)
    ]
    boxes = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [10, 20, 20, 40], "area": 800}
        for n in range(len(names))
    ]
    categories = [{"id": 1, "name": "cell"}]
    write(file, json.dumps({"images": images, "annotations": boxes, "categories": categories}))


def roboflow_coco(root: Path) -> None:
    for seed, split in enumerate(("train", "valid", "test")):
        picture(root / split / "a.png", seed=seed)
        coco_file(root / split / "_annotations.coco.json", "a.png")


def plain_coco(root: Path) -> None:
    for seed, split in enumerate(("train2017", "val2017")):
        picture(root / split / f"{split}.png", seed=seed)
        coco_file(root / "annotations" / f"instances_{split}.json", f"{split}.png")


def one_coco(root: Path) -> None:
    names = [f"{number}.png" for number in range(10)]
    for seed, name in enumerate(names):
        picture(root / "images" / name, seed=seed)
    coco_file(root / "result.json", *names)


def voc_folder(root: Path) -> None:
    for number in range(10):
        picture(root / f"{number}.png", seed=number)
        box = "<xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>60</ymax>"
        item = f"<object><name>cell</name><bndbox>{box}</bndbox></object>"
        write(root / f"{number}.xml", f"<annotation>{item}</annotation>")


def voc_with_lists(root: Path) -> None:
    voc_folder(root / "all")
    for split, ids in {"train": range(6), "val": (6, 7), "test": (8, 9)}.items():
        write(root / f"ImageSets/Main/{split}.txt", "".join(f"{number}\n" for number in ids))


def yolo_with_splits(root: Path) -> None:
    for seed, split in enumerate(("train", "val")):
        picture(root / "images" / split / "a.png", seed=seed)
        write(root / "labels" / split / "a.txt", "0 0.2 0.5 0.2 0.5\n")
    write(root / "data.yaml", "train: images/train\nval: images/val\nnames: [cell]\n")


def csv_tables(root: Path) -> None:
    for seed, split in enumerate(("train", "test")):
        names = [f"{split}{n}.png" for n in range(8)]
        for n, name in enumerate(names):
            picture(root / "pictures" / name, seed=100 * seed + n)
        rows = "".join(f"{name},10,20,30,60,cell\n" for name in names)
        write(root / f"{split}_labels.csv", f"filename,xmin,ymin,xmax,ymax,class\n{rows}")


def labelme_folder(root: Path) -> None:
    for number in range(10):
        labelme(root / f"{number}.json")
        picture(root / f"{number}.png", seed=number)


def cvat_yolo(root: Path) -> None:
    for number in range(10):
        picture(root / f"obj_train_data/{number}.png", seed=number)
        write(root / f"obj_train_data/{number}.txt", "0 0.2 0.5 0.2 0.5\n")
    write(root / "obj.names", "cell\n")
    write(root / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\n")
    lines = "".join(f"data/obj_train_data/{number}.png\n" for number in range(10))
    write(root / "train.txt", lines)


def roboflow_tables(root: Path) -> None:
    for seed, split in enumerate(("train", "valid")):
        picture(root / split / f"{split}.jpg", seed=seed)
        write(root / split / "_annotations.csv", f"{split}.jpg,10,20,30,60,cell\n")
        write(root / split / "_classes.csv", "cell,0\n")


def coco_with_captions_and_keypoints(root: Path) -> None:
    plain_coco(root)
    content = (root / "annotations/instances_train2017.json").read_text()
    write(root / "annotations/person_keypoints_train2017.json", content)
    write(root / "annotations/captions_train2017.json", content.replace("bbox", "caption"))


def label_studio_coco(root: Path) -> None:
    names = [f"{number}.png" for number in range(10)]
    for seed, name in enumerate(names):
        picture(root / "images" / name, seed=seed)
    coco_file(root / "result.json", *(f"images\\{name}" for name in names))


def kaggle_voc(root: Path) -> None:
    voc_folder(root / "archive (1)" / "annotations")
    (root / "archive (1)" / "images").mkdir()
    for file in (root / "archive (1)" / "annotations").glob("*.png"):
        file.rename(root / "archive (1)" / "images" / file.name)


@pytest.mark.parametrize(
    ("make", "layout", "lengths"),
    [
        (roboflow_coco, "coco", [1, 1, 1]),
        (plain_coco, "coco", [1, 1, 1]),
        (one_coco, "coco", [6, 2, 2]),
        (voc_folder, "voc", [6, 2, 2]),
        (voc_with_lists, "voc", [6, 2, 2]),
        (yolo_with_splits, "yolo", [1, 1, 1]),
        (csv_tables, "csv", [6, 2, 8]),
        (labelme_folder, "labelme", [6, 2, 2]),
        (cvat_yolo, "yolo", [6, 2, 2]),
        (roboflow_tables, "csv", [1, 1, 1]),
        (coco_with_captions_and_keypoints, "coco", [1, 1, 1]),
        (label_studio_coco, "coco", [6, 2, 2]),
        (kaggle_voc, "voc", [6, 2, 2]),
    ],
)
def test_the_layout_of_a_folder_is_found_out(
    tmp_path: Path, make: Callable[[Path], None], layout: str, lengths: list[int]
) -> None:
    make(tmp_path)
    source = AutoSource(tmp_path, val=0.2, test=0.2)
    assert source.layout.name == layout
    datasets = [source.dataset(split) for split in ("train", "val", "test")]
    assert [len(dataset) for dataset in datasets] == lengths
    name = "ball" if layout == "labelme" else "cell"
    assert all(dataset.class_names[0] == name for dataset in datasets)
    found = datasets[0].ground_truth(0).boxes[0]
    torch.testing.assert_close(found, torch.tensor([10.0, 20, 30, 60]))
    assert f"data={layout}" in str(source.layout)


def test_two_layouts_in_a_folder_are_named_with_the_words_for_each(tmp_path: Path) -> None:
    voc_folder(tmp_path / "xml")
    one_coco(tmp_path)
    with pytest.raises(DataError, match="2 layouts") as caught:
        find_layout(tmp_path)
    assert "data=coco data.train=result.json" in str(caught.value)
    assert "data=voc" in str(caught.value)
    assert str(tmp_path.absolute()) in str(caught.value)


def test_a_folder_without_a_data_set_says_what_was_looked_for(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path / "pictures", tmp_path / "file"):
        if folder.name != "none":
            picture(folder / "a.png")
            write(folder / ".DS_Store", "")
        with pytest.raises(DataError) as caught:
            AutoSource(folder).dataset("train")
        assert str(folder.absolute()) in str(caught.value)
    assert "1 .png" in str(caught.value)


def test_chosen_classes_are_kept_in_their_order_in_every_layout(tmp_path: Path) -> None:
    yolo(tmp_path, "names: [cup, cell]\ntrain: images/train")
    source = YOLOSource(tmp_path, val=None, test=None, class_names=["cell"])
    dataset = source.dataset("train")
    assert dataset.class_names == ("cell",)
    assert dataset.ground_truth(0).labels.tolist() == [1]


def test_random_splits_are_known_by_their_image_ids(tmp_path: Path) -> None:
    csv_tables(tmp_path)
    source = CSVSource(tmp_path, "pictures", "train_labels.csv", val=0.25, test="test_labels.csv")
    found = source.random_splits
    assert sorted(found["train"] + found["val"]) == [f"train{n}.png" for n in range(8)]
    assert source.dataset("val").image_ids == found["val"]
    assert YOLOSource(tmp_path).random_splits == {}
