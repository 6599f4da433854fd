"""Whether proposals and a data set are of the same images."""

from __future__ import annotations

from collections.abc import Iterable

from rcnn.data.errors import DataError

QUOTED = 3  # how many of many ids a message names

REMEDY = (
    "Take the data set and split that the proposals were made of, or make proposals of this one"
)


def some(names: list[str]) -> str:
    """Name the first few of many, and say how many there are."""
    more = f", ... ({len(names)} in all)" if len(names) > QUOTED else ""
    return ", ".join(names[:QUOTED]) + more


def id_differences(found: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Say which ids of a data set (``wanted``) have no proposals, and the other way round."""
    has, needs = list(found), list(wanted)
    missing, surplus = set(needs) - set(has), set(has) - set(needs)
    differences = []
    if missing:
        names = some([image_id for image_id in needs if image_id in missing])
        differences.append(
            f"{len(missing)} of the data set's {len(needs)} images have no proposals: {names}"
        )
    if surplus:
        names = some([image_id for image_id in has if image_id in surplus])
        differences.append(f"{len(surplus)} images with proposals are not in the data set: {names}")
    return differences


def require_same(where: str, differences: list[str], remedy: str = REMEDY) -> None:
    """Refuse proposals that are not of the data set.

    Raises:
        DataError: with all differences, if there is one.
    """
    if differences:
        raise DataError.about(
            "proposals of another data set",
            where=where,
            found="; ".join(differences),
            allowed=remedy,
        )
