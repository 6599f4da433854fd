"""Random splits of a data set that has only one: stratified by class, scenes kept together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import DataError
from rcnn.data.survey import similar_pairs, survey


def random_split(
    dataset: DetectionDataset, shares: Mapping[str, float], seed: int = 0
) -> dict[str, list[int]]:
    """Return the indices of the images of each split, the same for the same pictures and seed.

    Pictures that are nearly the same go into one split, because a test on what was learned by heart
    says nothing. Every class is spread over the splits as their shares say, the rarest first
    (Sechidis, Tsoumakas and Vlahavas 2011).

    Args:
        dataset: the images; each is decoded once.
        shares: share of the images in each split but ``train``, 0..1; ``train`` gets the rest.
        seed: seed of the order in which images are dealt out.

    Raises:
        DataError: there are fewer different images than splits.
        ValueError: the shares leave nothing to train on.
    """
    if not shares or min(shares.values()) < 0 or sum(shares.values()) >= 1:
        listed = ", ".join(f"{name}={share:g}" for name, share in shares.items())
        raise ValueError(
            f"The shares of the splits are {listed}: together they have to be below 1."
        )
    names = ["train", *shares]
    fractions = np.array([1 - sum(shares.values()), *shares.values()])
    groups = _scenes(dataset)
    if len(groups) < len(names):
        raise DataError(
            f"{len(dataset)} images that show {len(groups)} different scenes cannot be split into "
            f"{', '.join(names)}: each needs one. Add images, or set data.val=null data.test=null.",
            "too few images",
        )
    random = np.random.default_rng(seed)
    groups = [groups[number] for number in random.permutation(len(groups))]
    counts = _class_counts(dataset, groups)
    # What each split still wants: objects of each class, and in the last column images.
    wanted = fractions[:, None] * counts.sum(0)
    split_of = np.full(len(groups), -1)
    rarest_first = np.argsort(counts.sum(0)[:-1], kind="stable").tolist()
    for column in (*rarest_first, len(rarest_first)):
        for group in np.flatnonzero((split_of < 0) & (counts[:, column] > 0)).tolist():
            order = np.lexsort((-wanted[:, -1], -wanted[:, column]))
            split_of[group] = order[0]
            wanted[order[0]] -= counts[group]
    for number in range(len(names)):
        if number not in split_of:  # few images: the smallest group of the largest split
            largest = np.flatnonzero(split_of == np.bincount(split_of).argmax())
            split_of[largest[counts[largest, -1].argmin()]] = number
    found: dict[str, list[int]] = {name: [] for name in names}
    for indices, number in zip(groups, split_of.tolist(), strict=True):
        found[names[number]].extend(indices)
    return {name: sorted(indices) for name, indices in found.items()}


def _scenes(dataset: DetectionDataset) -> list[list[int]]:
    """Return the indices of the images, those of nearly the same pictures together."""
    read = survey("", dataset)
    scene = list(range(len(dataset)))

    def first(index: int) -> int:
        while scene[index] != index:
            index = scene[index]
        return index

    pairs = similar_pairs(read.thumbnails)
    of_digest: dict[str, int] = {}
    for index, digest in enumerate(read.digests):
        if digest:
            pairs.append((of_digest.setdefault(digest, index), index))
    for a, b in pairs:
        scene[max(first(a), first(b))] = min(first(a), first(b))
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index in range(len(dataset)):
        groups[first(index)].append(index)
    return list(groups.values())


def _class_counts(
    dataset: DetectionDataset, groups: Sequence[Sequence[int]]
) -> Float[np.ndarray, "groups K1"]:
    """Return the number of objects of each class in each group, and at the end that of images."""
    classes = len(dataset.class_names)
    counts = np.zeros((len(groups), classes + 1))
    for row, group in enumerate(groups):
        for index in group:
            labels: Int[np.ndarray, " N"] = dataset.ground_truth(index).labels.numpy()
            counts[row, :-1] += np.bincount(labels, minlength=classes + 1)[1:]
        counts[row, -1] = len(group)
    return counts
