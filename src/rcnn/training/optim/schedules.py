"""Learning rates as pure functions of the step: the factor by which the highest rate is multiplied.

Steps count from 0: the first optimiser step takes ``factor(0)``.
"""

from __future__ import annotations

import math

from rcnn.settings import SettingsError
from rcnn.training.announcing import announce


def constant(_: int) -> float:
    """Return 1 at every step."""
    return 1.0


def warm_up(step: int, steps: int, factor: float) -> float:
    """Return the factor of a linear rise from ``factor`` at step 0 to 1 at step ``steps``."""
    return 1.0 if step >= steps else factor + (1.0 - factor) * step / steps


def step_decay(
    step: int, *, drops: tuple[int, ...], decay: float, warmup_steps: int, warmup_factor: float
) -> float:
    """Return the factor of a warm-up, multiplied by ``decay`` from each step of ``drops`` on."""
    reached = sum(step >= drop for drop in drops)
    return warm_up(step, warmup_steps, warmup_factor) * math.pow(decay, reached)


def cosine_decay(
    step: int, *, total_steps: int, final: float, warmup_steps: int, warmup_factor: float
) -> float:
    """Return the factor of a warm-up, then half a cosine from 1 down to ``final`` at the end."""
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    half_cosine = 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return warm_up(step, warmup_steps, warmup_factor) * (final + (1.0 - final) * half_cosine)


def run_length(total_steps: int | float, key: str) -> int:
    """Return the run's number of steps, at least 1, for a schedule that is spread over it.

    Args:
        total_steps: infinite or negative for a run without end, as Lightning estimates it.
        key: of the setting that needs to know, for the message.

    Raises:
        SettingsError: if the run has no end.
    """
    if math.isinf(total_steps) or total_steps < 0:
        raise SettingsError(
            f"{key} spreads the learning rate over the run, but the run has no end: "
            "set trainer.max_epochs or trainer.max_steps."
        )
    return max(int(total_steps), 1)


def shortened_warm_up(steps: int, total_steps: int | float) -> int:
    """Return the steps of warm-up: at most half of the run, so that the full rate is reached."""
    if total_steps < 0 or 2 * steps <= total_steps:
        return steps
    half = int(total_steps) // 2
    announce(f"Warm-up of {steps} steps cut to {half}, half of the run")
    return half
