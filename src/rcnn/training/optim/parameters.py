"""The parameters that are learned, sorted by how they are learned."""

from __future__ import annotations

from torch import nn

NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm2d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


def parameter_groups(module: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Sort the parameters that require gradients into ``weights``, ``biases`` and ``norms``.

    Scales and shifts of normalisation layers are ``norms``; a parameter whose name ends in ``bias``
    elsewhere is one of the ``biases``. Empty groups are left out; a shared parameter counts once.

    Raises:
        ValueError: if every parameter is frozen.
    """
    groups: dict[str, list[nn.Parameter]] = {"weights": [], "biases": [], "norms": []}
    seen: set[nn.Parameter] = set()
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            other = "biases" if name.endswith("bias") else "weights"
            groups["norms" if isinstance(part, NORMS) else other].append(parameter)
    if not seen:
        raise ValueError(
            f"{type(module).__name__} has nothing to learn: none of its parameters requires "
            "gradients. Freeze less of it."
        )
    return {name: parameters for name, parameters in groups.items() if parameters}


def can_fuse(module: nn.Module) -> bool:
    """Return whether PyTorch's fused kernels can update what ``module`` learns.

    They update all parameters in one pass over the memory, on a GPU and on a CPU.
    """
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in learned)
