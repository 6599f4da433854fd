"""The table at the end of a run."""

import io
import math

from rich.console import Console

from rcnn.app.results import Results, print_results


def printed(results: Results, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_results(results, "outputs/x", console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def results(classes: int) -> Results:
    figures = {"map": 0.25, "map_50": 0.5, "voc_ap": 0.75, "voc07_ap": math.nan}
    return Results(
        metrics={"test/map": 0.125, "test/map_50": 0.5, "test/recall_100": 0.375},
        per_class={"test": {f"class {k}": figures for k in range(classes)}},
        weights="random",
        notes=["random weights [of course]"],
    )


def test_the_table_has_a_row_for_all_and_one_for_each_class() -> None:
    lines = printed(results(2)).splitlines()
    (overall,) = (line for line in lines if line.startswith("│ all"))
    assert "0.125" in overall
    assert [line.split()[2] for line in lines if line.startswith("│ class ")] == ["0", "1"]


def test_eighty_classes_fit_a_terminal() -> None:
    assert max(map(len, printed(results(80)).splitlines())) <= 80


def test_what_was_not_measured_is_a_dash_and_notes_are_told() -> None:
    text = printed(results(1))
    assert "0.375, -, -" in text
    assert "random weights [of course]" in text
    assert text.rstrip().endswith("Run folder: outputs/x")
