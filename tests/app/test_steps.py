"""How the steps of a run share its length."""

import pytest

from rcnn.app.steps import share_out


@pytest.mark.parametrize(
    ("total", "shares", "steps"),
    [
        (450, (0.2, 0.5, 0.15, 0.15), (90, 225, 67, 68)),  # 67.5 each: rounded alone, one too many
        (3504, (0.2, 0.5, 0.15, 0.15), (701, 1752, 525, 526)),
        (7, (0.5, 0.5), (4, 3)),
        (450, (1.0, 1.0), (450, 450)),
    ],
)
def test_steps_take_their_shares_of_the_run_and_together_its_length(
    total: int, shares: tuple[float, ...], steps: tuple[int, ...]
) -> None:
    assert share_out(total, shares) == steps


def test_every_step_takes_one_at_least() -> None:
    assert share_out(2, (0.2, 0.5, 0.15, 0.15)) == (1, 1, 1, 1)


@pytest.mark.parametrize("total", range(20, 700, 7))
def test_no_step_of_a_run_is_lost_or_added(total: int) -> None:
    assert sum(share_out(total, (0.2, 0.5, 0.15, 0.15))) == total
