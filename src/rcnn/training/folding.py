"""The normalisation of the box targets, folded into the weights that learned it."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from rcnn.model.settings import DeltaSettings
from rcnn.training.module import DetectionModule

WEIGHT, BIAS = (f"detector.regions.head.boxes.{name}" for name in ("weight", "bias"))


def fold_deltas(module: DetectionModule) -> DetectionModule:
    """Return a module that detects the same, and whose box head gives deltas as they are.

    With the mean and the deviation of each class in its weights and biases, nothing is left to be
    undone after the head. That is for detecting. To be trained on, a detector needs targets of
    mean 0 and deviation 1, as the module itself has them; its losses are on that scale, too.

    Args:
        module: stays as it is; one that predicts no boxes is returned itself.
    """
    state: dict[str, Tensor] = dict(module.state_dict())
    if WEIGHT not in state:
        return module
    weight, bias = state[WEIGHT], state[BIAS]
    sets = len(bias) // 4  # one for background and each class, or one for all
    tables = module.settings.deltas.tables(len(module.class_names))
    mean, std = (table[-sets:].flatten().to(bias) for table in tables)
    state |= {WEIGHT: weight * std[:, None], BIAS: bias * std + mean}

    plain = DeltaSettings(mean=(0.0, 0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0, 1.0))
    folded = DetectionModule(
        replace(module.settings, deltas=plain),
        system=module.system,
        recipe=module.recipe,
        scheme=module.scheme,
        seed=module.seed,
        plus_one=module.test_scores.voc.plus_one,
        weights=module.weights,
    )
    folded.to(bias).load_state_dict(state)  # on its device, in its precision
    return folded.train(module.training)
