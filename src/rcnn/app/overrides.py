"""What was said on the command line of a run, or by its sweep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser


def said_to_hydra() -> dict[str, Any]:
    """Return the overrides of the present job; none outside of Hydra."""
    return read_overrides(HydraConfig.get().overrides.task) if HydraConfig.initialized() else {}


def read_overrides(words: Iterable[str]) -> dict[str, Any]:
    """Return the value of each dotted key, and the choice of each group; a deleted one is None.

    Args:
        words: such as ``thresholds.proposal_score=0.1``, ``backbone=vgg16``, ``~logger``.
    """
    found: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(words)):
        _collect(override.key_or_group, override.value(), found)
    return found


def _collect(key: str, value: Any, found: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _collect(f"{key}.{name}", inner, found)
    else:
        found[key] = value
