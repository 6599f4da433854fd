"""Whether figures show what a paper concludes from its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rcnn.report.figures import Figure
from rcnn.report.plan import Claim, Column


@dataclass(frozen=True)
class Judgement:
    """A claim held against figures.

    Attributes:
        holds: None if figures that could decide it are missing.
        more: of the row that is to reach as much.
        less: the greatest of the others.
        missing: the rows without a figure.
        in_spread: the two differ by less than one of them varies over its seeds, where the claim
            says "so many times" with so many times of the other.
    """

    holds: bool | None
    more: float | None
    less: float | None
    missing: tuple[str, ...]
    in_spread: bool


@dataclass(frozen=True)
class Verdict:
    """A claim, judged by the paper's figures and by ours.

    Attributes:
        claim: what is judged.
        column: by which measure.
        setting: of which of several tables, where a sweep holds more than one.
        paper: by the paper's figures.
        ours: by the means over the seeds.
    """

    claim: Claim
    column: Column
    setting: str
    paper: Judgement
    ours: Judgement


def judge(claim: Claim, figures: Mapping[str, Figure]) -> Judgement:
    """Hold a claim against the means of the rows' figures.

    One row that reaches too much is enough against it; for it, all have to be known.

    Args:
        claim: on some of the rows.
        figures: of each row by its label.
    """
    more = figures[claim.more]
    known = [figures[label] for label in claim.less if figures[label].values]
    greatest = max(known, key=lambda figure: figure.mean or 0.0, default=Figure(()))
    missing = tuple(label for label in (claim.more, *claim.less) if not figures[label].values)
    if more.mean is None or greatest.mean is None:
        return Judgement(None, more.mean, greatest.mean, missing, False)
    # A hair's breadth for the rounding of the subtraction.
    wanted = claim.times * greatest.mean
    reaches = more.mean >= wanted - claim.within - 1e-9
    spread = max(more.spread or 0.0, claim.times * (greatest.spread or 0.0))
    return Judgement(
        holds=None if reaches and missing else reaches,
        more=more.mean,
        less=greatest.mean,
        missing=missing,
        in_spread=abs(more.mean - wanted) < spread,
    )
