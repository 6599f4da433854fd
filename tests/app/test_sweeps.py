"""The shipped sweeps: every job of every table composes, and belongs to one row of it."""

import csv
import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from rcnn.app.config import parse, register_schema
from rcnn.cli.main import main
from rcnn.report import Plan, read_plan
from rcnn.settings import SettingsError

Compose = Callable[..., dict[str, Any]]
CONF = Path(__file__).parents[2] / "conf"
SWEEPS = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))
NEEDS = {
    "lineage": ["proposals.folder=/somewhere"],
    "proposals": ["ckpt_path=/somewhere.ckpt"],
    "svd": ["ckpt_path=/somewhere.ckpt", "backbone=vgg16"],
}
"""What a table needs beside its name."""

FULL_SIZE = ["experiment=voc07_vgg16"]
DATA = [
    [],
    pytest.param(["experiment=bccd", "data.root=/somewhere"], marks=pytest.mark.slow),
    pytest.param(FULL_SIZE, marks=pytest.mark.slow),
]


@functools.cache
def jobs(sweep: str, *words: str) -> list[dict[str, Any]]:
    """Compose the jobs that ``python train.py sweep=<sweep> <words>`` would run."""
    given = [f"sweep={sweep}", *NEEDS.get(sweep, []), *words]
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        own = ["run_dir=/x", *(word for word in given if "," not in word)]
        master = compose("config", overrides=own, return_hydra_config=True)
        assert master.hydra.mode.name == "MULTIRUN"
        params = [f"{key}={value}" for key, value in master.hydra.sweeper.params.items()]
        overrides = OverridesParser.create().parse_overrides([*params, *given])
        (batch,) = BasicSweeper.split_arguments(overrides, None)
        configs = [compose("config", overrides=[*job, "run_dir=/x"]) for job in batch]
    plains = [OmegaConf.to_container(config, resolve=True) for config in configs]
    return cast(list[dict[str, Any]], plains)


def plan_of(sweep: str, composed: Compose) -> Plan:
    return read_plan(composed(f"sweep={sweep}", *NEEDS.get(sweep, []))["sweep"])


@pytest.mark.parametrize("words", DATA, ids=["shapes", "bccd", "voc07_vgg16"])
@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_job_passes_the_door_and_each_row_has_one(sweep: str, words: list[str]) -> None:
    composed = jobs(sweep, *words)
    rows = []
    for plain in composed:
        parse(plain)
        plan = read_plan(plain["sweep"])
        (row,) = (row.label for row in plan.rows if row.matches(plain))
        rows.append(row)
    assert sorted(rows) == sorted(row.label for row in plan.rows)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_the_keys_by_which_rows_are_known_exist(sweep: str) -> None:
    for plain in jobs(sweep):
        known = set(keys(plain))
        assert {key for row in read_plan(plain["sweep"]).rows for key in row.where} <= known


def keys(config: dict[str, Any], where: str = "") -> list[str]:
    found = []
    for key, value in config.items():
        found += keys(value, f"{where}{key}.") if isinstance(value, dict) else [f"{where}{key}"]
    return found


@pytest.mark.parametrize("sweep", SWEEPS)
def test_the_header_gives_the_command_and_the_cost(sweep: str) -> None:
    header = (CONF / "sweep" / f"{sweep}.yaml").read_text().split("hydra:")[0]
    assert f"python train.py sweep={sweep}" in header
    assert "rcnn report outputs/<name>/" in header
    assert "Cost:" in header
    assert "Full size:" in header


def test_seeds_and_other_values_of_the_command_line_extend_the_table() -> None:
    composed = jobs("lambda", "seed=0,1", "data=voc2007", "backbone=vgg16")
    assert len(composed) == 4 * 2
    assert {plain["seed"] for plain in composed} == {0, 1}
    assert {plain["backbone"]["name"] for plain in composed} == {"vgg16"}


def test_the_command_line_replaces_the_tables_values() -> None:
    composed = jobs("lambda", "model.losses.rpn_box_weight=3,10")
    weights = [plain["model"]["losses"]["rpn_box_weight"] for plain in composed]
    assert weights == [3, 10]
    assert all(p["model"]["losses"]["rpn_box_divisor"] == "locations" for p in composed)


def test_the_anchors_are_those_of_the_chosen_detector() -> None:
    scales = {tuple(plain["anchors"]["scales"]) for plain in jobs("anchors", *FULL_SIZE)}
    assert scales == {(8,), (16,), (8, 16, 32)}
    scales = {tuple(plain["anchors"]["scales"]) for plain in jobs("anchors")}
    assert scales == {(2,), (4,), (2, 4, 8)}


def test_without_a_sweep_there_is_no_such_key(composed: Compose) -> None:
    assert "sweep" not in composed()


def test_a_typo_in_a_table_is_found_at_the_door(composed: Compose) -> None:
    plain = composed("sweep=lambda")
    plain["sweep"]["rows"][0]["paper"] = {"mAp": 67.2}
    with pytest.raises(SettingsError, match=r"sweep\.rows\[0\]\.paper.*'mAp', did you mean 'mAP'"):
        parse(plain)


@pytest.mark.slow
def test_a_sweep_starts_by_its_name_and_its_folder_is_enough_for_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep=lambda", "model.losses.rpn_box_weight=1,10", "trainer.max_steps=2"]
    words += ["data.train=4", "data.val=2", "data.test=2", "data.size=64", "loader.workers=0"]
    words += ["images.shorter_side=64", "images.longer_side=64", "trainer.accelerator=cpu"]
    command = [sys.executable, str(CONF.parent / "train.py"), *words]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert answer.returncode == 0, answer.stderr
    (folder,) = (tmp_path / "outputs" / "shapes").iterdir()
    assert folder.name.startswith("lambda_")
    assert {path.name for path in folder.iterdir()} == {"0", "1", "multirun.yaml"}

    assert main(["report", str(folder)]) == 0
    with (folder / "report.csv").open() as file:
        lines = {line["row"]: line for line in csv.DictReader(file)}
    assert [lines[f"lambda {value}"]["n"] for value in (0.1, 1, 10, 100)] == ["0", "1", "1", "0"]
    assert "No job of these rows was started: lambda 0.1; lambda 100." in capsys.readouterr().out
