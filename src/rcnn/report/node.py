"""The node ``sweep`` of a config, read strictly: a typo in a table is told before a job starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rcnn.report.plan import Claim, Column, Plan, Row
from rcnn.settings import SettingsError, from_plain, nearest, require


def read_plan(node: object) -> Plan:
    """Read the node ``sweep`` of a config.

    Raises:
        SettingsError: a key is unknown or missing, a value has the wrong type, or a name refers to
            no row or column.
    """
    # "base" is what interpolations of the other keys refer to; it means nothing by itself.
    values = _mapping(node, "sweep", ("title", "source", "columns", "rows"), ("claims", "base"))
    columns = tuple(
        _column(title, column)
        for title, column in _mapping(values["columns"], "sweep.columns").items()
    )
    require(len(columns) > 0, "sweep.columns", values["columns"], "there is at least one column")
    titles = [column.title for column in columns]
    rows = tuple(
        _row(row, f"sweep.rows[{i}]", titles)
        for i, row in enumerate(_list(values["rows"], "sweep.rows"))
    )
    labels = [row.label for row in rows]
    require(len(set(labels)) == len(labels), "sweep.rows", labels, "no label stands twice")
    claims = tuple(
        from_plain(Claim, claim, f"sweep.claims[{i}]")
        for i, claim in enumerate(_list(values.get("claims", []), "sweep.claims"))
    )
    for i, claim in enumerate(claims):
        where = f"sweep.claims[{i}]"
        require(len(claim.less) > 0, f"{where}.less", [], "it names at least one row")
        for label in (claim.more, *claim.less):
            _known(label, labels, f"{where}: there is no row")
        _known(claim.column or titles[0], titles, f"{where}: there is no column")
    return Plan(
        title=_text(values["title"], "sweep.title"),
        source=_text(values["source"], "sweep.source"),
        columns=columns,
        rows=rows,
        claims=claims,
    )


def _column(title: str, node: object) -> Column:
    where = f"sweep.columns.{title}"
    return from_plain(Column, {**_mapping(node, where), "title": title}, where)


def _row(node: object, where: str, titles: Sequence[str]) -> Row:
    values = _mapping(node, where, ("label", "where"), ("paper",))
    paper = {}
    for title, figure in _mapping(values.get("paper", {}), f"{where}.paper").items():
        _known(title, titles, f"{where}.paper: there is no column")
        is_number = isinstance(figure, int | float) and not isinstance(figure, bool)
        require(is_number, f"{where}.paper.{title}", figure, "it is a number")
        paper[title] = float(figure)
    conditions = _mapping(values["where"], f"{where}.where")
    require(len(conditions) > 0, f"{where}.where", conditions, "it names at least one key")
    return Row(_text(values["label"], f"{where}.label"), conditions, paper)


def _mapping(
    node: object, where: str, needed: Sequence[str] = (), optional: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Return keys and values; with ``needed``, no others than these and the optional ones."""
    if not isinstance(node, Mapping):
        raise SettingsError(f"{where} must hold keys and values, not {node!r}.")
    for key in needed:
        if key not in node:
            raise SettingsError(f"{where}.{key} is missing.")
    if needed:
        for key in node:
            _known(str(key), (*needed, *optional), f"{where}: there is no key")
    return node


def _list(node: object, where: str) -> Sequence[object]:
    if isinstance(node, str) or not isinstance(node, Sequence):
        raise SettingsError(f"{where}={node!r} is not possible: it must be a list.")
    return node


def _text(node: object, where: str) -> str:
    if not isinstance(node, str):
        raise SettingsError(f"{where}={node!r} is not possible: it must be a text.")
    return node


def _known(name: str, names: Sequence[str], complaint: str) -> None:
    if name not in names:
        known = ", ".join(map(repr, names))
        raise SettingsError(f"{complaint} {name!r}{nearest(name, names)} There are: {known}.")
