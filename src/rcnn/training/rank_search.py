"""Ranks of fc6 and fc7 for a given time, by what linear layers cost on this machine.

1. The whole layers are timed, and each as a product of two at some ranks between 1 and the rank at
   which the product has as many weights as the layer. Between these the time is taken for a
   straight line: the arithmetic grows with the rank, and reading the inputs comes on top.
2. Of all pairs of ranks (and of whole layers) that stay within the time, the one is chosen that
   loses the least: the shares of the squared singular values that are cut off, summed over both
   layers.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rcnn.ops.svd import lost_energy
from rcnn.settings import SettingsError
from rcnn.training.compression import Ranks, TailSVD, compressible_tail, linear_layers
from rcnn.training.module import DetectionModule
from rcnn.training.stopwatch import Stopwatch

POINTS = 6
"""Ranks at which a layer is timed."""


@dataclass(frozen=True)
class LayerCost:
    """What a linear layer costs, whole and as a product.

    Attributes:
        whole: seconds.
        ranks: at which it was timed, from 1 up.
        seconds: at these ranks.
    """

    whole: float
    ranks: Sequence[int]
    seconds: Sequence[float]

    def table(self) -> Float[Tensor, " r"]:
        """Return the seconds of the whole layer, then those of the ranks 1, 2, ... to the last."""
        wanted = torch.arange(1, self.ranks[-1] + 1).double()
        known, seconds = torch.tensor(self.ranks).double(), torch.tensor(self.seconds).double()
        right = torch.searchsorted(known, wanted).clamp(1)
        weight = (wanted - known[right - 1]) / (known[right] - known[right - 1])
        between = seconds[right - 1].lerp(seconds[right], weight)
        return torch.cat([seconds.new_tensor([self.whole]), between])


def search(module: DetectionModule, factors: TailSVD, rois: int, seconds: float) -> Ranks:
    """Return the ranks that lose the least while fc6 and fc7 stay within a time.

    Args:
        module: whole, on the device to measure.
        factors: of ``module``.
        rois: how many RoIs pass the layers at once.
        seconds: of both layers together.

    Raises:
        SettingsError: the layers are fast enough as they are, or cannot become so fast.
    """
    first, second = linear_layers(compressible_tail(module))
    costs = measure_layer(first, rois), measure_layer(second, rois)
    return ranks_for_seconds(
        (factors.fc6.values, costs[0]), (factors.fc7.values, costs[1]), seconds
    )


def measure_layer(layer: nn.Linear, rois: int, repeats: int = 5) -> LayerCost:
    """Time a layer and its products on random features.

    Args:
        layer: on the device to measure.
        rois: how many RoIs pass it at once.
        repeats: of which the median counts.
    """
    inputs, outputs = layer.in_features, layer.out_features
    features = torch.rand(rois, inputs, device=layer.weight.device)
    equal = max(inputs * outputs // (inputs + outputs), 2)
    ranks = sorted({max(round(equal * point / (POINTS - 1)), 1) for point in range(POINTS)})
    seconds = []
    for rank in ranks:
        first, second = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs)
        product = nn.Sequential(first, second).to(features)
        seconds.append(_time(product, features, repeats))
    return LayerCost(_time(layer, features, repeats), ranks, seconds)


def ranks_for_seconds(
    fc6: tuple[Float[Tensor, " k"], LayerCost],
    fc7: tuple[Float[Tensor, " l"], LayerCost],
    seconds: float,
) -> Ranks:
    """Return the ranks that lose the least within a time; 0 is a whole layer.

    Args:
        fc6: its singular values and what it costs.
        fc7: likewise.
        seconds: of both layers together.

    Raises:
        SettingsError: the layers are fast enough as they are, or cannot become so fast.
    """
    time6, lost6 = fc6[1].table(), _lost(*fc6)
    time7, lost7 = fc7[1].table(), _lost(*fc7)
    asked, whole = f"milliseconds={1000 * seconds:g}", float(time6[0] + time7[0])
    if whole <= seconds:
        raise SettingsError(
            f"{asked} is not possible: fc6 and fc7 take {1000 * whole:.3g} ms on this machine as "
            "they are, and need no compression."
        )
    least = float(time6.min() + time7.min())
    if least > seconds:
        raise SettingsError(
            f"{asked} is not possible: at the lowest ranks fc6 and fc7 take {1000 * least:.3g} ms "
            "on this machine. Ask for more, or for fewer RoIs."
        )
    # For each time of fc7 the best choice that takes no longer; for each choice of fc6 the best
    # of fc7 in the time that remains.
    order = time7.argsort()
    best = lost7[order].cummin(0)
    place = torch.searchsorted(time7[order], seconds - time6, right=True) - 1
    total = torch.where(place >= 0, lost6 + best.values[place.clamp(0)], torch.inf)
    choice = int(total.argmin())
    return choice, int(order[best.indices[place[choice]]])


def _lost(values: Float[Tensor, " k"], cost: LayerCost) -> Float[Tensor, " r"]:
    """Return the lost share of the whole layer, 0, then of each rank of the cost's table."""
    lost = lost_energy(values).cpu()[: cost.ranks[-1] + 1].clone()
    lost[0] = 0.0
    return lost


@torch.no_grad()
def _time(layer: nn.Module, features: Float[Tensor, "R I"], repeats: int) -> float:
    laps = []
    for _ in range(repeats + 2):  # the first two warm up
        watch = Stopwatch("layer", features.device)
        layer(features)
        watch.switch("")
        laps.append(watch.seconds["layer"])
    return statistics.median(laps[2:])
