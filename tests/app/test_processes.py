"""Processes that are started for each device, and what is left of them."""

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rcnn.app.processes import ProcessFailedError, RemoteError, needs_processes
from rcnn.app.processes import run_in_processes as run
from rcnn.settings import SettingsError

JOBS = '''
"""Functions that the processes of a test run; a process imports them by name."""

import multiprocessing, os, pathlib, signal, sys, time, warnings

KEYS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")
RANK_AT_IMPORT = os.environ.get("RANK")

class Awkward(Exception):
    def __init__(self, key, value):
        super().__init__(f"{key} is {value}")

def describe(folder):
    rank = os.environ["RANK"]
    pathlib.Path(folder, rank).write_text(" ".join(os.environ[key] for key in KEYS))
    return {"rank": rank, "port": os.environ["MASTER_PORT"], "at_import": RANK_AT_IMPORT,
            "threads": os.environ["OMP_NUM_THREADS"], "start": multiprocessing.get_start_method()}

def speak():
    print("standard output of rank", os.environ["RANK"], flush=True)
    warnings.warn(f"warning of rank {os.environ['RANK']}")

def only_rank_one_fails(kind):
    if os.environ["RANK"] == "0":
        time.sleep(600)
    if kind == "value":
        raise ValueError("the data of rank 1 is broken")
    if kind == "awkward":
        raise Awkward("momentum", 3)
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exit":
        sys.exit(0)
    return None

def both_fail():
    if os.environ["RANK"] == "0":
        time.sleep(0.3)
        raise ConnectionError("the other side is gone")
    raise ValueError("the cause")

def unpicklable():
    return lambda: None

def sleep_as(folder):
    pathlib.Path(folder, os.environ["RANK"]).write_text(str(os.getpid()))
    time.sleep(600)
'''


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "launch_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "launch_jobs", raising=False)
    return importlib.import_module("launch_jobs")


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test: no process, no handler and no file left behind."""
    for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    assert multiprocessing.active_children() == []
    assert list(empty.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize(
    ("devices", "accelerator", "strategy", "expected"),
    [
        (1, "cpu", "auto", 1),
        (2, "cpu", "auto", 2),
        (3, "cpu", "ddp", 3),
        (2, "cpu", "ddp_find_unused_parameters_true", 2),
        (2, "gpu", "pytorch_lightning.strategies.DDPStrategy", 2),
        ([0, 2, 3], "gpu", "ddp", 3),
        ("2", "cpu", "ddp", 2),
        ("0,1", "gpu", "ddp", 2),
        ("1,", "gpu", "ddp", 1),
        ("auto", "cpu", "auto", 1),
        (-1, "cpu", "ddp", 1),
        ("auto", "gpu", "auto", 4),
        ("-1", "cuda", "ddp", 4),
        ("auto", "auto", "auto", 4),
        ("auto", "mps", "auto", 1),
        (2, "cpu", "ddp_spawn", 1),
        (2, "cpu", "ddp_notebook", 1),
        (2, "gpu", "single_device", 1),
        (0, "cpu", "auto", 1),
    ],
)
def test_number_of_processes_follows_the_trainer(
    devices: Any, accelerator: str, strategy: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    trainer = {"devices": devices, "accelerator": accelerator, "strategy": strategy}
    assert needs_processes(trainer) == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LOCAL_RANK": "0"}, 1),
        ({"TORCHELASTIC_RUN_ID": "x"}, 1),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train"}, 1),
        ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"}, 2),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"}, 2),
    ],
)
def test_a_launched_process_starts_no_others(
    variables: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert needs_processes({"devices": 2, "accelerator": "cpu"}) == expected


def test_several_nodes_without_a_launcher_are_an_error() -> None:
    with pytest.raises(SettingsError, match=r"num_nodes=2 .*srun.*torchrun --nnodes=2"):
        needs_processes({"devices": 2, "num_nodes": 2})


def test_unreadable_devices_are_an_error() -> None:
    with pytest.raises(SettingsError, match="devices='two'"):
        needs_processes({"devices": "two"})


def test_each_process_knows_its_rank_and_rank_zero_answers(
    jobs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    answer = run(jobs.describe, (str(tmp_path),), 2)
    assert dict(os.environ) == before
    assert (tmp_path / "0").read_text() == "0 0 2 127.0.0.1"
    assert (tmp_path / "1").read_text() == "1 1 2 127.0.0.1"
    assert answer["rank"] == "0"
    assert answer["at_import"] == "0"
    assert answer["threads"] == str(max(len(os.sched_getaffinity(0)) // 2, 1))
    # Threads that exchange tensors must not be there where data loader workers are forked.
    assert answer["start"] == "forkserver"


def test_only_rank_zero_is_heard(jobs: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    run(jobs.speak, (), 2)
    captured = capfd.readouterr()
    assert "standard output of rank 0" in captured.out
    assert "warning of rank 0" in captured.err
    assert "rank 1" not in captured.out + captured.err


def test_an_error_comes_back_as_itself_with_its_own_traceback(jobs: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^the data of rank 1 is broken") as caught:
        run(jobs.only_rank_one_fails, ("value",), 2)
    assert caught.value.__notes__ == ["(raised in the process of rank 1 of 2)"]
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteError)
    assert "launch_jobs.py" in str(cause)
    assert "only_rank_one_fails" in str(cause)


def test_the_first_error_is_the_one_reported(jobs: ModuleType) -> None:
    with pytest.raises(ValueError, match="the cause"):
        run(jobs.both_fail, (), 2)


def test_an_error_that_cannot_be_rebuilt_is_still_told(jobs: ModuleType) -> None:
    with pytest.raises(ProcessFailedError, match=r"Awkward: momentum is 3") as caught:
        run(jobs.only_rank_one_fails, ("awkward",), 2)
    assert "only_rank_one_fails" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("kind", "told"), [("killed", r"rank 1 of 2 .*\(exit code -9\)"), ("exit", r"sys\.exit\(0\)")]
)
def test_a_process_that_vanishes_is_an_error(jobs: ModuleType, kind: str, told: str) -> None:
    with pytest.raises(ProcessFailedError, match=told):
        run(jobs.only_rank_one_fails, (kind,), 2)


def test_a_result_that_cannot_travel_is_an_error(jobs: ModuleType) -> None:
    with pytest.raises(Exception, match=r"pickle .*lambda"):
        run(jobs.unpicklable, (), 1)


def test_a_job_that_cannot_travel_is_an_error_before_anything_starts() -> None:
    with pytest.raises(TypeError, match="must be at the top level of a module"):
        run(lambda: None, (), 2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_their_parent(
    number: signal.Signals, jobs: ModuleType, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import signal, sys
        from rcnn.app.processes import run_in_processes
        import launch_jobs
        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            run_in_processes(launch_jobs.sleep_as, (sys.argv[1],), 2)
        """)
    )
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    )
    files = [tmp_path / "0", tmp_path / "1"]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files))
    parent.send_signal(number)
    parent.wait(timeout=60)
    wait_until(lambda: not any(is_running(int(file.read_text())) for file in files))


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
