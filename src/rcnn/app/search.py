"""A search for the best values of a command line, by Optuna, one training a job.

A *trial* is one value for each searched key. Its jobs, one for each seed, are launched by Hydra as
those of a sweep are, and the mean of the metrics that they return counts. Each trial is stored when
it ends: a search that was stopped goes on, and starts its interrupted trial again.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
import torch
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from pydantic import Field, NonNegativeInt, PositiveInt
from rich.console import Console
from rich.text import Text

from rcnn.app.config import read_overrides
from rcnn.files import whole_file
from rcnn.settings import SettingsError, settings
from rcnn.training.callbacks import NonFiniteLossError


@settings
class SearchSettings:
    """How to search; ``conf/hydra/sweeper/optuna.yaml`` has the defaults.

    Attributes:
        study: name of the search.
        trials: number of trials, those of earlier runs of the same search included.
        seeds: seeds with each of which a trial is trained.
        mode: whether the highest or the lowest value of the monitored metric is the best.
        random_trials: number of trials drawn at random before the sampler learns from them.
        prune_after: number of trials from which on bad runs are stopped early; None for never.
        sampler_seed: seed of the sampler.
        storage: URL of the database of the trials.
    """

    study: str
    trials: PositiveInt
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    mode: Literal["max", "min"]
    random_trials: PositiveInt
    prune_after: NonNegativeInt | None
    sampler_seed: NonNegativeInt
    storage: str


def search(
    options: SearchSettings,
    words: Sequence[str],
    folder: Path,
    launcher: Launcher,
    loader: ConfigLoader,
) -> float:
    """Search until there are enough trials, and return the best value.

    The folder gets a folder for each job, ``trials.csv``, and the best trial as
    ``experiment/best.yaml``.

    Args:
        options: how to search.
        words: overrides of the command line, some of which are sweeps.
        folder: folder of the search.
        launcher: launcher of the jobs.
        loader: loader of the config groups.

    Raises:
        SettingsError: nothing is searched, the study has other words, or no job returns a metric.
    """
    space, fixed = read_space(words, loader)
    study = _open(options, words)
    while (
        sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.trials) < options.trials
    ):
        _run(study, study.ask(space), options, fixed, launcher)
    states = [trial.state.name for trial in study.trials]
    attributes = ("number", "value", "params", "state", "duration")
    study.trials_dataframe(attributes).to_csv(folder / "trials.csv", index=False)
    if "COMPLETE" not in states:
        raise SettingsError(f"No trial of {folder} has a value: all were pruned or diverged.")
    best = study.best_trial
    words = [*fixed, *_words(best)]
    title = f"Best of {len(states)} trials: {best.value:.4g}, trial {best.number}"
    path = folder / "experiment" / "best.yaml"
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(f"# @package _global_\n# {title}\n{experiment(words, loader)}")
    _print(f"{title}, mean of the seeds {', '.join(map(str, options.seeds))}")
    _print(f"python train.py {shlex.join(words)}")
    _print(f"or: python train.py --config-dir {folder} experiment=best")
    return float(study.best_value)


def read_space(
    words: Sequence[str], loader: ConfigLoader | None = None
) -> tuple[dict[str, BaseDistribution], list[str]]:
    """Return the distribution of each searched key, and the other words of a command line.

    Raises:
        SettingsError: nothing is searched, an interval is empty, or the seed is given.
    """
    space: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for override in OverridesParser.create(loader).parse_overrides(list(words)):
        key = override.get_key_element()
        if key == "seed":
            raise SettingsError("The seeds of a search are hydra.sweeper.seeds=[0,1,...].")
        space.pop(key, None)  # a later word wins
        fixed.pop(key, None)
        if override.is_sweep_override():
            space[key] = _distribution(override)
        else:
            fixed[key] = str(override.input_line)
    if not space:
        raise SettingsError(
            "hydra/sweeper=optuna needs at least one key to search, such as "
            "'optimizer.lr=interval(1e-5,1e-2)' or 'anchors=choice(small,paper)'."
        )
    return space, [*fixed.values()]


def _distribution(override: Override) -> BaseDistribution:
    sweep = override.value()
    if not isinstance(sweep, IntervalSweep):
        return CategoricalDistribution([*override.sweep_string_iterator()])
    low, high = sweep.start, sweep.end
    assert low is not None
    assert high is not None
    log = "log" in sweep.tags or ("linear" not in sweep.tags and 0 < low <= high / 100)
    if low >= high or (log and low <= 0):
        allowed = f"the first end is below the second{', and above 0' if log else ''}"
        raise SettingsError(f"{override.input_line} is not possible: {allowed}.")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _open(options: SearchSettings, words: Sequence[str]) -> optuna.Study:
    """Return the study of the storage, new or as a stopped search has left it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=options.storage,
        study_name=options.study,
        direction="maximize" if options.mode == "max" else "minimize",
        load_if_exists=True,
    )
    ours = [*words, f"hydra.sweeper.seeds={[*options.seeds]}"]
    theirs = study.user_attrs.get("command", ours)
    if theirs != ours:
        raise SettingsError(
            f"hydra.sweeper.study={options.study} is the search {shlex.join(theirs)}, not "
            f"{shlex.join(ours)}. Give this one a name of its own."
        )
    study.set_user_attr("command", ours)
    # With the seed alone, a search that goes on would draw its first trials again.
    seed = options.sampler_seed + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(n_startup_trials=options.random_trials, seed=seed)
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:  # the search was stopped in it
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
    return study


def _run(
    study: optuna.Study,
    trial: optuna.Trial,
    options: SearchSettings,
    fixed: Sequence[str],
    launcher: Launcher,
) -> None:
    """Train a trial with the first seed, then with the others unless it is pruned; store it."""
    values: list[float | None] = []
    pruned = False
    for seeds in (options.seeds[:1], options.seeds[1:]):
        if pruned or not seeds:
            break
        words = [[*fixed, *_words(trial), *_job_words(trial, seed, options)] for seed in seeds]
        number = trial.number * len(options.seeds) + len(values)
        values += [_value(job) for job in launcher.launch(words, number)]
        stored = study.trials[trial.number]  # what ``Pruning`` wrote, perhaps in another process
        pruned = None in values or stored.user_attrs.get("pruned", False)
    if pruned:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, sum(value for value in values if value is not None) / len(values))
    found = " ".join("diverged" if value is None else f"{value:.4g}" for value in values)
    _print(f"Trial {trial.number}: {found}{' pruned' * pruned}  {shlex.join(_words(trial))}")


def _value(job: JobReturn) -> float | None:
    """Return the metric of a job; None if the training diverged or ran out of memory."""
    error = job._return_value if job.status == JobStatus.FAILED else None
    if isinstance(error, NonFiniteLossError | torch.OutOfMemoryError):
        _print(str(error))
        return None
    value = float(job.return_value)  # raises what the job raised
    if math.isnan(value):
        raise SettingsError("A search needs a validation split, and its metric as monitor=val/map.")
    return value


def _words(trial: optuna.Trial | optuna.trial.FrozenTrial) -> list[str]:
    return [f"{key}={value}" for key, value in trial.params.items()]


def _job_words(trial: optuna.Trial, seed: int, options: SearchSettings) -> list[str]:
    """Return the overrides of a job's seed and folder, and of its callback that prunes."""
    words = [f"seed={seed}", f"hydra.sweep.subdir=trial_{trial.number}_seed_{seed}"]
    if options.prune_after is not None and seed == options.seeds[0]:
        callback = {
            "_target_": "rcnn.training.stopping.Pruning",
            "monitor": "${monitor}",
            "storage": f'"{options.storage}"',
            "study": options.study,
            "trial": trial._trial_id,  # the public number is unique in its study only
            "startup_trials": options.prune_after,
        }
        words += [f"+callbacks.pruning.{key}={value}" for key, value in callback.items()]
    return words


def experiment(words: Sequence[str], loader: ConfigLoader) -> str:
    """Return overrides as a YAML file of the group ``experiment``."""
    defaults: list[Any] = []
    tree, comments = OmegaConf.create(), ""
    for override in OverridesParser.create(loader).parse_overrides(list(words)):
        key = override.key_or_group
        is_group = bool(loader.get_group_options(key))
        if override.is_delete() or (is_group and override.value() is None):  # no file can say it
            comments += f"# Give on the command line, too: {override.input_line}\n"
        elif key == "experiment":
            defaults.insert(0, override.value())
        elif is_group:
            prefix = "" if override.is_add() else "override "
            defaults.append({f"{prefix}/{key}": override.value()})
        else:
            for dotted, value in read_overrides([str(override.input_line)]).items():
                OmegaConf.update(tree, dotted, value, force_add=True)
    return comments + OmegaConf.to_yaml(OmegaConf.merge({"defaults": defaults}, tree))


def _print(line: str) -> None:
    Console().print(Text(line), soft_wrap=True)
