"""A linear layer as the product of two thinner ones: truncated SVD (Fast R-CNN, section 3.1).

Letters: O outputs and I inputs of a layer, k = min(O, I), r rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rcnn.settings import require

ROUNDING = 1e-12
"""By how much a share may miss another one that it equals."""


@dataclass(frozen=True)
class SingularValues:
    """A matrix taken apart once, to be truncated at any rank.

    Attributes:
        weight: the matrix itself.
        values: singular values, largest first.
        vectors: the singular vectors of the shorter side, as columns in the order of the values.
    """

    weight: Float[Tensor, "O I"]
    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "k k"]

    def truncated(self, rank: int) -> tuple[Float[Tensor, "r I"], Float[Tensor, "O r"]]:
        """Return the two factors of the best approximation that has this rank.

        ``second @ first`` is ``U diag(s) V^T`` with the largest values alone. As in the paper the
        diagonal is part of the first factor, if there are not more outputs than inputs.

        Args:
            rank: 1 to k.

        Raises:
            SettingsError: the matrix has no such rank.
        """
        largest = len(self.values)
        require(1 <= rank <= largest, "rank", rank, f"this matrix has ranks from 1 to {largest}")
        weight, vectors = self.weight.to(self.vectors.dtype), self.vectors[:, :rank]
        # diag(s) V^T = U^T W, and U diag(s) = W V: nothing is divided by small values.
        wide = weight.shape[0] <= weight.shape[1]
        first, second = (vectors.T @ weight, vectors) if wide else (vectors.T, weight @ vectors)
        return first.to(self.weight.dtype), second.to(self.weight.dtype)


def decompose(weight: Float[Tensor, "O I"]) -> SingularValues:
    """Find the singular values of a matrix and the vectors of its shorter side.

    They come from the eigenvalues of the smaller product of the matrix with its transpose, which
    for a matrix like fc6 of VGG-16 takes a sixth of the time of a general routine. The product
    squares the values; in double precision those stay exact that single precision can tell from
    zero.
    """
    exact = weight.detach().double()
    wide = exact.shape[0] <= exact.shape[1]
    eigenvalues, vectors = torch.linalg.eigh(exact @ exact.T if wide else exact.T @ exact)
    values = eigenvalues.flip(0).clamp(min=0).sqrt()
    return SingularValues(weight.detach(), values, vectors.flip(1))


def truncated_svd(
    weight: Float[Tensor, "O I"], rank: int
) -> tuple[Float[Tensor, "r I"], Float[Tensor, "O r"]]:
    """Return the factors of ``weight`` at a rank; see :meth:`SingularValues.truncated`."""
    return decompose(weight).truncated(rank)


def rank_for_energy(values: Float[Tensor, " k"], share: float) -> int:
    """Return the smallest rank that keeps a share of the sum of the squared singular values.

    Args:
        values: largest first.
        share: above 0, at most 1.

    Raises:
        SettingsError: the share is out of range.
    """
    require(0 < share <= 1, "energy", share, "a share above 0, at most 1")
    too_much = lost_energy(values) > 1 - share + ROUNDING
    return int(too_much.sum().clamp(min=1))


def lost_energy(values: Float[Tensor, " k"]) -> Float[Tensor, " k1"]:
    """Return the share of the squared singular values that is lost at the ranks 0 to k."""
    squares = values.double().square()
    # From the smallest up, so that what is left at high ranks is no difference of large sums.
    lost = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
    return lost / lost[0].clamp(min=torch.finfo(lost.dtype).tiny)


def weight_count(inputs: int, outputs: int, rank: int = 0) -> int:
    """Return the number of weights, without biases, of a layer at a rank; 0: of the whole layer."""
    return rank * (inputs + outputs) if rank else inputs * outputs
