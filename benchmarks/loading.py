"""Loading of minibatches by workers, decoding of pictures, and opening of a large COCO file.

The pictures are those of a folder in VOC layout, or 200 drawn ones of 640 x 480 pixels. Each loader
runs an epoch before it is timed, after which its workers exist. "processor ms" of an image, in the
training process and in the workers, depend less than images a second on other programs. Decoders
read the same pictures in turn, on one thread, with and without the resizing that follows. The last
row opens, in a process of its own, annotations of as many images and objects as COCO's train2017;
all of its images are one file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import pickle
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image, read_file

from benchmarks.machine import in_a_process, reset_peak, resident
from benchmarks.pair import Row
from rcnn.data import COCODataset, ShapesDataset, VOCSource
from rcnn.data.images import read_image
from rcnn.model.transform import ImageSettings
from rcnn.ops.images import resize, resized_size
from rcnn.training import DetectionDataModule, LoaderSettings

HEIGHT, WIDTH = 480, 640
OUTLINE = ", ".join(["217.25, 240.54"] * 24)
"""As many coordinates as COCO has for an object."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this part."""
    parser.add_argument(
        "--root", type=Path, help="a folder in VOC layout (default: drawn pictures)"
    )
    parser.add_argument("--pictures", type=int, default=200, help="to draw (%(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--epochs", type=int, default=3, help="that are timed (%(default)s)")
    parser.add_argument("--coco-images", type=int, default=120_000, help="0: leave this row out")
    parser.add_argument("--coco-objects", type=int, default=860_000)


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Return a row for each number of workers and each decoder, and one for COCO."""
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.root or draw(Path(scratch, "voc"), arguments.pictures)
        rows = [time_loader(root, workers, arguments.epochs) for workers in arguments.workers]
        rows += time_decoders(sorted((root / "JPEGImages").glob("*.jpg")), arguments.epochs)
        if arguments.coco_images:
            file = write_coco(Path(scratch), arguments.coco_images, arguments.coco_objects)
            rows.append(in_a_process(time_opening, file))
    return rows


def time_loader(root: Path, workers: int, epochs: int) -> Row:
    """Time some epochs of one loader."""
    torch.manual_seed(0)
    source = VOCSource(root, train="all", val=None, on_error="skip")
    data = DetectionDataModule(source, LoaderSettings(workers=workers), images=ImageSettings())
    with warnings.catch_warnings(action="ignore"):  # of torch: more workers than processors
        loader = data.train_dataloader()
        count = epochs * sum(map(len, loader))
    pids = [child.pid for child in multiprocessing.active_children() if child.pid]
    theirs, own, start = _processor_seconds(pids), time.process_time(), time.perf_counter()
    for _ in range(epochs):
        for _ in loader:
            pass
    wall, own = time.perf_counter() - start, time.process_time() - own
    theirs = _processor_seconds(pids) - theirs
    return {
        "what": "loading",
        "workers": workers,
        "images/s": count / wall,
        "training processor ms/image": 1000 * own / count,
        "workers processor ms/image": 1000 * theirs / count,
    }


def time_decoders(files: list[Path], epochs: int) -> list[Row]:
    """Time our reading of pictures, Pillow's decoding, which it contains, and torchvision's."""
    decoders: dict[str, Callable[[Path], object]] = {
        "rcnn": read_image,
        "Pillow, decoding alone": _decode,
        "torchvision": decode_by_torchvision,
        "rcnn, resized": lambda file: _resize(read_image(file)),
        "torchvision, resized": lambda file: _resize(decode_by_torchvision(file)),
    }
    times: dict[str, list[float]] = {name: [] for name in decoders}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    with warnings.catch_warnings(action="ignore"):  # of torchvision: its decoders are deprecated
        for file in files * epochs:
            for name, decode in decoders.items():
                start = time.perf_counter()
                decode(file)
                times[name].append(1000 * (time.perf_counter() - start))
    torch.set_num_threads(threads)
    return [
        {"what": "decoding", "by": name, "ms/image": statistics.median(values)}
        for name, values in times.items()
    ]


def time_opening(annotations: Path) -> Row:
    """Return time and memory that opening a COCO file takes, beside the process itself."""
    before, own, start = reset_peak(), time.process_time(), time.perf_counter()
    dataset = COCODataset(annotations, annotations.parent)
    wall, own = time.perf_counter() - start, time.process_time() - own
    peak = resident("peak") - before
    return {
        "what": f"opening {len(dataset)} images, {len(dataset.index.boxes)} objects",
        "file MB": annotations.stat().st_size / 1e6,
        "seconds": wall,
        "processor s": own,
        "peak MB": peak / 1e6,
        "index MB": len(pickle.dumps(dataset.index)) / 1e6,
    }


def draw(root: Path, count: int) -> Path:
    """Write a folder in VOC layout with synthetic pictures of one object each, and return it."""
    for folder in ("Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    shapes = ShapesDataset(min(count, 20), size=WIDTH)
    for number in range(count):
        picture = shapes[number % len(shapes)].image[:, :HEIGHT].permute(1, 2, 0).numpy()
        # Shifted, so that no two files are equal.
        image = Image.fromarray(np.roll(picture, number, axis=1))
        image.save(root / "JPEGImages" / f"{number}.jpg", quality=90)
        (root / "Annotations" / f"{number}.xml").write_text(
            "<annotation><object><name>thing</name><bndbox><xmin>9</xmin><ymin>9</ymin>"
            "<xmax>99</xmax><ymax>99</ymax></bndbox></object></annotation>"
        )
    return root


def write_coco(folder: Path, images: int, objects: int) -> Path:
    """Write a COCO file with outlines and the one picture of all its images; return the file."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "one.jpg")
    random = np.random.default_rng(0)
    of_image, labels = random.integers(images, size=objects), random.integers(1, 81, objects)
    boxes = random.uniform(5, 200, (objects, 4)).round(2).tolist()
    file = folder / "instances.json"
    with file.open("w") as stream:  # in parts: the whole text takes half a gigabyte
        stream.write('{"images": [')
        stream.writelines(
            f'{", " if k else ""}{{"license": 3, "file_name": "one.jpg", "height": {HEIGHT}, '
            f'"width": {WIDTH}, "date_captured": "2013-11-14 11:18:45", "id": {k}}}'
            for k in range(images)
        )
        stream.write('], "annotations": [')
        stream.writelines(
            f'{", " if k else ""}{{"segmentation": [[{OUTLINE}]], "area": {box[2] * box[3]}, '
            f'"iscrowd": 0, "image_id": {image}, "bbox": {box}, "category_id": {label}, "id": {k}}}'
            for k, (image, box, label) in enumerate(zip(of_image, boxes, labels, strict=True))
        )
        stream.write('], "categories": [')
        stream.write(", ".join(f'{{"id": {k}, "name": "class {k}"}}' for k in range(1, 81)))
        stream.write("]}")
    return file


def decode_by_torchvision(file: Path) -> Tensor:
    """Read a picture by torchvision."""
    pixels: Tensor = decode_image(read_file(str(file)), ImageReadMode.RGB)
    return pixels


def _decode(file: Path) -> None:
    with Image.open(file) as image:
        image.load()


def _resize(image: Tensor) -> Tensor:
    settings = ImageSettings()
    height, width = image.shape[-2:]
    return resize(image, resized_size((height, width), settings.shorter_side, settings.longer_side))


def _processor_seconds(pids: list[int]) -> float:
    """Return the processor time of other processes, which only Linux reports."""
    total = 0.0
    for stat in (Path(f"/proc/{pid}/stat") for pid in pids):
        if stat.is_file():
            user, system = stat.read_text().rsplit(")", 1)[1].split()[11:13]
            total += (int(user) + int(system)) / 100
    return total
