"""Data sets in the layout of PASCAL VOC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rcnn.data.checking import checked_size
from rcnn.data.dataset import IndexedDataset
from rcnn.data.errors import DataError, OnError, Problems
from rcnn.data.index_builder import IndexBuilder
from rcnn.data.voc_annotation import (
    TO_CONTINUOUS,
    VOCObject,
    annotated_size,
    parse,
    read_objects,
    show_corners,
)
from rcnn.data.voc_folder import VOCFolder
from rcnn.settings import nearest


class VOCDataset(IndexedDataset):
    """The images of one split of a folder in VOC layout.

    Args:
        root: holds ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``.
        split: a file in ``ImageSets/Main``; ``all`` takes every annotation.
        class_names: of the labels 1..K. Without it ``classes.txt`` in ``root`` decides, one name
            a line; without that file, the sorted names over all annotations of the folder,
            whatever the split.
        on_error: what to do about a bad image or object: ``raise`` a :class:`DataError`, or
            ``skip`` it and say so in one :class:`DataWarning`.

    Raises:
        DataError: for a wrong layout, an unknown or empty split; for bad images and objects, if
            ``on_error`` is ``raise``.
    """

    def __init__(
        self,
        root: Path | str,
        split: str = "trainval",
        class_names: Sequence[str] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        problems = Problems(on_error)
        folder = VOCFolder(root)
        ids = folder.ids(split)
        names = tuple(class_names or folder.listed_class_names() or folder.found_class_names())
        reader = _Reader(folder, names, problems)
        for image_id in ids:
            try:
                reader.read(image_id)
            except DataError as error:
                problems.add(error)
        super().__init__(
            class_names=names,
            index=reader.builder.build(),
            image_folder=folder.image_folder,
            problems=problems,
            where=f"{folder.root}, split {split!r}",
        )


class _Reader:
    """Brings the images of a folder into an :class:`IndexBuilder`, one by one."""

    def __init__(self, folder: VOCFolder, class_names: tuple[str, ...], problems: Problems) -> None:
        self.builder = IndexBuilder(
            class_names, problems, noun="object", show=show_corners, shift=TO_CONTINUOUS
        )
        self._folder = folder
        self._files = folder.image_files()
        self._labels = {name: label for label, name in enumerate(class_names, start=1)}
        self._problems = problems

    def read(self, image_id: str) -> None:
        """Take in one image with its objects.

        Raises:
            DataError: for a fault of the image as a whole.
        """
        source = self._folder.annotation_file(image_id)
        root = parse(source)
        file = self._files.get(image_id, f"{image_id}.jpg")
        size = checked_size(
            self._folder.image_folder / file, annotated_size(root, source), str(source)
        )
        image = self.builder.add_image(image_id, file, size, str(source))
        for item in read_objects(root, source, self._problems):
            label = self._labels.get(item.name)
            if label is None:
                self._problems.add(self._unknown_class(item, source))
                continue
            self.builder.add_object(
                image, item.number, item.corners, label, difficult=item.difficult
            )

    def _unknown_class(self, item: VOCObject, source: Path) -> DataError:
        return DataError.about(
            "unknown class",
            where=f"{source}, object {item.number}",
            found=f"{item.name!r}{nearest(item.name, self._labels)}",
            allowed=f"The classes are {', '.join(self._labels)}",
        )
