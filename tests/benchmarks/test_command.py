"""The command line of the suite."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

main = importlib.import_module("benchmarks.__main__")


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a part that measures what it is told."""
    module = ModuleType("told")
    module.__doc__ = "Measures nothing."
    module.add_arguments = lambda parser: parser.add_argument("--ms", type=float, required=True)
    module.measure = lambda arguments: [
        {"step ms": arguments.ms, "threads": torch.get_num_threads()}
    ]
    monkeypatch.setitem(sys.modules, "told", module)
    monkeypatch.setitem(main.PARTS, "told", "told")
    return "told"


@pytest.mark.parametrize("name", list(main.PARTS))
def test_every_part_has_options_a_measurement_and_a_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(main.PARTS[name])
    assert callable(module.measure)
    module.add_arguments(argparse.ArgumentParser())
    with pytest.raises(SystemExit, match="0"):
        main.main([name, "--help"])
    assert module.__doc__.splitlines()[0] in capsys.readouterr().out


def test_what_a_part_measures_is_written(part: str, tmp_path: Path) -> None:
    path, before = tmp_path / "told.json", torch.get_num_threads()
    try:
        main.main([part, "--ms", "3.5", "--threads", "1", "--out", str(path)])
    finally:
        torch.set_num_threads(before)
    record = json.loads(path.read_text())
    assert record["rows"] == [{"step ms": 3.5, "threads": 1}]
    assert record["environment"]["command"].startswith("python -m benchmarks told --ms 3.5")


@pytest.mark.parametrize("words", [[], ["detector"]])
def test_a_wrong_part_is_answered_with_the_right_ones(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main.main(words)
    assert "<part>" in capsys.readouterr().err


def test_only_the_chosen_part_is_imported(part: str, tmp_path: Path) -> None:
    sys.modules.pop("benchmarks.growth", None)
    main.main([part, "--ms", "1", "--out", str(tmp_path / "told.json")])
    assert "benchmarks.growth" not in sys.modules
