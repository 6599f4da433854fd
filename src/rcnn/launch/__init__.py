"""One process for each device, started from inside a program.

Lightning's ``ddp`` starts its other processes by running the command line again. Under a Hydra
multirun the command line stands for all the jobs at once, so every process would run the whole
sweep and make its own folders. Here the program, once it has composed one job, hands the job
to N fresh processes that find their ranks in the environment, as if ``torchrun`` had started them;
Lightning then starts none itself.

Torch's own launchers are not used. ``elastic_launch`` and ``torch.multiprocessing.spawn`` leave the
ranks to be set after the imports of a process, while Lightning reads them during its import; they
report an error as text or as a summary, and leave the processes with a start method that makes
every data loader worker import torch anew.
"""

from rcnn.launch.devices import needs_processes
from rcnn.launch.processes import ProcessFailedError, RemoteError, run_in_processes
from rcnn.launch.start_method import settle_start_method

__all__ = [
    "ProcessFailedError",
    "RemoteError",
    "needs_processes",
    "run_in_processes",
    "settle_start_method",
]
