"""The command line of the suite."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

main = importlib.import_module("benchmarks.__main__")


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a part with one option, which is also its measurement."""

    def measure(arguments: argparse.Namespace) -> list[dict[str, float]]:
        return [{"step ms": arguments.ms, "threads": torch.get_num_threads()}]

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--ms", type=float, required=True)

    module = SimpleNamespace(__doc__="Echo.", add_arguments=add_arguments, measure=measure)
    monkeypatch.setitem(sys.modules, "echo", module)
    monkeypatch.setitem(main.PARTS, "echo", "echo")
    return "echo"


@pytest.mark.parametrize("name", list(main.PARTS))
def test_every_part_has_options_a_measurement_and_a_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module: ModuleType = importlib.import_module(main.PARTS[name])
    assert callable(module.measure)
    module.add_arguments(argparse.ArgumentParser())
    with pytest.raises(SystemExit, match="0"):
        main.main([name, "--help"])
    assert str(module.__doc__).splitlines()[0] in capsys.readouterr().out


def test_what_a_part_measures_is_written(part: str, tmp_path: Path) -> None:
    path, before = tmp_path / "echo.json", torch.get_num_threads()
    try:
        main.main([part, "--ms", "3.5", "--threads", "1", "--out", str(path)])
    finally:
        torch.set_num_threads(before)
    record = json.loads(path.read_text())
    assert record["rows"] == [{"step ms": 3.5, "threads": 1}]
    assert record["environment"]["command"].startswith("python -m benchmarks echo --ms 3.5")


@pytest.mark.parametrize("words", [[], ["detector"]])
def test_a_wrong_part_is_answered_with_the_right_ones(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main.main(words)
    assert "<part>" in capsys.readouterr().err


def test_only_the_chosen_part_is_imported(part: str, tmp_path: Path) -> None:
    sys.modules.pop("benchmarks.growth", None)
    main.main([part, "--ms", "1", "--out", str(tmp_path / "echo.json")])
    assert "benchmarks.growth" not in sys.modules
