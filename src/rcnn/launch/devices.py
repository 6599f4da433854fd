"""How many processes a configuration of Lightning's ``Trainer`` asks for."""

from __future__ import annotations

import os
from collections.abc import Sequence

_PROCESS_PER_DEVICE = ("auto", "ddp", "fsdp", "deepspeed", "model_parallel", "modelparallel")
_STARTS_ITS_OWN = ("spawn", "fork", "notebook")


def needs_processes(
    devices: int | str | Sequence[int],
    accelerator: str = "auto",
    strategy: str = "auto",
    num_nodes: int = 1,
) -> int:
    """Return how many processes to start for these arguments of a Lightning ``Trainer``.

    Args:
        devices: a number, a list of indices, or ``"auto"``, ``-1``, ``"0,1"``.
        accelerator: ``"cpu"``, ``"gpu"``, ``"cuda"``, ``"auto"`` ...
        strategy: a name that Lightning knows, or the dotted path of a strategy class.
        num_nodes: machines that take part.

    Returns:
        1 if the present process is enough: for one device, in a process that ``torchrun``, ``srun``
        or :func:`rcnn.launch.run_in_processes` started, and for strategies that have no process for
        each device or start their processes without the command line (``ddp_spawn``).

    Raises:
        ValueError: if ``devices`` cannot be read, or for several nodes without a launcher.
    """
    if _is_launched():
        return 1
    if num_nodes > 1:
        raise ValueError(
            f"num_nodes={num_nodes} needs a launcher that starts this program on every node: "
            f"'srun' in a SLURM job, or 'torchrun --nnodes={num_nodes} --nproc-per-node=<devices>'."
        )
    name = strategy.rpartition(".")[2].lower()
    if not name.startswith(_PROCESS_PER_DEVICE) or any(word in name for word in _STARTS_ITS_OWN):
        return 1
    return max(_count(devices, accelerator), 1)


def _is_launched() -> bool:
    """Return whether something else has started one process for each device already."""
    if "LOCAL_RANK" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        return True
    # In an interactive SLURM shell the number of tasks says nothing about this process.
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return int(os.environ.get("SLURM_NTASKS", "1")) > 1 and not interactive


def _count(devices: int | str | Sequence[int], accelerator: str) -> int:
    if isinstance(devices, str) and "," in devices:
        return len([index for index in devices.split(",") if index.strip()])
    if not isinstance(devices, int | str):
        return len(devices)
    if devices in ("auto", "-1", -1):
        return _all_devices(accelerator)
    try:
        return int(devices)
    except ValueError:
        raise ValueError(
            f"devices={devices!r} is not possible: give a number, a list of indices such as [0,1], "
            "or auto for all."
        ) from None


def _all_devices(accelerator: str) -> int:
    if accelerator not in ("auto", "gpu", "cuda"):
        return 1
    import torch  # the processes import this module, too, and not all of them need torch

    return torch.cuda.device_count()
