"""Mistakes are told in one line, bugs with their traceback, and user text is never markup."""

import sys
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException, InstantiationException
from omegaconf.errors import ConfigKeyError

from rcnn.app.config import register_schema
from rcnn.app.errors import explain, explained
from rcnn.settings import SettingsError

CONF = Path(__file__).parents[2] / "conf"


def test_a_mistake_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, explained(CONF):
        raise SettingsError("data.class_names=['[/red]', 'bolt[m8]'] is not possible.")
    assert caught.value.code == 2
    line = "Error: data.class_names=['[/red]', 'bolt[m8]'] is not possible.\n"
    assert capsys.readouterr().err == line


def test_a_bug_is_let_through() -> None:
    with pytest.raises(KeyError, match="a bug"), explained(CONF):
        raise KeyError("a bug")


def test_full_errors_are_shown_where_hydra_is_asked_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SettingsError), explained(CONF):
        raise SettingsError("a mistake")


def test_a_mistake_inside_a_class_that_hydra_calls_is_told_alone() -> None:
    outer = InstantiationException("Error in call to target 'x'")
    outer.__cause__ = SettingsError("lr=-1 is not possible")
    assert explain(outer, CONF) == "lr=-1 is not possible"


def test_the_rank_of_a_process_is_told() -> None:
    error = SettingsError("lr=-1 is not possible.")
    error.add_note("(raised in the process of rank 1 of 2)")
    assert explain(error, CONF).endswith("possible. (raised in the process of rank 1 of 2)")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trainer.max_epoch=9"], "did you mean 'trainer.max_epochs'"),
        (["trainer.val_check_interval=9"], "+trainer.val_check_interval="),
        (["tresholds.rpn_samples=9"], "did you mean 'thresholds.rpn_samples'"),
        (["thresholds.rpn_best_within=9"], "did you mean 'thresholds.rpn_low_quality_margin'"),
        (["data=voc", "data.clas_names=[a]"], "did you mean 'data.class_names'"),
        (["bakbone=vgg16"], "did you mean 'backbone'"),
    ],
)
def test_what_hydra_cannot_override_gets_its_nearest_key(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_schema()
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    hydras = ConfigCompositionException(f"Could not override '{words[-1].partition('=')[0]}'.")
    hydras.__cause__ = ConfigKeyError("Key is not in struct")
    assert told in explain(hydras, CONF)


def test_a_missing_choice_gets_the_nearest() -> None:
    error = ValueError("Could not find 'backbone/vgg61'")
    assert "did you mean 'vgg16'" in explain(error, CONF)
