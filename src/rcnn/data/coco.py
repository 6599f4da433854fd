"""Data sets in the JSON format of COCO."""

from __future__ import annotations

from pathlib import Path

from rcnn.data.checking import checked_size
from rcnn.data.coco_file import (
    COCOFile,
    COCOImage,
    Entry,
    read_area,
    read_corners,
    read_flag,
    show_box,
)
from rcnn.data.dataset import IndexedDataset
from rcnn.data.errors import DataError, OnError, Problems
from rcnn.data.index_builder import IndexBuilder


class COCODataset(IndexedDataset):
    """The images of one COCO annotation file, those without objects among them.

    The classes are the file's categories in the order of their ids. ``iscrowd`` marks crowds;
    ``ignore``, which files made from VOC have, marks difficult objects.

    Args:
        annotations: the JSON file.
        images: the folder that its file names start from.
        on_error: what to do about a bad image or object: ``raise`` a :class:`DataError`, or
            ``skip`` it and say so in one :class:`DataWarning`. COCO's own train2017 has boxes
            without area, so it needs ``skip``.

    Attributes:
        category_ids: the COCO category of each of the labels 1..K.

    Raises:
        DataError: for a file that is no COCO JSON or lists no image; for bad images and objects,
            if ``on_error`` is ``raise``.
    """

    def __init__(
        self, annotations: Path | str, images: Path | str, on_error: OnError = "raise"
    ) -> None:
        problems = Problems(on_error)
        file = COCOFile.read(Path(annotations))
        reader = _Reader(file, Path(images), problems)
        for number, entry in enumerate(file.images, start=1):
            try:
                reader.read_image(entry, number)
            except DataError as error:
                problems.add(error)
        for number, entry in enumerate(file.annotations, start=1):
            try:
                reader.read_object(entry, number)
            except DataError as error:
                problems.add(error)
        self.category_ids = file.category_ids
        super().__init__(
            class_names=file.class_names,
            index=reader.builder.build(),
            image_folder=Path(images),
            problems=problems,
            where=str(file.path),
        )


class _Reader:
    """Brings the entries of a file into an :class:`IndexBuilder`, one by one."""

    def __init__(self, file: COCOFile, folder: Path, problems: Problems) -> None:
        self.builder = IndexBuilder(file.class_names, problems, noun="annotation", show=show_box)
        self._path = file.path
        self._annotation = f"{file.path}, annotation"  # a path takes longer to write than to read
        self._folder = folder
        self._labels = {category: k for k, category in enumerate(file.category_ids, start=1)}
        self._images: dict[int | str, int | None] = {}  # None: the image was left out

    def read_image(self, entry: Entry, number: int) -> None:
        """Take in an entry of ``images``.

        Raises:
            DataError: for a fault of the image.
        """
        where = f"{self._path}, image number {number}"
        image_id = entry.get("id")
        if isinstance(image_id, int | str):
            if image_id in self._images:
                raise DataError.about(
                    "image listed twice",
                    where=where,
                    found=f"an earlier image has the id {image_id} as well",
                    allowed="Every image needs an id of its own",
                )
            self._images[image_id] = None
        image = COCOImage.read(entry, where)
        where = f"{self._path}, image {image.image_id} ({image.file_name})"
        size = checked_size(self._folder / image.file_name, image.size, where)
        self._images[image.image_id] = self.builder.add_image(
            str(image.image_id), image.file_name, size, where
        )

    def read_object(self, entry: Entry, number: int) -> None:
        """Take in an entry of ``annotations``, unless its image was left out.

        Raises:
            DataError: for a fault of the entry that can be seen without its image.
        """
        annotation_id = entry.get("id", number)
        where = f"{self._annotation} {annotation_id}"
        image_id, category = entry.get("image_id"), entry.get("category_id")
        if not isinstance(image_id, int | str) or image_id not in self._images:
            raise DataError.about(
                "unknown image",
                where=where,
                found=f"{image_id=}",
                allowed="It has to be the id of one of the images in the same file",
            )
        image = self._images[image_id]
        if image is None:
            return
        if not isinstance(category, int) or category not in self._labels:
            raise DataError.about(
                "unknown class",
                where=where,
                found=f"category_id={category!r}",
                allowed="It has to be the id of one of the categories in the same file",
            )
        self.builder.add_object(
            image,
            annotation_id if isinstance(annotation_id, int) else number,
            read_corners(entry, where),
            self._labels[category],
            difficult=read_flag(entry, "ignore", where),
            crowd=read_flag(entry, "iscrowd", where),
            area=read_area(entry, where),
        )
