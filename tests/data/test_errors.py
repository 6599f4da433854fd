"""The policies on faults, and the log of what was made of them."""

import pickle
from collections.abc import Callable

import jaxtyping
import pytest

from rcnn.data.errors import KEPT, DataError, DataWarning, OnError, Problems
from rcnn.settings import SettingsError


def fault(number: int = 1, reason: str = "bad box") -> DataError:
    return DataError.about(
        reason, where=f"a.xml, object {number}", found="xmin=9", allowed="Less than 5"
    )


def settle(problems: Problems) -> None:
    problems.settle("box over the border", where="a.xml, object 1", found="xmax=9", made="clipped")


def leave_out(problems: Problems) -> None:
    problems.leave_out(fault(), "its image is left out")


def note(problems: Problems) -> None:
    problems.note("class not selected", where="a.xml, object 1", found="'cat'", made="left out")


def test_message_names_file_value_and_rule() -> None:
    assert str(fault()) == "a.xml, object 1: bad box: xmin=9. Less than 5."


@pytest.mark.parametrize(
    ("act", "policy", "remedy"),
    [
        (settle, "raise", r"data\.on_error=repair: clipped"),
        (leave_out, "raise", r"data\.on_error=skip: its image is left out"),
        (leave_out, "repair", r"data\.on_error=skip: its image is left out"),
    ],
)
def test_what_the_policy_refuses_is_an_error_that_says_what_another_makes_of_it(
    act: Callable[[Problems], None], policy: OnError, remedy: str
) -> None:
    problems = Problems(policy)
    with pytest.raises(DataError, match=rf"a\.xml, object 1.*{remedy}\.$") as raised:
        act(problems)
    with pytest.raises(DataError) as again:  # as from a catch around the file
        problems.leave_out(raised.value, "something else")
    assert again.value is raised.value


@pytest.mark.parametrize(
    ("act", "policy", "outcome"),
    [
        (settle, "repair", "repaired"),
        (settle, "skip", "repaired"),
        (leave_out, "skip", "left out"),
        (note, "raise", "noted"),
        (note, "repair", "noted"),
    ],
)
def test_what_the_policy_takes_is_counted_with_what_was_found_and_made(
    act: Callable[[Problems], None], policy: OnError, outcome: str
) -> None:
    problems = Problems(policy)
    act(problems)
    act(problems)
    (row,) = problems.summary(examples=1)
    assert (row["outcome"], row["count"]) == (outcome, 2)
    (case,) = row["cases"]
    assert case["where"] == "a.xml, object 1"
    assert case["made"] in ("clipped", "its image is left out", "left out")
    assert problems.counts.total() == (0 if outcome == "noted" else 2)


def test_one_warning_has_each_kind_with_its_number_and_first_case() -> None:
    problems = Problems("skip")
    for number in range(5):
        problems.leave_out(fault(number), "gone")
    settle(problems)
    with pytest.warns(DataWarning) as caught:
        problems.warn("the set")
    assert len(caught) == 1
    lines = [line.strip() for line in str(caught[0].message).splitlines()]
    assert lines == [
        "the set (data.on_error=skip):",
        "5 x bad box (left out)",
        "a.xml, object 0: xmin=9: gone",
        "and 4 more",
        "1 x box over the border (repaired)",
        "a.xml, object 1: xmax=9: clipped",
    ]


def test_nothing_is_said_when_nothing_was_found() -> None:
    Problems("skip").warn("the set")
    assert Problems().summary() == []


def test_many_cases_are_all_counted_and_the_first_kept_when_logs_are_joined() -> None:
    one, both = Problems(), Problems()
    for _ in range(KEPT + 5):
        note(one)
    both.include(one)
    both.include(one)
    (kind,) = both.kinds.values()
    assert (kind.count, len(kind.cases)) == (2 * (KEPT + 5), KEPT)


def test_unknown_policy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no type checks
    with pytest.raises(SettingsError, match="on_error='ignore'"):
        Problems("ignore")  # type: ignore[arg-type]


def test_any_exception_becomes_a_data_error_with_file_and_entry() -> None:
    error = DataError.of(OverflowError("too large"), "a.xml, object 3")
    assert "a.xml, object 3" in str(error)
    assert "OverflowError: too large" in str(error)
    assert DataError.of(error, "elsewhere") is error


def test_error_keeps_message_and_reason_on_the_way_out_of_a_worker() -> None:
    error = pickle.loads(pickle.dumps(fault()))
    assert (str(error), error.reason, error.where) == (str(fault()), "bad box", "a.xml, object 1")
