"""Bringing a data set and its stored proposals together."""

from __future__ import annotations

from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError
from rcnn.data.stored.digest import digest
from rcnn.data.stored.matching import id_differences, require_same, some
from rcnn.data.stored.proposed import ProposedDataset
from rcnn.data.stored.store import StoredProposals
from rcnn.settings import require


def attach(
    dataset: DetectionDataset, stored: StoredProposals, limit: int | None = 2000
) -> ProposedDataset:
    """Return the data set with samples that carry their proposals, best first.

    Everything is checked here, before the first step of a training: the file is read once.

    Args:
        dataset: the images.
        stored: proposals of exactly these images.
        limit: how many proposals of an image are used at most (Fast R-CNN, section 2: about
            2000); all, if None.

    Raises:
        SettingsError: if ``limit`` is not positive.
        DataError: if the proposals are of other images, sizes or classes, or one of them is
            unsound, see :meth:`StoredProposals.check`.
    """
    require(limit is None or limit > 0, "limit", limit, "a positive number of proposals, or null")
    where = f"{stored.path} ({stored.source})"
    if stored.class_names != dataset.class_names:
        raise DataError.about(
            "proposals of other classes",
            where=where,
            found=f"class names {', '.join(stored.class_names)}",
            allowed=f"The data set has {', '.join(dataset.class_names)}; give the data set that "
            "the proposals were made of, or make proposals of this one",
        )
    differences = id_differences(stored.image_ids, dataset.image_ids)
    require_same(where, differences or _size_differences(dataset, stored))
    if digest(dataset) != stored.digest:
        raise DataError.about(
            "wrong digest",
            where=where,
            found=stored.digest,
            allowed=f"Images, sizes and classes are those of the data set, whose digest is "
            f"{digest(dataset)}; whatever wrote the file has to use rcnn.data.stored.digest",
        )
    stored.check()
    return ProposedDataset(dataset, stored, limit)


def _size_differences(dataset: DetectionDataset, stored: StoredProposals) -> list[str]:
    """Say which images have other sizes; both have the same ids."""
    ids = list(dataset.image_ids)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    sizes = dataset.sizes[order]
    different = (sizes != stored.sizes).any(1).nonzero()[0].tolist()
    if not different:
        return []
    names = [
        f"{stored.image_ids[place]} ({_size(stored.sizes[place].tolist())} instead of "
        f"{_size(sizes[place].tolist())})"
        for place in different
    ]
    return [f"{len(names)} images had another size, height x width: {some(names)}"]


def _size(size: list[int]) -> str:
    return " x ".join(map(str, size))
