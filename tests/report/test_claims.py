"""Whether figures show what a paper concludes."""

import pytest

from rcnn.report.claims import judge
from rcnn.report.figures import Figure
from rcnn.report.plan import Claim


def figures(**values: tuple[float, ...]) -> dict[str, Figure]:
    return {label: Figure(each) for label, each in values.items()}


@pytest.mark.parametrize(
    ("within", "a", "b", "holds"),
    [
        (0.0, 70.0, 69.0, True),
        (0.0, 70.0, 70.0, True),
        (0.0, 69.0, 70.0, False),
        (1.0, 69.0, 70.0, True),
        (1.0, 68.9, 69.9, True),  # whose difference is not quite 1 in floating point
        (1.0, 68.8, 69.9, False),
    ],
)
def test_a_row_reaches_another_within_what_is_allowed(
    within: float, a: float, b: float, holds: bool
) -> None:
    claim = Claim("a reaches b", more="a", less=("b",), within=within)
    assert judge(claim, figures(a=(a,), b=(b,))).holds is holds


@pytest.mark.parametrize(("a", "holds"), [(40.0, True), (30.0, True), (29.0, False)])
def test_a_row_reaches_so_many_times_as_much_as_another(a: float, holds: bool) -> None:
    claim = Claim("a takes ten times as long", more="a", less=("b",), times=10.0)
    assert judge(claim, figures(a=(a,), b=(3.0,))).holds is holds


def test_a_factor_widens_the_spread_of_the_row_that_it_multiplies() -> None:
    claim = Claim("a takes ten times as long", more="a", less=("b",), times=10.0)
    found = judge(claim, figures(a=(34.0,), b=(2.5, 3.5)))
    assert (found.holds, found.less, found.in_spread) == (True, 3.0, True)


def test_a_row_is_held_against_the_greatest_of_the_others() -> None:
    claim = Claim("a is best", more="a", less=("b", "c"))
    judgement = judge(claim, figures(a=(70.0,), b=(60.0,), c=(71.0,)))
    assert (judgement.holds, judgement.more, judgement.less) == (False, 70.0, 71.0)


@pytest.mark.parametrize(
    ("given", "holds", "missing"),
    [
        ({"a": (), "b": (1.0,), "c": (2.0,)}, None, ("a",)),
        ({"a": (3.0,), "b": (1.0,), "c": ()}, None, ("c",)),
        ({"a": (0.0,), "b": (1.0,), "c": ()}, False, ("c",)),  # b alone decides it
        ({"a": (3.0,), "b": (), "c": ()}, None, ("b", "c")),
        ({"a": (), "b": (), "c": ()}, None, ("a", "b", "c")),
    ],
)
def test_a_claim_is_open_where_a_missing_row_could_decide_it(
    given: dict[str, tuple[float, ...]], holds: bool | None, missing: tuple[str, ...]
) -> None:
    judgement = judge(Claim("a is best", more="a", less=("b", "c")), figures(**given))
    assert judgement.holds is holds
    assert judgement.missing == missing


def test_means_decide_and_a_difference_within_the_spread_is_told() -> None:
    claim = Claim("a reaches b", more="a", less=("b",))
    close = judge(claim, figures(a=(68.0, 72.0), b=(69.0,)))
    assert (close.holds, close.more, close.in_spread) == (True, 70.0, True)
    apart = judge(claim, figures(a=(69.9, 70.1), b=(69.0,)))
    assert (apart.holds, apart.in_spread) == (True, False)
    assert not judge(claim, figures(a=(70.0,), b=(70.0,))).in_spread
