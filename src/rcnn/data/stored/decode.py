"""Decoding the images that proposals are made of."""

from __future__ import annotations

import warnings

from rcnn.data.dataset import DetectionDataset, Sample
from rcnn.data.errors import DataError, DataWarning


def decode(dataset: DetectionDataset, index: int) -> Sample | DataError:
    """Return a sample, or the fault of its file.

    It is returned because an exception that leaves a worker arrives as the text of its traceback.
    """
    try:
        return dataset[index]
    except DataError as error:
        return error


def leave_out(error: DataError, dataset: DetectionDataset) -> None:
    """Warn that an image gets no proposals; training puts another one in its place.

    Raises:
        DataError: the same, if the data set's ``on_error`` is ``raise``.
    """
    if dataset.problems.on_error == "raise":
        raise error
    warnings.warn(f"{error} It gets no proposals.", DataWarning, stacklevel=3)
