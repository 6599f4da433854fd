"""What a sweep is to show, read from its config."""

from collections.abc import Callable
from typing import Any

import pytest

from rcnn.report.node import read_plan
from rcnn.settings import SettingsError


def test_a_plan_is_read_with_its_defaults(node: dict[str, Any]) -> None:
    plan = read_plan(node)
    assert [column.heading for column in plan.columns] == ["mAP (%)", "training (h)"]
    assert [dict(row.paper) for row in plan.rows] == [
        {"mAP": 60.0},
        {"mAP": 70.0, "training": 9.5},
        {},
    ]
    assert plan.claims[0].within == 0


def test_of_several_rows_the_first_that_fits_is_meant(node: dict[str, Any]) -> None:
    node["rows"][1]["where"] = {"loss.weight": 1}
    row = read_plan(node).row_of({"loss": {"weight": 1}})
    assert row is not None
    assert row.label == "light"
    assert read_plan(node).row_of({"loss": {"weight": 3}}) is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda n: n.pop("source"), "sweep.source is missing"),
        (lambda n: n.update(clams=[]), "there is no key 'clams', did you mean 'claims'"),
        (lambda n: n.update(columns={}), "there is at least one column"),
        (lambda n: n.update(rows="all"), "it must be a list"),
        (lambda n: n.update(title=3), "it must be a text"),
        (lambda n: n["columns"]["mAP"].update(unit="days"), "choose one of '%'"),
        (lambda n: n["columns"]["mAP"].pop("tag"), "sweep.columns.mAP.tag is missing"),
        (lambda n: n["rows"][1].update(label="light"), "no label stands twice"),
        (lambda n: n["rows"][0].update(where={}), "it names at least one key"),
        (lambda n: n["rows"][0].update(paper={"mAp": 1}), "no column 'mAp', did you mean 'mAP'"),
        (lambda n: n["rows"][0].update(paper={"mAP": "60"}), "it is a number"),
        (lambda n: n["claims"][0].update(more="lihgt"), "no row 'lihgt', did you mean 'light'"),
        (lambda n: n["claims"][0].update(less=[]), "it names at least one row"),
        (lambda n: n["claims"][0].update(column="mAp"), "no column 'mAp', did you mean 'mAP'"),
        (lambda n: n["claims"][0].update(withn=1), "did you mean 'within'"),
        (lambda n: n["claims"][0].update(times=0), "sweep.claims[0].times=0"),
    ],
)
def test_a_plan_that_is_not_sound_is_an_error_that_says_where(
    spoil: Callable[[dict[str, Any]], object], message: str, node: dict[str, Any]
) -> None:
    spoil(node)
    with pytest.raises(SettingsError, match=r"sweep") as caught:
        read_plan(node)
    assert message in str(caught.value)
