"""The sweeper ``hydra/sweeper=optuna``; the search itself is in ``rcnn.app.search``.

Hydra takes plugins from the namespace package ``hydra_plugins`` alone, and imports all of them in
every program that uses Hydra: this file imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class OptunaSweeper(Sweeper):
    """Searches the values of a command line.

    Args:
        params: values to search beside those of the command line.
        options: keys of ``rcnn.app.search.SearchSettings``, which checks them.
    """

    def __init__(self, params: Mapping[str, str] | None, **options: Any) -> None:
        self.params = params or {}
        self.options = options

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what the jobs need."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> float:
        """Return the best value that was found."""
        from rcnn.settings import SettingsError, from_plain

        try:
            from rcnn.app.search import SearchSettings, search
        except ModuleNotFoundError as error:
            message = "hydra/sweeper=optuna needs Optuna 4 or later: pip install 'rcnn[tune]'"
            raise SettingsError(f"{message} ({error}).") from None
        assert self.config
        assert self.launcher
        assert self.hydra_context
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        return search(
            from_plain(SearchSettings, self.options, "hydra.sweeper"),
            [*(f"{key}={value}" for key, value in self.params.items()), *arguments],
            folder,
            self.launcher,
            self.hydra_context.config_loader,
        )
