"""The picture files of a data set: found under the names of other systems, their sizes checked.

Sizes are (height, width).
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from rcnn.data.errors import DataError, Problems
from rcnn.data.images import MAX_PIXELS, read_header, read_image, wrong_size
from rcnn.data.reading import list_files, whole_numbers


class ImageFiles:
    """The picture files below a folder.

    Args:
        folder: folder that the names are relative to.
        problems: log of what was settled.
        max_pixels: height x width of the largest picture.
    """

    def __init__(self, folder: Path, problems: Problems, max_pixels: int = MAX_PIXELS) -> None:
        self.folder = folder
        self.max_pixels = max_pixels
        self._problems = problems

    def find(
        self, file: str, size: tuple[object, object], source: str
    ) -> tuple[str, tuple[int, int]]:
        """Return the name of a picture file that exists, and the size with which it is read.

        Args:
            file: name of the file, as written.
            size: its size as written; None for what is not.
            source: annotation file or entry, for messages.

        Raises:
            DataError: the file is missing, broken, too large or of another size.
        """
        try:
            annotated = whole_numbers(size)
        except (ValueError, TypeError, OverflowError):
            annotated = None
            self._problems.settle(
                "unusable image size",
                where=source,
                found=f"height={size[0]!r} width={size[1]!r}",
                made="the size of the picture file",
            )
        try:
            return file, checked_size(self.folder / file, annotated, source, self.max_pixels)
        except DataError as error:
            if error.reason != "missing image":
                raise
            name = self._other_name(file, source)
        self._problems.settle(
            "image file under another name", where=source, found=repr(file), made=name
        )
        return name, checked_size(self.folder / name, annotated, source, self.max_pixels)

    def _other_name(self, file: str, source: str) -> str:
        """Return the file that is meant by a name that does not exist.

        Raises:
            DataError: there is none, or several.
        """
        plain = file.replace("\\", "/")
        for name in (plain, unquote(file), unquote(plain)):
            if name != file and (self.folder / name).is_file():
                return name
        found = self._by_name[PurePosixPath(unquote(plain)).name.casefold()]
        if len(found) == 1:
            return found[0]
        several = f"; of this name are {', '.join(found[:3])}" if found else ""
        raise DataError.about(
            "missing image",
            where=source,
            found=f"{(self.folder / file).absolute()} does not exist{several}",
            allowed="An image has to lie in the folder of the images, under its name",
        )

    @cached_property
    def _by_name(self) -> defaultdict[str, list[str]]:
        files: defaultdict[str, list[str]] = defaultdict(list)
        for file in list_files(self.folder):
            files[PurePosixPath(file).name.casefold()].append(file)
        return files


def checked_size(
    file: Path, annotated: tuple[int, int] | None, where: str, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """Return the (height, width) with which an image file is read, after a check of its two ends.

    A picture of which no size is written counts as viewers show it, turned as EXIF says.
    A JPEG or PNG without its end marker is decoded, to know a cut-off file from one with
    something harmless behind its end.

    Args:
        file: the image.
        annotated: size that its annotation states, if it states one.
        where: annotation, for the message.
        max_pixels: limit of height x width.

    Raises:
        DataError: if the file is missing, broken, cut off, or not of the annotated size.
    """
    header = read_header(file, max_pixels)
    if not header.has_end:
        read_image(file, max_pixels=max_pixels)
    if annotated is None:  # the boxes were drawn on the picture as it is shown
        return header.turned_size
    if annotated not in (header.size, header.turned_size):
        raise wrong_size(f"{where}, {file}", annotated, (header.size, header.turned_size))
    return annotated
