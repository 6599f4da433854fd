"""The part of a metric that several processes have to agree on.

Detections lie on the CPU from ``update`` to ``compute``, so that an evaluation takes no memory of
the accelerator. When processes are gathered, two things need care. A process that saw no image
must still send something of the right type and shape, and NCCL carries only CUDA tensors while
gloo is used with the CPU's: the tensors travel on the device that the process group asks for and
come back to where they were.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch import distributed as dist
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors


def transport_device(group: dist.ProcessGroup | None) -> torch.device:
    """Return the device on which tensors have to lie to be sent between these processes."""
    if dist.get_backend(group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def gather(tensor: Tensor, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """Return the tensor of every process, in the order of ranks; their lengths may differ.

    Args:
        tensor: on any device, to which the others are brought too.
        group: the processes to gather from, all by default.
    """
    parts = gather_all_tensors(tensor.to(transport_device(group)), group)
    return [part.to(tensor.device) for part in parts]


class DetectionMetric(Metric):
    """A metric whose state is tables that grow by rows, beside ordinary tensor states."""

    full_state_update = False
    is_differentiable = False
    higher_is_better: bool | None = True

    def __init__(self) -> None:
        super().__init__(dist_sync_fn=gather)
        self._empty_tables: dict[str, Tensor] = {}

    def add_table(self, name: str, dtype: torch.dtype, columns: Sequence[int] = ()) -> None:
        """Add a list state, to which ``update`` appends tensors of shape (rows, *columns)."""
        self.add_state(name, default=[], dist_reduce_fx="cat")
        self._empty_tables[name] = torch.zeros((0, *columns), dtype=dtype)

    def table(self, name: str) -> Shaped[Tensor, "N ..."]:
        """Return all rows so far, on the CPU; after a synchronisation those of every process."""
        state = getattr(self, name)
        parts = [state] if isinstance(state, Tensor) else state
        return torch.cat([self._empty_tables[name], *(part.cpu() for part in parts)])

    def sync(
        self,
        dist_sync_fn: Callable[..., Any] | None = None,
        process_group: Any | None = None,
        should_sync: bool = True,
        distributed_available: Callable[..., Any] | None = None,
    ) -> None:
        """Gather the states of all processes, as ``Metric.sync`` does.

        Each table becomes one tensor first, which has its type and columns even without a row:
        torchmetrics would send an untyped vector for a process that saw no image, and NCCL and
        gloo would then wait for, or misread, each other's bytes.
        """
        for name in self._empty_tables:
            setattr(self, name, [self.table(name)])
        super().sync(dist_sync_fn, process_group, should_sync, distributed_available)
