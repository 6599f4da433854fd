"""The names of the classes that a file lists."""

from __future__ import annotations

from collections.abc import Container, Iterable

from rcnn.data.errors import Problems


def checked_class_names(
    names: Iterable[str], problems: Problems, where: str, used: Container[str] = ()
) -> tuple[str, ...]:
    """Return the class names that a file lists, without empty ones, repetitions and background.

    Args:
        names: names in their order.
        problems: log of what was changed.
        where: file, for messages.
        used: names of which there are objects; such a class stays whatever it is called.
    """
    kept: dict[str, None] = {}
    for name in filter(None, names):
        if name in kept:
            problems.settle("class named twice", where=where, found=repr(name), made="one class")
        elif not is_background(name):
            kept[name] = None
        elif name in used:
            kept[name] = None
            found = f"{name!r} has objects"
            problems.note("class named background", where=where, found=found, made="it is a class")
        else:
            problems.note(
                "class named background",
                where=where,
                found=repr(name),
                made="no class: background is what no object covers",
            )
    return tuple(kept)


def is_background(name: str) -> bool:
    """Return whether a class is called background, as ``__background__`` is."""
    return name.strip("_ ").lower() == "background"
