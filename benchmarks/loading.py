"""Making minibatches by workers, decoding, and opening a large COCO file.

The pictures are those of a folder in VOC layout, or 200 drawn photographs' worth of 640 x 480. Each
row has its loader run an epoch first, so that its workers are there. "processor ms"
are those of an image, in the training process and in its workers; on a machine that has other work
they say more than images a second. Decoders read the same pictures in turn, on one thread, with and
without the resizing that follows. The last row opens annotations of as many images and objects as
COCO's train2017 in a process of its own, whose images are all one file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import pickle
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image, read_file

from rcnn.data import COCODataset, ShapesDataset, VOCSource
from rcnn.data.images import read_image
from rcnn.model.transform import ImageSettings
from rcnn.ops.images import resize, resized_size
from rcnn.training import DetectionDataModule, LoaderSettings

Row = dict[str, str | int | float]
HEIGHT, WIDTH = 480, 640
OUTLINE = ", ".join(["217.25, 240.54"] * 24)  # as many numbers as COCO has for an object
SEED = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be chosen."""
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
        rows = [loading(root, workers, arguments.epochs) for workers in arguments.workers]
        rows += decoding(sorted((root / "JPEGImages").glob("*.jpg")), arguments.epochs)
        if arguments.coco_images:
            file = write_coco(Path(scratch), arguments.coco_images, arguments.coco_objects)
            # A process of its own: its peak is of nothing else.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                rows.append(pool.submit(opening, file).result())
    return rows


def loading(root: Path, workers: int, epochs: int) -> Row:
    """Time some epochs of one loader."""
    torch.manual_seed(SEED)
    data = DetectionDataModule(
        VOCSource(root, train="all", val=None, on_error="skip"),
        LoaderSettings(workers=workers),
        images=ImageSettings(),
    )
    with warnings.catch_warnings(action="ignore"):  # of torch: more workers than processors
        loader = data.train_dataloader()
        images = sum(map(len, loader))
    pids = [child.pid for child in multiprocessing.active_children() if child.pid]
    theirs, own, start = _seconds_of(pids), time.process_time(), time.perf_counter()
    for _ in range(epochs):
        for _ in loader:
            pass
    wall, own = time.perf_counter() - start, time.process_time() - own
    count = epochs * images
    return {
        "what": "loading",
        "workers": workers,
        "images/s": round(count / wall, 1),
        "training processor ms/image": round(1e3 * own / count, 2),
        "workers processor ms/image": round(1e3 * (_seconds_of(pids) - theirs) / count, 2),
    }


def decoding(files: list[Path], epochs: int) -> list[Row]:
    """Time our reading of pictures, the decoding alone that is in it, and torchvision's."""
    decoders: dict[str, Callable[[Path], object]] = {
        "rcnn": read_image,
        "Pillow, decoding alone": _decode,
        "torchvision": _decode_as_torchvision,
        "rcnn, resized": lambda file: _resized(read_image(file)),
        "torchvision, resized": lambda file: _resized(_decode_as_torchvision(file)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    with warnings.catch_warnings(action="ignore"):  # of torchvision: its decoders are deprecated
        for file in files * epochs:
            for name, decode in decoders.items():
                start = time.perf_counter()
                decode(file)
                seconds[name].append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return [
        {"what": "decoding", "by": name, "ms/image": round(1e3 * statistics.median(all_of_it), 2)}
        for name, all_of_it in seconds.items()
    ]


def opening(annotations: Path) -> Row:
    """Open a COCO file and say what it took."""
    before, own, start = _peak_mb(), time.process_time(), time.perf_counter()
    dataset = COCODataset(annotations, annotations.parent)
    wall, own = time.perf_counter() - start, time.process_time() - own
    return {
        "what": f"opening {len(dataset)} images, {len(dataset.index.boxes)} objects",
        "file MB": round(annotations.stat().st_size / 1e6),
        "seconds": round(wall, 1),
        "processor s": round(own, 1),
        "peak MB": round(_peak_mb()),
        "peak MB before": round(before),
        "index MB": round(len(pickle.dumps(dataset.index)) / 1e6, 1),
    }


def draw(root: Path, count: int) -> Path:
    """Write a folder in VOC layout with blotchy, noisy pictures, one object in each."""
    for folder in ("Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    shapes = ShapesDataset(min(count, 20), size=WIDTH)
    pictures = [
        shapes[place].image[:, :HEIGHT].permute(1, 2, 0).numpy() for place in range(len(shapes))
    ]
    for number in range(count):
        picture = np.roll(pictures[number % len(pictures)], number, axis=1)
        Image.fromarray(picture).save(root / "JPEGImages" / f"{number}.jpg", quality=90)
        (root / "Annotations" / f"{number}.xml").write_text(
            "<annotation><object><name>thing</name><bndbox><xmin>9</xmin><ymin>9</ymin>"
            "<xmax>99</xmax><ymax>99</ymax></bndbox></object></annotation>"
        )
    return root


def write_coco(folder: Path, images: int, objects: int) -> Path:
    """Write a COCO file with outlines; all its images are the same picture."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "one.jpg")
    random = np.random.default_rng(SEED)
    owners = random.integers(0, images, objects)
    classes = random.integers(1, 81, objects)
    boxes = random.uniform(5, 200, (objects, 4)).round(2).tolist()
    file = folder / "instances.json"
    with file.open("w") as stream:
        stream.write('{"images": [')
        stream.writelines(
            f'{", " if k else ""}{{"license": 3, "file_name": "one.jpg", "height": {HEIGHT}, '
            f'"width": {WIDTH}, "date_captured": "2013-11-14 11:18:45", "id": {k}}}'
            for k in range(images)
        )
        stream.write('], "annotations": [')
        stream.writelines(
            f'{", " if k else ""}{{"segmentation": [[{OUTLINE}]], "area": {box[2] * box[3]}, '
            f'"iscrowd": 0, "image_id": {owner}, "bbox": {box}, "category_id": {label}, "id": {k}}}'
            for k, (owner, box, label) in enumerate(zip(owners, boxes, classes, strict=True))
        )
        stream.write('], "categories": [')
        stream.write(", ".join(f'{{"id": {k}, "name": "class {k}"}}' for k in range(1, 81)))
        stream.write("]}")
    return file


def _decode(file: Path) -> None:
    with Image.open(file) as image:
        image.load()


def _decode_as_torchvision(file: Path) -> Tensor:
    pixels: Tensor = decode_image(read_file(str(file)), ImageReadMode.RGB)
    return pixels


def _resized(image: Tensor) -> Tensor:
    settings = ImageSettings()
    height, width = image.shape[-2:]
    return resize(image, resized_size((height, width), settings.shorter_side, settings.longer_side))


def _seconds_of(pids: list[int]) -> float:
    """Return the processor time of other processes, where the system tells it (Linux)."""
    total = 0.0
    for stat in (Path(f"/proc/{pid}/stat") for pid in pids):
        if stat.is_file():
            user, system = stat.read_text().rsplit(")", 1)[1].split()[11:13]
            total += (int(user) + int(system)) / 100
    return total


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.is_file():  # Linux counts the memory of the parent process in ru_maxrss
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
