"""Rows become a JSON file and a table."""

import json
from importlib import metadata
from pathlib import Path

import pytest
import torch

from benchmarks import results

ROWS: list[results.Row] = [
    {"backbone": "a", "device": "cpu", "step ms": 12.3456},
    {"backbone": "b", "device": "cpu", "step ms": float("nan")},
]


def test_a_file_holds_the_rows_and_what_they_depend_on(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "speed.json"
    results.write("speed", ROWS, path, "python -m benchmarks speed --pairs 2")
    record = json.loads(path.read_text())
    assert record["part"] == "speed"
    assert record["rows"] == [ROWS[0], {**ROWS[1], "step ms": None}]
    machine = record["environment"]
    assert machine["command"] == "python -m benchmarks speed --pairs 2"
    assert machine["packages"]["torch"] == metadata.version("torch")
    assert machine["threads"] == torch.get_num_threads()
    assert machine["processor"]
    assert {"commit", "date", "python", "processors"} <= set(machine)
    assert list(path.parent.iterdir()) == [path]


def test_values_that_all_rows_share_are_printed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results.write("speed", ROWS, tmp_path / "speed.json", "")
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.strip() == "device cpu"
    lines = [line.split("|")[1:-1] for line in rest if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines if "-" not in line[0]]
    assert cells == [["backbone", "step ms"], ["a", "12.3"], ["b", "nan"]]


def test_a_single_row_keeps_all_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results.write("speed", ROWS[:1], tmp_path / "speed.json", "")
    assert "| backbone | device | step ms |" in capsys.readouterr().out


def test_columns_that_only_some_rows_have_are_empty_in_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results.write("speed", [{"a": 1}, {"b": 2.0}], tmp_path / "speed.json", "")
    out = capsys.readouterr().out
    assert "| 1 |   |" in out
    assert "|   | 2 |" in out


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1234"), (0.98765, "0.988"), (12, "12"), ("cpu", "cpu"), (0.0, "0")],
)
def test_numbers_have_three_digits_or_more(value: str | float, text: str) -> None:
    assert results.text_of(value) == text
