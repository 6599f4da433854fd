"""Which jobs belong to a row."""

from typing import Any

import pytest

from rcnn.report.plan import Row


@pytest.mark.parametrize(
    ("config", "matches"),
    [
        ({"loss": {"weight": 1.0}, "scales": [8.0, 16.0]}, True),
        ({"loss": {"weight": 1, "other": 2}, "scales": [8, 16], "more": None}, True),
        ({"loss": {"weight": 10}, "scales": [8, 16]}, False),
        ({"loss": {"weight": 1}, "scales": [16, 8]}, False),
        ({"loss": {"weight": 1}}, False),
        ({"loss": {"weight": True}, "scales": [8, 16]}, False),
        ({"loss": 1, "scales": [8, 16]}, False),
        ({}, False),
    ],
)
def test_a_job_belongs_to_the_row_whose_values_it_has(
    config: dict[str, Any], matches: bool
) -> None:
    row = Row("light", {"loss.weight": 1, "scales": [8, 16]}, {})
    assert row.matches(config) is matches
