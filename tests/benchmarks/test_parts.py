"""The parts that time detectors, from the command line to their rows."""

import argparse
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import detectors, growth, memory, stages, switches
from benchmarks.pair import Row
from benchmarks.stages import STAGES

pytestmark = pytest.mark.slow

QUIET = ["--clock", "cpu"]


def rows_of(part: ModuleType, words: list[str], folder: Path) -> list[Row]:
    parser = argparse.ArgumentParser()
    part.add_arguments(parser)
    parser.set_defaults(out=folder / "part.json")
    rows: list[Row] = part.measure(parser.parse_args([*words, *QUIET]))
    return rows


def number(row: Row, column: str) -> float:
    return float(row[column])


def test_detectors_are_timed_at_both_tasks(tmp_path: Path) -> None:
    words = ["--backbones", "mobilenet_v3_large_fpn", "--size", "64x96", "--pairs", "1"]
    step, inference = rows_of(detectors, words, tmp_path)
    assert (step["task"], inference["task"]) == ("train step", "inference")
    for row in (step, inference):
        assert (row["backbone"], row["size"]) == ("mobilenet_v3_large_fpn", "64x96")
        assert row["same boxes %"] == 100
        for name in ("rcnn ms", "torchvision ms", "ratio"):
            assert number(row, f"{name} q1") <= number(row, name) <= number(row, f"{name} q3")
        assert row["rcnn runs"] == "channels last, Winograd, norms folded"
        assert row["torchvision runs"] == "contiguous"
        assert row["clock"] == "cpu"


def test_fixed_norms_are_timed_beside_those_that_count(tmp_path: Path) -> None:
    words = ["--backbones", "mobilenet_v3_large_fpn", "--size", "64x96", "--pairs", "1"]
    rows = rows_of(detectors, [*words, "--norms", "batch", "frozen"], tmp_path)
    assert [row["norm"] for row in rows] == ["batch", "batch", "frozen", "frozen"]


def test_the_stages_of_both_detectors_add_up(tmp_path: Path) -> None:
    words = ["--backbones", "mobilenet_v3_large_fpn", "--size", "64x96", "--repeats", "1"]
    rows = rows_of(stages, words, tmp_path)
    for task in ("train step", "inference"):
        of_task = {str(row["stage"]): row for row in rows if row["task"] == task}
        known = [of_task[stage] for stage in STAGES if stage in of_task]
        for side in ("rcnn", "torchvision"):
            total = sum(number(row, f"{side} ms") for row in known)
            assert total == pytest.approx(number(of_task["all"], f"{side} ms"))
            for stage in ("backbone", "rpn head", "proposals", "roi pooling", "box head"):
                assert number(of_task[stage], f"{side} ms") > 0, stage
            assert ("backward" in of_task) == (task == "train step")
            assert 0 < number(of_task["overhead"], f"{side} %") < 100


def test_each_switch_is_turned_off_by_itself(tmp_path: Path) -> None:
    words = ["--backbones", "mobilenet_v3_large_fpn", "--size", "64x96", "--rounds", "2"]
    rows = rows_of(switches, [*words, "--norms", "batch", "frozen"], tmp_path)
    off: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        off.setdefault((str(row["norm"]), str(row["task"])), []).append(str(row["off"]))
        assert number(row, "lowest") <= number(row, "on / off") <= number(row, "highest")
        assert (row["on / off"] == 1) == (row["off"] == "nothing")
    assert len(off) == 4
    for (norm, _), names in off.items():
        more = ["fold_norms"] if norm == "frozen" else []
        assert names == ["nothing", "channels_last", "winograd", *more]


def test_growth_has_a_row_for_each_value_and_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ["--backbone", "mobilenet_v3_large_fpn", "--size", "64x96", "--pairs", "1"]
    words += ["--axes", "objects", "--values", "1"]
    rows = rows_of(growth, words, tmp_path)
    assert [(row["axis"], row["value"], row["task"]) for row in rows] == [
        ("objects per image", 1, task) for task in ("train step", "inference")
    ]
    assert (tmp_path / "part.png").read_bytes().startswith(b"\x89PNG")


def test_memory_of_a_step_includes_weights_gradients_and_momenta(tmp_path: Path) -> None:
    words = ["--backbones", "mobilenet_v3_large_fpn", "--size", "64x96"]
    step, inference = rows_of(memory, words, tmp_path)
    weights = 19 * 4  # MiB of 19 million parameters; a step has gradients and momenta, too
    for side in ("rcnn", "torchvision"):
        training, detecting = (number(row, f"{side} MiB") for row in (step, inference))
        assert training > 3 * weights * 0.9
        assert weights * 0.9 < detecting < training
