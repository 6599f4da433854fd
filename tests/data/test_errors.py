"""The log of faults and its two ways to react."""

import pickle

import jaxtyping
import pytest

from rcnn.data.errors import DataError, DataWarning, Problems
from rcnn.settings import SettingsError


def fault(number: int = 1, reason: str = "bad box") -> DataError:
    return DataError.about(
        reason, where=f"a.xml, object {number}", found="xmin=9", allowed="Less than 5"
    )


def test_message_names_place_value_and_rule() -> None:
    assert str(fault()) == "a.xml, object 1: bad box: xmin=9. Less than 5."


def test_raising_log_stops_at_the_first_fault_and_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"a\.xml, object 1.*data\.on_error=skip"):
        Problems("raise").add(fault())


def test_skipping_log_counts_by_reason_and_keeps_every_message() -> None:
    problems = Problems("skip")
    for number in range(3):
        problems.add(fault(number))
    problems.add(fault(9, "missing image"))
    assert problems.counts == {"bad box": 3, "missing image": 1}
    assert [message.split(":")[0] for message in problems.messages] == [
        "a.xml, object 0",
        "a.xml, object 1",
        "a.xml, object 2",
        "a.xml, object 9",
    ]


def test_one_warning_sums_up_with_counts_and_first_examples() -> None:
    problems = Problems("skip")
    for number in range(5):
        problems.add(fault(number))
    with pytest.warns(DataWarning) as caught:
        problems.warn("the set")
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "the set: left out 5 x bad box" in text
    assert "object 2" in text
    assert "object 3" not in text


def test_nothing_is_said_when_nothing_was_left_out() -> None:
    Problems("skip").warn("the set")


def test_unknown_reaction_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no type checks
    with pytest.raises(SettingsError, match="on_error='ignore'"):
        Problems("ignore")  # type: ignore[arg-type]


def test_error_keeps_message_and_reason_on_the_way_out_of_a_worker() -> None:
    error = pickle.loads(pickle.dumps(fault()))
    assert (str(error), error.reason) == (str(fault()), "bad box")
