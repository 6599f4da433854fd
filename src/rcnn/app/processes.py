"""One process for each device, started by torch's elastic launcher from inside a program.

Lightning's ``ddp`` starts its other processes by running the command line again. Under a Hydra
multirun the command line means all the jobs at once, so every process would run the whole sweep and
make its own folders. Here the program composes one job and starts fresh processes for it, as
``torchrun`` would; Lightning finds their ranks in the environment and starts none itself.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from rcnn.settings import SettingsError

T = TypeVar("T")

JOB, RESULT, LOCALHOST = "job.pickle", "result.pickle", "127.0.0.1"


class ProcessFailedError(RuntimeError):
    """A process ended without a result, or its own error could not be rebuilt here."""


class RemoteError(Exception):
    """Traceback of an error in another process, as text; the cause of the re-raised error."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def needs_processes(trainer: Mapping[str, Any]) -> int:
    """Return how many processes to start for these arguments of a Lightning ``Trainer``.

    Args:
        trainer: its ``devices``, ``accelerator``, ``strategy`` and ``num_nodes``, if given.

    Returns:
        1 if the present process is enough: for one device, in a process that ``torchrun``, ``srun``
        or ``run_in_processes`` started, and for strategies that have no process for each device
        or start their processes without the command line (``ddp_spawn``).

    Raises:
        SettingsError: ``devices`` cannot be read, or there are several nodes and no launcher.
    """
    if "LOCAL_RANK" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        return 1
    # In an interactive SLURM shell the number of tasks says nothing about this process.
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and not interactive:
        return 1
    nodes = trainer.get("num_nodes", 1)
    if nodes > 1:
        raise SettingsError(
            f"trainer.num_nodes={nodes} needs a launcher that starts this program on every node: "
            f"'srun' in a SLURM job, or 'torchrun --nnodes={nodes} --nproc-per-node=<devices>'."
        )
    strategy = str(trainer.get("strategy", "auto")).rpartition(".")[2].lower()
    one_each = ("auto", "ddp", "fsdp", "deepspeed", "model_parallel", "modelparallel")
    if not strategy.startswith(one_each) or any(k in strategy for k in ("spawn", "fork", "noteb")):
        return 1
    return max(_count(trainer.get("devices", "auto"), trainer.get("accelerator", "auto")), 1)


def _count(devices: Any, accelerator: str) -> int:
    if devices in ("auto", "-1", -1):
        if accelerator not in ("auto", "gpu", "cuda"):
            return 1
        import torch  # every process imports this module before it knows whether it needs torch

        return torch.cuda.device_count()
    if isinstance(devices, str) and "," in devices:
        devices = [index for index in devices.split(",") if index.strip()]
    if isinstance(devices, list | tuple):
        return len(devices)
    try:
        return int(devices)
    except ValueError:
        raise SettingsError(
            f"trainer.devices={devices!r} is not possible: give a number, a list of indices such "
            "as [0,1], or auto for all."
        ) from None


def settle_start_method() -> None:
    """Let this process start data loader workers in Python's own way.

    joblib's processes have joblib's way, in which no worker of a data loader can be started.
    """
    own = multiprocessing.get_all_start_methods()
    if multiprocessing.get_start_method() not in own:
        multiprocessing.set_start_method(own[0], force=True)  # the first is the platform's default


def run_in_processes(
    function: Callable[..., T], arguments: tuple[object, ...], processes: int
) -> T:
    """Run ``function(*arguments)`` in fresh processes and return what rank 0 returns.

    The processes find ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``
    in their environment before their first import. Rank 0 writes to this terminal; the standard
    output and the warnings of the others are dropped. The processors are shared out unless
    ``OMP_NUM_THREADS`` is set. No process outlives the call, whether one of them fails or this
    process is interrupted, terminated or killed.

    Args:
        function: function at the top level of a module other than ``__main__``.
        arguments: picklable arguments.
        processes: number of processes.

    Raises:
        TypeError: the job cannot be pickled.
        ProcessFailedError: a process ended without a word (killed, out of memory, ``exit``).
        Exception: the first error of a process, of its own type, with the rank as a note and that
            process's traceback as its cause.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    try:
        job = pickle.dumps((sys.path, pickle.dumps((function, arguments))))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"{function!r} cannot be sent to another process with its arguments: {error}. "
            "The function must be at the top level of a module and its arguments picklable."
        ) from error
    with tempfile.TemporaryDirectory(prefix="rcnn_") as name, _launcher_contained():
        folder = Path(name)
        (folder / JOB).write_bytes(job)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=f"{LOCALHOST}:0",
            local_addr=LOCALHOST,
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=name),
        )
        # A command, not a function: its environment is complete before Lightning's import reads it.
        worker = elastic_launch(config, sys.executable)
        try:
            worker("-m", "rcnn.app.processes", name, str(os.getpid()))
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            _raise(folder, rank, processes, f"exit code {failure.exitcode}")
        except SignalException as stop:
            if stop.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + int(stop.sigval)) from None
        if not (folder / RESULT).is_file():
            _raise(folder, 0, processes, "exit code 0")
        result: T = pickle.loads((folder / RESULT).read_bytes())
    return result


@contextlib.contextmanager
def _launcher_contained() -> Iterator[None]:
    """Put back what the launcher changes in this process, and leave the messages to its errors."""
    log, variable = logging.getLogger("torch.distributed.elastic"), "TORCHELASTIC_SIGNALS_TO_HANDLE"
    level, signals = log.level, os.environ.get(variable)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in numbers}
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
        os.environ.pop(variable, None)
        if signals is not None:
            os.environ[variable] = signals
        if threading.current_thread() is threading.main_thread():  # elsewhere it set none
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _raise(folder: Path, rank: int, processes: int, end: str) -> NoReturn:
    """Raise the earliest error that a process has recorded, else that ``rank`` ended without."""
    records = [pickle.loads(path.read_bytes()) for path in folder.glob("*.error")]
    if not records:
        raise ProcessFailedError(
            f"The process of rank {rank} of {processes} ended without a result ({end}). A negative "
            "exit code is the signal that killed it (-9: usually out of memory)."
        )
    _, rank, pickled, trace = min(records)
    try:
        error = pickle.loads(pickled)
    except Exception:
        error = ProcessFailedError(trace.strip().rpartition("\n")[2])
    error.add_note(f"(raised in the process of rank {rank} of {processes})")
    raise error from RemoteError(trace)


# --- in a process that was started ---------------------------------------------------------------


def work(folder: Path, parent: int) -> int:
    """Run the job of a folder in this process and return the exit status."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if "forkserver" in multiprocessing.get_all_start_methods():
        # The threads that exchange tensors may hold a lock of Python's at the moment of a fork, and
        # a forked data loader worker would wait for it for ever (seen with Python 3.11 and gloo).
        multiprocessing.set_start_method("forkserver", force=True)
        multiprocessing.set_forkserver_preload(["rcnn.data"])
    if rank > 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        warnings.simplefilter("ignore")
    if "OMP_NUM_THREADS" not in os.environ:
        free = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        os.environ["OMP_NUM_THREADS"] = str(max(free // world_size, 1))
    try:
        sys.path[:], job = pickle.loads((folder / JOB).read_bytes())
        function, arguments = pickle.loads(job)
        result = function(*arguments)
        if rank == 0:
            (folder / RESULT).write_bytes(pickle.dumps(result))
    except (Exception, SystemExit) as error:
        frames = error.__traceback__.tb_next if error.__traceback__ else None
        trace = "".join(traceback.format_exception(type(error), error, frames))
        record = (time.monotonic(), rank, _pickled(error), trace)
        (folder / f"{rank}.error").write_bytes(pickle.dumps(record))
        return 1
    return 0


def _pickled(error: Exception | SystemExit) -> bytes:
    if isinstance(error, SystemExit):
        error = ProcessFailedError(f"The program was ended by sys.exit({error.code!r}).")
    try:
        return pickle.dumps(error)
    except Exception:
        return b""


def _end_with(parent: int) -> None:
    """End this process when its parent was killed, which no launcher can see to."""
    while os.getppid() == parent:
        time.sleep(0.5)
    for loader in multiprocessing.active_children():
        loader.kill()
    os._exit(1)


if __name__ == "__main__":
    from rcnn.app import processes  # classes of __main__ could not be rebuilt in the parent

    sys.exit(processes.work(Path(sys.argv[1]), int(sys.argv[2])))
