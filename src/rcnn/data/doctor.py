"""What is wrong with a data set, or will be for a two-stage detector, before it is trained on.

Every image is read once (``survey``); the checks are functions of what was read. A check has an id
that does not change, by which scripts and people refer to it.

Letters: I images of a split, N objects of a split.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rcnn.data.anchor_fit import AnchorFit, AnchorProposal, Objects, anchor_fit, propose_anchors
from rcnn.data.dataset import DetectionDataset
from rcnn.data.errors import Outcome
from rcnn.data.survey import Survey, similar_pairs, survey
from rcnn.model.settings import DetectorSettings
from rcnn.ops.boxes import scale
from rcnn.ops.images import resized_size

Severity = Literal["error", "warning", "info"]

FEW_OBJECTS = 20
"""A class with fewer training objects than this can hardly be learned."""

IMBALANCE = 50
"""Ratio of the commonest class to the rarest from which on it is mentioned."""

TINY = 3.0
"""Side in pixels at training size under which nothing is left of an object."""

EXTREME = 10.0
"""Ratio of the sides from which on a box is a line."""


OUTCOMES: dict[Outcome, Severity] = {"left out": "error", "repaired": "warning", "noted": "info"}
"""How grave it is what a reader made of a fault."""

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        check: id of the check, such as ``identical-in-two-splits``.
        severity: ``error``: the result of a training would be wrong or worthless; ``warning``: it
            will be worse than it could be; ``info``: worth knowing.
        message: sentence with the figures and what to do.
        files: images concerned, by split and id.
    """

    check: str
    severity: Severity
    message: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statistics:
    """What there is in a split.

    Attributes:
        images: number of images.
        objects: number of objects of each class, those of classes without any object too.
        difficult: number of objects marked so.
        crowd: number of regions that hold many objects, or are ignored.
        box_sizes: square roots of box areas in pixels, at ``QUANTILES``; empty without objects.
        box_shapes: heights over widths, at ``QUANTILES``.
        objects_per_image: numbers of objects, at ``QUANTILES``.
    """

    images: int
    objects: dict[str, int]
    difficult: int
    crowd: int
    box_sizes: tuple[float, ...]
    box_shapes: tuple[float, ...]
    objects_per_image: tuple[float, ...]


@dataclass(frozen=True)
class Diagnosis:
    """The report on the splits of a data set.

    Attributes:
        class_names: names of the labels 1..K.
        surveys: what was read, by split.
        statistics: what there is, by split.
        findings: what the checks found, the gravest first.
        fit: how well the detector's anchors fit the training objects; None without objects.
        anchors: anchors that fit better; None where there are none.
    """

    class_names: tuple[str, ...]
    surveys: Mapping[str, Survey]
    statistics: Mapping[str, Statistics]
    findings: tuple[Finding, ...]
    fit: AnchorFit | None = None
    anchors: AnchorProposal | None = None

    @property
    def exit_status(self) -> int:
        """0 for sound data, 1 if there are only warnings, 2 if there is an error."""
        severities = {finding.severity for finding in self.findings}
        return 2 if "error" in severities else int("warning" in severities)


def diagnose(
    splits: Mapping[str, DetectionDataset],
    settings: DetectorSettings | None = None,
    strides: Sequence[int] = (16,),
    threads: int = 4,
) -> Diagnosis:
    """Read all images of a data set and check them, their objects and the anchors of a detector.

    Args:
        splits: data sets by the names of their splits; the first is the one that is trained on.
        settings: detector that is to be trained; by default the papers'.
        strides: pixels per cell, for each level of its backbone; none for a detector that has no
            anchors.
        threads: number of threads that decode.
    """
    surveys = {name: survey(name, dataset, threads) for name, dataset in splits.items()}
    first = next(iter(surveys.values()))
    names = first.dataset.class_names
    settings = settings or DetectorSettings(names)
    objects = training_objects(first, settings)
    findings = [
        *(finding for one in surveys.values() for finding in _check_split(one)),
        *_check_classes(first),
        *_check_repetitions(list(surveys.values())),
        *_check_sizes(first, objects),
    ]
    fit = anchor_fit(objects, settings, strides) if strides else None
    proposal = propose_anchors(objects, settings, strides) if strides else None
    if fit is not None:
        findings.extend(_check_anchors(fit, proposal, names))
    order: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}
    findings.sort(key=lambda finding: order[finding.severity])
    statistics = {name: _statistics(one) for name, one in surveys.items()}
    return Diagnosis(names, surveys, statistics, tuple(findings), fit, proposal)


def _statistics(split: Survey) -> Statistics:
    crowd = torch.cat([split.dataset.ground_truth(i).crowd for i in range(len(split.dataset))])
    sides = split.boxes[~crowd, 2:] - split.boxes[~crowd, :2]
    labels = Counter(split.labels[~crowd].tolist())
    counts = torch.bincount(split.images[~crowd], minlength=len(split.dataset))
    return Statistics(
        images=len(split.dataset),
        objects={n: labels[k] for k, n in enumerate(split.dataset.class_names, start=1)},
        difficult=int((split.ignored & ~crowd).sum()),
        crowd=int(crowd.sum()),
        box_sizes=_quantiles(sides.prod(1).sqrt()),
        box_shapes=_quantiles(sides[:, 1] / sides[:, 0]),
        objects_per_image=_quantiles(counts.float()),
    )


def _quantiles(values: Float[Tensor, " N"]) -> tuple[float, ...]:
    if len(values) == 0:
        return ()
    # Not torch.quantile, which refuses more than 16 million values.
    ranks = [round(fraction * (len(values) - 1)) for fraction in QUANTILES]
    return tuple(values.sort().values[ranks].tolist())


def training_objects(split: Survey, settings: DetectorSettings) -> Objects:
    """Return the objects to be detected, at the size at which they are trained on."""
    sizes = split.dataset.sizes.tolist()
    limits = settings.images.shorter_side, settings.images.longer_side
    resized = torch.tensor([resized_size((h, w), *limits) for h, w in sizes])
    factors = resized / torch.tensor(sizes)
    images = split.images[~split.ignored]
    return Objects(
        scale(split.boxes[~split.ignored][:, None], factors[images])[:, 0],
        split.labels[~split.ignored],
        resized[images],
        factors[images].amax(1),
    )


# --- checks -----------------------------------------------------------------------------------


def _check_split(split: Survey) -> Iterator[Finding]:
    """Find images and entries that cannot be read, empty images, and boxes drawn twice."""
    for kind in split.dataset.problems.kinds.values():
        severity = OUTCOMES[kind.outcome]
        first = kind.cases[0]
        message = (
            f"{split.split}: {kind.count} x {kind.kind}: {first.where}: {first.found}: {first.made}"
        )
        files = tuple(f"{case.where}: {case.found}: {case.made}" for case in kind.cases)
        yield Finding(f"{kind.outcome}-{kind.kind}".replace(" ", "-"), severity, message, files)
    if split.faults:
        files = tuple(split.name(index) for index in split.faults)
        message = f"{len(files)} images cannot be decoded: {next(iter(split.faults.values()))}"
        yield Finding("unreadable-image", "error", message, files)
    empty = np.flatnonzero(np.bincount(split.images, minlength=len(split.dataset)) == 0)
    if len(empty):
        message = f"{len(empty)} of {len(split.dataset)} images of {split.split} have no object."
        yield Finding("empty-images", "info", message, tuple(map(split.name, empty.tolist())))
    for check, columns, what in (
        ("identical-boxes", (split.images, split.labels), "of one class are drawn twice"),
        ("box-of-two-classes", (split.images,), "belong to two classes"),
    ):
        keys = torch.cat([*(column[:, None].float() for column in columns), split.boxes], dim=1)
        _, index, counts = keys.unique(dim=0, return_inverse=True, return_counts=True)
        repeated = counts[index] > 1
        if check == "box-of-two-classes":  # the same box of the same class is the other check's
            same = torch.cat([split.images[:, None], split.labels[:, None], split.boxes], dim=1)
            _, of_class, per_class = same.unique(dim=0, return_inverse=True, return_counts=True)
            repeated &= per_class[of_class] < counts[index]
        if repeated.any():
            files = _names(split, repeated)
            message = f"{int(repeated.sum())} identical boxes {what}. Delete all but one of each."
            yield Finding(check, "warning", message, files)


def _check_classes(split: Survey) -> Iterator[Finding]:
    """Find names that are probably mistakes, and classes with too few objects."""
    names = split.dataset.class_names
    by_spelling = defaultdict(list)
    for name in names:
        by_spelling[" ".join(name.split()).casefold().replace("_", " ")].append(name)
    alike = [repr(name) for group in by_spelling.values() if len(group) > 1 for name in group]
    if alike:
        message = f"These class names are probably one: {', '.join(alike)}. Write them alike."
        yield Finding("alike-class-names", "warning", message)
    background = [name for name in names if name.strip("_ ").casefold() in ("background", "bg")]
    if background:
        message = f"The class {background[0]!r} is no object: leave it out of the class names."
        yield Finding("background-class", "warning", message)
    labels = Counter(split.labels[~split.ignored].tolist())
    counts = {name: labels[label] for label, name in enumerate(names, start=1)}
    few = {name: count for name, count in counts.items() if count < FEW_OBJECTS}
    if few:
        listed = ", ".join(f"{name} {count}" for name, count in few.items())
        message = f"Classes with fewer than {FEW_OBJECTS} objects in {split.split}: {listed}."
        yield Finding("few-objects", "warning", message)
    most, least = max(counts.values()), min(count for count in counts.values())
    if most > IMBALANCE * max(least, 1):
        message = f"The commonest class has {most} objects, the rarest {least}."
        yield Finding("class-imbalance", "warning", message)


def _check_repetitions(splits: Sequence[Survey]) -> Iterator[Finding]:
    """Find the same picture in two splits or twice in one, pixel by pixel and nearly."""
    places = [(split, index) for split in splits for index in range(len(split.dataset))]
    of_digest = defaultdict(list)
    for split, index in places:
        if split.digests[index]:
            of_digest[split.digests[index]].append((split, index))
    identical = [group for group in of_digest.values() if len(group) > 1]
    leaked = [group for group in identical if len({split.split for split, _ in group}) > 1]
    if leaked:
        message = (
            f"{len(leaked)} pictures are in more than one split, pixel by pixel: the test would "
            "measure what was learned by heart. Delete them from one."
        )
        yield Finding("identical-in-two-splits", "error", message, _members(leaked))
    twice = [group for group in identical if len({split.split for split, _ in group}) == 1]
    if twice:
        message = f"{len(twice)} pictures are twice or more in one split. Delete all but one."
        yield Finding("identical-images", "warning", message, _members(twice))

    thumbnails = np.concatenate([split.thumbnails for split in splits])
    pairs = [[places[a], places[b]] for a, b in similar_pairs(thumbnails)]
    pairs = [[a, b] for a, b in pairs if a[0].digests[a[1]] != b[0].digests[b[1]]]
    across = [pair for pair in pairs if pair[0][0].split != pair[1][0].split]
    if across:
        message = (
            f"{len(across)} pairs of pictures in different splits are nearly the same (another "
            "compression, size or moment of a film): keep each scene in one split."
        )
        yield Finding("similar-in-two-splits", "warning", message, _members(across))
    if len(pairs) > len(across):
        within = [pair for pair in pairs if pair[0][0].split == pair[1][0].split]
        message = f"{len(within)} pairs of pictures in one split are nearly the same."
        yield Finding("similar-images", "info", message, _members(within))


def _check_sizes(split: Survey, objects: Objects) -> Iterator[Finding]:
    """Find objects that vanish when the image is resized, cover all of it, or are lines."""
    sides = objects.sides
    shorter, longer = sides.amin(1), sides.amax(1)
    covered = sides.prod(1) / objects.sizes.prod(1)
    kinds: list[tuple[str, Severity, Tensor, str]] = [
        (
            "tiny-objects",
            "warning",
            shorter < TINY,
            f"a side under {TINY:g} pixels at training size: enlarge images.shorter_side",
        ),
        ("huge-objects", "info", covered > 0.95, "over 95 % of their image"),
        (
            "extreme-shapes",
            "warning",
            longer > EXTREME * shorter,
            f"one side over {EXTREME:g} times the other: anchors.ratios have to reach them",
        ),
    ]
    wanted = torch.nonzero(~split.ignored)[:, 0]
    for check, severity, flags, what in kinds:
        if flags.any():
            marked = torch.zeros_like(split.ignored)
            marked[wanted[flags]] = True
            message = f"{int(flags.sum())} of {len(objects)} objects have {what}."
            yield Finding(check, severity, message, _names(split, marked))


def _check_anchors(
    fit: AnchorFit, proposal: AnchorProposal | None, names: Sequence[str]
) -> Iterator[Finding]:
    """Find objects that the anchors, the smallest proposal or the stride put out of reach."""
    worst = min(fit.reached_by_class, key=lambda label: fit.reached_by_class[label])
    message = (
        f"The anchors reach {fit.reached:.1%} of the objects (best IoU as for a positive anchor); "
        f"{fit.only_best:.1%} have only a best anchor below that, {fit.beyond:.1%} are beyond "
        f"reach. The worst class is {names[worst - 1]}, {fit.reached_by_class[worst]:.1%}."
    )
    if proposal is not None:
        message += (
            f" {proposal.overrides} reaches {proposal.after:.1%} instead of {proposal.before:.1%} "
            "(mean of the classes)."
        )
    poor = fit.beyond > 0.05 or (proposal is not None and proposal.after > proposal.before + 0.1)
    yield Finding("anchor-reach", "warning" if poor else "info", message)
    for check, share, what in (
        (
            "lost-to-border",
            fit.lost_to_border,
            "only anchors that cross the border of the image would reach: "
            "thresholds.rpn_skip_border_anchors=false keeps those",
        ),
        (
            "below-min-size",
            fit.lost_to_min_size,
            "are smaller than the smallest proposal: lower thresholds.proposal_min_size",
        ),
        (
            "below-one-cell",
            fit.below_cell,
            "are smaller than a cell of the finest feature map: enlarge images.shorter_side, or "
            "use a feature pyramid",
        ),
    ):
        if share > 0:
            severity: Severity = "warning" if share >= 0.02 else "info"
            message = f"{share:.1%} of the objects {what}."
            yield Finding(check, severity, message)


def _names(split: Survey, marked: Bool[Tensor, " N"]) -> tuple[str, ...]:
    """Return the names of the images of the marked objects, each once."""
    return tuple(map(split.name, split.images[marked].unique().tolist()))


def _members(groups: Sequence[Sequence[tuple[Survey, int]]]) -> tuple[str, ...]:
    return tuple(" = ".join(split.name(index) for split, index in group) for group in groups)
