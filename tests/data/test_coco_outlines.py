"""Leaving out what a detector does not need of a COCO file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcnn.data.coco_outlines import without_outlines


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"segmentation": [[1.5, 2e-3], [3, -4]], "id": 1}', '{"segmentation": 0, "id": 1}'),
        ('{"id": 1, "segmentation":[]}', '{"id": 1, "segmentation":0}'),
        ('[{"segmentation" : [[1]]},{"bbox": [1]}]', '[{"segmentation" : 0},{"bbox": [1]}]'),
        ('{"segmentation": 7, "bbox": [1, 2]}', None),
        ('{"segmentation": {"counts": [1, 2], "size": [3, 4]}}', None),
        ('{"segmentation": {"counts": "a]b", "size": [3, 4]}}', None),
        ('{"segmentation": null, "bbox": [1, 2]}', None),
        ('{"name": "segmentation", "bbox": [1, 2]}', None),
        (r'{"name": "a \"segmentation\": [1]", "bbox": [2]}', None),
        ("", None),
    ],
)
def test_lists_of_numbers_are_left_out_and_nothing_else(content: str, expected: str | None) -> None:
    assert without_outlines(content.encode()).decode() == (
        content if expected is None else expected
    )


def test_what_is_no_list_of_numbers_is_never_taken_for_other_content() -> None:
    for odd in ('[[1], ["a"]]', '["a", [1]]', '[{"x": [1]}]', '[[1], {"x": "]"}]'):
        content = f'{{"segmentation": {odd}, "bbox": [5, 6, 7, 8]}}'
        try:
            found = json.loads(without_outlines(content.encode()))
        except ValueError:
            continue
        assert found["bbox"] == [5, 6, 7, 8]


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.none() | NUMBERS | st.text() | st.lists(NUMBERS)
ENTRIES = st.lists(
    st.dictionaries(st.text(max_size=3) | st.sampled_from(["bbox", "segmentation"]), VALUES)
)


@given(ENTRIES, st.lists(st.lists(NUMBERS)))
def test_everything_else_stays(entries: list[dict[str, object]], outline: list[object]) -> None:
    for entry in entries:
        entry["segmentation"] = outline
    found = json.loads(without_outlines(json.dumps(entries).encode()))
    for one, other in zip(found, entries, strict=True):
        assert one.pop("segmentation") == 0
        del other["segmentation"]
        assert one == other
