"""The search by Optuna: its space, its trials with stand-in jobs, its result as an experiment."""

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from rcnn.app.config import parse, register_schema
from rcnn.app.search import SearchSettings, experiment, read_space, search
from rcnn.settings import SettingsError
from rcnn.training.callbacks import NonFiniteLossError

CONF = Path(__file__).parents[2] / "conf"
Train = Callable[..., subprocess.CompletedProcess[str]]

# --- the space ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("optimizer.lr=interval(1e-5,1e-2)", FloatDistribution(1e-5, 1e-2, log=True)),
        ("optimizer.lr=interval(1e-4,2e-3)", FloatDistribution(1e-4, 2e-3)),
        ("optimizer.lr=tag(log,interval(1e-4,2e-3))", FloatDistribution(1e-4, 2e-3, log=True)),
        ("optimizer.lr=tag(linear,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2)),
        ("optimizer.lr=interval(-1,1)", FloatDistribution(-1, 1)),
        ("trainer.max_epochs=int(interval(1,9))", IntDistribution(1, 9)),
        ("anchors=choice(small,paper)", CategoricalDistribution(["small", "paper"])),
        ("anchors=small,paper", CategoricalDistribution(["small", "paper"])),
        ("anchors.scales=choice([2,4],[8])", CategoricalDistribution(["[2,4]", "[8]"])),
        ("loader.batch_size=range(1,4)", CategoricalDistribution(["1", "2", "3"])),
    ],
)
def test_sweeps_are_distributions(word: str, expected: Any) -> None:
    space, fixed = read_space([word, "trainer.max_steps=3", "+a.b=1"])
    assert space == {word.partition("=")[0]: expected}
    assert fixed == ["trainer.max_steps=3", "+a.b=1"]


def test_the_last_word_on_a_key_counts() -> None:
    space, fixed = read_space(["a=1,2", "b=1", "a=3", "b=4,5"])
    assert fixed == ["a=3"]
    assert space == {"b": CategoricalDistribution(["4", "5"])}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["anchors=small"], "at least one key"),
        (["a=interval(2,1)"], r"a=interval\(2,1\).*below"),
        (["a=interval(1,1)"], r"a=interval\(1,1\).*below"),
        (["a=tag(log,interval(0,1))"], "above 0"),
        (["a=1,2", "seed=3"], r"hydra\.sweeper\.seeds"),
        (["a=1,2", "seed=3,4"], r"hydra\.sweeper\.seeds"),
    ],
)
def test_what_cannot_be_searched_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_space(words)


# --- trials -------------------------------------------------------------------------------------

WORDS = ["trainer.max_epochs=1", "optimizer.lr=interval(1e-5,1e-1)", "anchors=small,paper"]


class Jobs(Launcher):
    """Runs no training: a job's metric is best at a rate of 1e-3, and a little worse with seed 1.

    Args:
        fail: raises or prunes what it wants, for the values of a job by key.
    """

    def __init__(self, fail: Callable[[dict[str, str]], None] = lambda _: None) -> None:
        self.fail = fail
        self.launched: list[dict[str, str]] = []
        self.numbers: list[int] = []

    def setup(self, **_: Any) -> None: ...

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        returns = []
        for number, words in enumerate(job_overrides, initial_job_idx):
            job = dict(word.split("=", 1) for word in words)
            self.launched.append(job)
            self.numbers.append(number)
            returned = JobReturn(status=JobStatus.COMPLETED)
            try:
                self.fail(job)
                rate = torch.tensor(float(job["optimizer.lr"]))
                metric = -(rate.log10() + 3).abs().item()
                returned.return_value = metric - 0.5 * int(job["seed"])
            except Exception as error:
                returned.return_value = error
                returned.status = JobStatus.FAILED
            returns.append(returned)
        return returns


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., SearchSettings]:
    def make(**changed: Any) -> SearchSettings:
        node = yaml.safe_load((CONF / "hydra/sweeper/optuna.yaml").read_text())
        own = {"mode": "max", "storage": f"sqlite:///{tmp_path}/search.db", "trials": 4}
        names = SearchSettings.__dataclass_fields__
        return SearchSettings(**{key: ({**node, **own} | changed)[key] for key in names})

    return make


Options = Callable[..., SearchSettings]


def stored(options: SearchSettings) -> optuna.Study:
    return optuna.load_study(study_name=options.study, storage=options.storage)


def test_the_mean_of_the_seeds_counts_and_the_best_is_an_experiment(
    options: Options, loader: ConfigLoader, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = Jobs()
    best = search(options(seeds=(0, 1)), WORDS, tmp_path, jobs, loader)
    assert [(job["hydra.sweep.subdir"], job["seed"]) for job in jobs.launched] == [
        (f"trial_{trial}_seed_{seed}", str(seed)) for trial in range(4) for seed in (0, 1)
    ]
    assert jobs.numbers == [*range(8)]
    assert {job["trainer.max_epochs"] for job in jobs.launched} == {"1"}
    study = stored(options())
    nearest = max(
        jobs.launched,
        key=lambda job: -abs(torch.log10(torch.tensor(float(job["optimizer.lr"]))) + 3),
    )
    assert study.best_params["optimizer.lr"] == float(nearest["optimizer.lr"])
    expected = -abs(torch.tensor(float(nearest["optimizer.lr"])).log10() + 3) - 0.25
    assert best == pytest.approx(float(expected))

    config = yaml.safe_load((tmp_path / "experiment" / "best.yaml").read_text())
    assert config["optimizer"]["lr"] == float(nearest["optimizer.lr"])
    assert config["defaults"] == [{"override /anchors": nearest["anchors"]}]
    said = capsys.readouterr().out
    assert f"python train.py trainer.max_epochs=1 optimizer.lr={nearest['optimizer.lr']}" in said
    assert f"--config-dir {tmp_path} experiment=best" in said
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 5


def test_the_first_seed_of_each_trial_reports_to_it(
    options: Options, loader: ConfigLoader, tmp_path: Path
) -> None:
    jobs = Jobs()
    search(options(seeds=(0, 1), trials=1), WORDS, tmp_path, jobs, loader)
    first, second = jobs.launched
    assert first["+callbacks.pruning._target_"] == "rcnn.training.stopping.Pruning"
    assert first["+callbacks.pruning.storage"] == f'"{options().storage}"'
    assert "+callbacks.pruning.trial" not in second
    jobs = Jobs()
    search(options(study="other", trials=1, prune_after=None), WORDS, tmp_path, jobs, loader)
    assert not [key for key in jobs.launched[0] if "pruning" in key]


def test_a_search_that_was_stopped_goes_on_with_its_interrupted_trial(
    options: Options, loader: ConfigLoader, tmp_path: Path
) -> None:
    def stop(job: dict[str, str]) -> None:
        if job["hydra.sweep.subdir"] == "trial_2_seed_0":
            raise KeyboardInterrupt

    stopped, again = Jobs(stop), Jobs()
    with pytest.raises(KeyboardInterrupt):
        search(options(), WORDS, tmp_path, stopped, loader)
    search(options(), WORDS, tmp_path, again, loader)
    rates = [job["optimizer.lr"] for job in stopped.launched]
    repeated, new = (job["optimizer.lr"] for job in again.launched)
    assert repeated == rates[2]
    assert new not in rates
    states = [trial.state.name for trial in stored(options()).trials]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    # A search that has ended launches nothing; a longer one goes on.
    finished = Jobs()
    search(options(), WORDS, tmp_path, finished, loader)
    assert not finished.launched


@pytest.mark.parametrize("error", [NonFiniteLossError, torch.OutOfMemoryError])
def test_a_training_that_diverges_is_the_worst_and_the_search_goes_on(
    error: type[Exception], options: Options, loader: ConfigLoader, tmp_path: Path
) -> None:
    def fail(job: dict[str, str]) -> None:
        if job["hydra.sweep.subdir"].startswith("trial_1_"):
            raise error("too high")

    jobs = Jobs(fail)
    search(options(seeds=(0, 1)), WORDS, tmp_path, jobs, loader)
    assert [trial.state.name for trial in stored(options()).trials] == [
        *("COMPLETE", "PRUNED", "COMPLETE", "COMPLETE")
    ]
    assert "trial_1_seed_1" not in [job["hydra.sweep.subdir"] for job in jobs.launched]


def test_a_pruned_trial_is_not_trained_with_other_seeds(
    options: Options, loader: ConfigLoader, tmp_path: Path
) -> None:
    own = options(seeds=(0, 1), trials=2)

    def prune(job: dict[str, str]) -> None:
        study = stored(own)
        if job["hydra.sweep.subdir"] == "trial_1_seed_0":
            trial = optuna.Trial(study, int(job["+callbacks.pruning.trial"]))
            trial.set_user_attr("pruned", True)

    jobs = Jobs(prune)
    search(own, WORDS, tmp_path, jobs, loader)
    assert [job["hydra.sweep.subdir"] for job in jobs.launched] == [
        *("trial_0_seed_0", "trial_0_seed_1", "trial_1_seed_0")
    ]


def test_a_mistake_of_the_config_ends_the_search(
    options: Options, loader: ConfigLoader, tmp_path: Path
) -> None:
    def fail(job: dict[str, str]) -> None:
        raise SettingsError("no such key")

    with pytest.raises(SettingsError, match="no such key"):
        search(options(), WORDS, tmp_path, Jobs(fail), loader)


@pytest.mark.parametrize("words", [[*WORDS, "data=coco"], [*WORDS[:2], "anchors=small,caffe"]])
def test_a_folder_holds_one_search(
    words: list[str], options: Options, loader: ConfigLoader, tmp_path: Path
) -> None:
    search(options(trials=1), WORDS, tmp_path, Jobs(), loader)
    with pytest.raises(SettingsError, match=r"hydra\.sweeper\.study=search.*name of its own"):
        search(options(trials=2), words, tmp_path, Jobs(), loader)
    with pytest.raises(SettingsError, match=re.escape("hydra.sweeper.seeds=[0, 1]")):
        search(options(trials=2, seeds=(0, 1)), WORDS, tmp_path, Jobs(), loader)


# --- the experiment -----------------------------------------------------------------------------


def test_an_experiment_composes_to_the_same_config_as_its_words(
    loader: ConfigLoader, tmp_path: Path
) -> None:
    words = [
        *("experiment=bccd", "data.root=/some where", "anchors=paper", "optimizer.lr=1e-05"),
        *("anchors.scales=[2,4]", "+trainer.benchmark=false"),
    ]
    path = tmp_path / "experiment" / "best.yaml"
    path.parent.mkdir()
    path.write_text(f"# @package _global_\n{experiment(words, loader)}")
    own = ["run_dir=/x"]
    expected = compose("config", overrides=[*words, *own])
    found = compose("config", overrides=[f"hydra.searchpath=[{tmp_path}]", "experiment=best", *own])
    assert found == expected
    plain: Any = OmegaConf.to_container(found, resolve=True)
    assert parse(plain).detector["anchors"].scales == (2.0, 4.0)


@pytest.mark.parametrize("word", ["~callbacks.pictures", "thresholds=null"])
def test_what_a_file_cannot_say_is_said_in_it(word: str, loader: ConfigLoader) -> None:
    text = experiment([word, "name=x"], loader)
    assert word in text.splitlines()[0]
    assert yaml.safe_load(text) == {"defaults": [], "name": "x"}


# --- by the command line ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_by_the_command_line_goes_on_and_its_best_is_trained(
    train: Train, tmp_path: Path
) -> None:
    tiny = ["data.train=4", "data.val=2", "data.test=2", "data.size=64", "backbone.hidden=8"]
    tiny += ["images.shorter_side=64", "images.longer_side=64", "thresholds.roi_samples=16"]
    tiny += ["backbone=mobilenet_v3_large_fpn", "anchors=pyramid", "logger=csv"]
    words = ["-m", "hydra/sweeper=optuna", "optimizer.lr=interval(1e-5,1e-2)", *tiny]
    words += ["pooling=roi_align,roi_pool", "hydra.sweeper.prune_after=1"]
    for trials in (2, 4):
        answer = train(*words, f"hydra.sweeper.trials={trials}")
        assert answer.returncode == 0, answer.stderr
    folder = tmp_path / "outputs" / "shapes" / "search"
    runs = sorted(path.parent.name for path in folder.glob("*/metrics.json"))
    assert runs == [f"trial_{number}_seed_0" for number in range(4)]
    values = optuna.load_study(study_name="search", storage=f"sqlite:///{folder}/search.db")
    assert len(values.trials) == 4

    answer = train("--config-dir=outputs/shapes/search", "experiment=best", "name=again")
    assert answer.returncode == 0, answer.stderr
    (config,) = (tmp_path / "outputs" / "again").glob("*/config.yaml")
    assert (
        yaml.safe_load(config.read_text())["optimizer"]["lr"] == values.best_params["optimizer.lr"]
    )

    refused = train(*words, "hydra.sweeper.trials=5", "data.seed=3")
    assert refused.returncode == 2
    assert "hydra.sweeper.study=search" in refused.stderr
