"""The PASCAL VOC challenges by name."""

from __future__ import annotations

from pathlib import Path

from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError, OnError
from rcnn.data.joined import JoinedDataset
from rcnn.data.voc import VOCDataset
from rcnn.settings import nearest

PASCAL_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
YEARS = {"VOC2007": ("2007",), "VOC2012": ("2012",), "VOC0712": ("2007", "2012")}


def pascal_voc(
    name: str,
    root: Path | str,
    split: str = "trainval",
    download: bool = False,
    on_error: OnError = "raise",
) -> DetectionDataset:
    """Open a PASCAL VOC challenge, as torchvision unpacks it (``root/VOCdevkit/VOC2007``).

    Args:
        name: ``VOC2007``, ``VOC2012``, or ``VOC0712`` for the two together. Only 2007 has a public
            test set, so the test set of ``VOC0712`` is that of 2007, as everybody reports it. Its
            image ids carry the year (``VOC2007/000005``).
        root: the folder that holds or will hold ``VOCdevkit``.
        split: ``train``, ``val``, ``trainval`` or ``test``.
        download: fetch what is missing (0.9 GB for 2007, 2 GB for 2012).
        on_error: see :class:`VOCDataset`.

    Raises:
        DataError: for an unknown name, a challenge that is not there, and as :class:`VOCDataset`.
    """
    if name not in YEARS:
        raise DataError(
            f"There is no challenge {name!r}{nearest(name, YEARS)} Known are {', '.join(YEARS)}.",
            "unknown data set",
        )
    if name == "VOC2012" and split == "test":
        raise DataError(
            "The annotations of the VOC2012 test set are not public; use split 'val', or the test "
            "set of VOC2007.",
            "unknown split",
        )
    years = YEARS[name][:1] if split == "test" else YEARS[name]
    parts = {f"VOC{year}": _open(year, Path(root), split, download, on_error) for year in years}
    return JoinedDataset(parts) if name == "VOC0712" else parts[name]


def _open(year: str, root: Path, split: str, download: bool, on_error: OnError) -> VOCDataset:
    folder = root / "VOCdevkit" / f"VOC{year}"
    if download and not (folder / "ImageSets" / "Main" / f"{split}.txt").is_file():
        from torchvision.datasets import VOCDetection  # slow to import and seldom needed

        VOCDetection(str(root), year=year, image_set=split, download=True)
    if not folder.is_dir():
        raise DataError(
            f"VOC{year} is not at {folder}. Unpack it there, or set data.download=true.",
            "wrong layout",
        )
    return VOCDataset(folder, split, PASCAL_CLASSES, on_error)
