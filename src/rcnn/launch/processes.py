"""Start a function in several processes, wait for them, and leave none behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import NoReturn, TypeVar

from rcnn.launch.environment import LOCALHOST, environment, rank_variables, shared_variables
from rcnn.launch.worker import Report, work

T = TypeVar("T")

GRACE_SECONDS = 10.0
"""How long processes may take to end by themselves, and again after they were asked to."""


class ProcessFailedError(RuntimeError):
    """A process ended without a result, or its own error could not be rebuilt here."""


class RemoteError(Exception):
    """The traceback of an error in another process, as text; the cause of the re-raised error."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True)
class _Worker:
    rank: int
    process: SpawnProcess
    reports: Connection


def run_in_processes(
    function: Callable[..., T], arguments: tuple[object, ...], processes: int
) -> T:
    """Run ``function(*arguments)`` in N fresh processes and return what rank 0 returns.

    The processes find ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``
    in their environment from their first import on; ``torch.distributed.init_process_group`` and
    ``Trainer(devices=N, strategy="ddp")`` need nothing else. Rank 0 writes to this terminal; the
    standard output and the Python warnings of the others are dropped. The processors are shared out
    by ``OMP_NUM_THREADS`` unless it is set. The present process never touches a GPU.

    No process outlives the call: when one fails, on Ctrl-C and on a termination signal, the others
    may end by themselves for :data:`GRACE_SECONDS`, then they are terminated, then killed. If the
    present process is killed, they end too.

    Args:
        function: importable by its name (no lambda, no nested function); a script that calls this
            needs ``if __name__ == "__main__":``, because each process imports it again.
        arguments: picklable.
        processes: how many.

    Returns:
        The result of rank 0, sent by pickle; plain numbers and strings travel best.

    Raises:
        TypeError: if the job cannot be pickled.
        ProcessFailedError: if a process ended without a word (killed, out of memory, ``exit``).
        Exception: the first error of a process, of its own type, with that process's traceback as
            its cause.
    """
    # Every process imports this module as well, before it knows whether it needs torch.
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    job = _pickled_job(function, arguments)
    store = TCPStore(LOCALHOST, 0, is_master=True, wait_for_workers=False)
    shared = shared_variables(store.port, processes)
    workers: list[_Worker] = []
    try:
        with _termination_passed_on(workers):
            for rank in range(processes):
                with environment(shared | rank_variables(rank)):
                    workers.append(_start(rank, job))
            result: T = pickle.loads(_first_result(workers))
    finally:
        _stop(workers)
    return result


def _pickled_job(function: Callable[..., object], arguments: tuple[object, ...]) -> bytes:
    try:
        return pickle.dumps((function, arguments))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"{function!r} cannot be sent to another process with its arguments: {error}. "
            "The function must be at the top level of a module and its arguments picklable."
        ) from error


@contextlib.contextmanager
def _termination_passed_on(workers: Sequence[_Worker]) -> Iterator[None]:
    """Let the workers end in order, too, when a scheduler terminates the present process."""

    def terminate(number: int, _: FrameType | None) -> NoReturn:
        for worker in workers:
            worker.process.terminate()
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(rank: int, job: bytes) -> _Worker:
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(rank, job, writer))
    process.start()
    writer.close()
    return _Worker(rank, process, reader)


def _first_result(workers: Sequence[_Worker]) -> bytes:
    """Wait for all processes; return rank 0's result or raise the earliest error."""
    pending = {worker.reports: worker for worker in workers}
    result = b""
    while pending:
        # The time limit is for a process that was killed while its data loaders hold its pipe open.
        ready = wait(list(pending), timeout=1.0)
        ended = [
            worker
            for reports, worker in pending.items()
            if reports in ready or worker.process.exitcode is not None
        ]
        received = [_receive(worker) for worker in ended]
        failures = [report for report in received if report.trace]
        if failures:
            _raise(min(failures, key=lambda report: report.seconds), len(workers))
        for worker, report in zip(ended, received, strict=True):
            result = report.result or result
            del pending[worker.reports]
    for worker in workers:
        worker.process.join()
    return result


def _receive(worker: _Worker) -> Report:
    try:
        if worker.reports.poll():
            report: Report = worker.reports.recv()
            return report
    except EOFError:
        pass
    worker.process.join()
    # It comes after every other failure, because an error with a traceback explains more.
    return Report(worker.rank, float("inf"), trace=f"exit code {worker.process.exitcode}")


def _raise(report: Report, processes: int) -> NoReturn:
    name = f"the process of rank {report.rank} of {processes}"
    if report.seconds == float("inf"):
        raise ProcessFailedError(
            f"{name} ended without a result ({report.trace}). What it printed stands above; a "
            "negative exit code is the signal that killed it (-9: usually out of memory)."
        )
    try:
        error = pickle.loads(report.error)
    except Exception:
        error = ProcessFailedError(report.trace.strip().rpartition("\n")[2])
    error.add_note(f"(raised in {name})")
    raise error from RemoteError(report.trace)


def _stop(workers: Sequence[_Worker]) -> None:
    """Leave no process behind: wait, then terminate, then kill."""
    patience = GRACE_SECONDS
    for ask in (None, SpawnProcess.terminate, SpawnProcess.kill):
        alive = [worker.process for worker in workers if worker.process.is_alive()]
        for process in alive:
            if ask is not None:
                ask(process)
        try:
            _join(alive, patience)
        except KeyboardInterrupt:
            patience = 0.0  # asked twice
    for worker in workers:
        worker.process.join()
        worker.process.close()
        worker.reports.close()


def _join(processes: Sequence[SpawnProcess], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0.0))
