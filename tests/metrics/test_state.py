import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from rcnn.metrics import COCOAveragePrecision, ProposalRecall, VOCAveragePrecision
from rcnn.metrics.inputs import DetectionMetric, gather, transport_device

Images = list[dict[str, Tensor]]


def all_metrics() -> dict[str, DetectionMetric]:
    return {
        "voc": VOCAveragePrecision(4, iou_threshold=[0.5, 0.7]),
        "coco": COCOAveragePrecision(4),
        "recall": ProposalRecall(limits=(1, 3, 10)),
    }


@pytest.mark.parametrize("name", all_metrics())
def test_a_process_without_images_sends_what_the_others_expect(
    name: str, random_images: Callable[..., tuple[Images, Images]]
) -> None:
    sent: list[list[tuple[torch.dtype, torch.Size]]] = []
    for images in (random_images(2), ([], [])):
        metric, messages = all_metrics()[name], []

        def record(tensor: Tensor, group: None, messages: list[Tensor] = messages) -> list[Tensor]:
            messages.append(tensor)
            return [tensor]

        if images[0]:
            metric.update(*images)
        metric.sync(dist_sync_fn=record, distributed_available=lambda: True)
        sent.append([(message.dtype, message.shape[1:]) for message in messages])
    assert sent[0] == sent[1]
    assert sent[0]


@pytest.mark.slow
def test_two_processes_agree_with_one_even_if_one_saw_nothing(
    tmp_path: Path, random_images: Callable[..., tuple[Images, Images]]
) -> None:
    predictions, targets = random_images(3, num_images=12, distinct_scores=True)
    evaluations = [[(0, 8), (8, 12)], [(0, 0), (0, 12)], [(0, 12), (0, 0)]]
    torch.save((predictions, targets, evaluations), tmp_path / "images.pt")
    worker = Path(__file__).parent / "one_rank.py"
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), "2", str(tmp_path)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        output = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(output)

    for name, metric in all_metrics().items():
        metric.update(predictions, targets)
        expected = metric.compute()
        for rank in range(2):
            for result in torch.load(tmp_path / f"{rank}.pt"):
                torch.testing.assert_close(result[name], expected, equal_nan=True)


@pytest.mark.parametrize("name", all_metrics())
def test_computing_in_the_middle_changes_nothing(
    name: str, random_images: Callable[..., tuple[Images, Images]]
) -> None:
    predictions, targets = random_images(4)
    at_once, interrupted = all_metrics()[name], all_metrics()[name]
    interrupted.update(predictions[:7], targets[:7])
    interrupted.compute()
    interrupted.update(predictions[7:], targets[7:])
    at_once.update(predictions, targets)
    torch.testing.assert_close(interrupted.compute(), at_once.compute(), equal_nan=True)


@pytest.mark.parametrize("name", all_metrics())
def test_reset_forgets_everything(
    name: str, random_images: Callable[..., tuple[Images, Images]]
) -> None:
    predictions, targets = random_images(5)
    used, fresh = all_metrics()[name], all_metrics()[name]
    used.update(predictions, targets)
    used.compute()
    used.reset()
    for metric in (used, fresh):
        metric.update(predictions[:5], targets[:5])
    torch.testing.assert_close(used.compute(), fresh.compute(), equal_nan=True)


@pytest.mark.parametrize("name", all_metrics())
def test_forward_scores_the_batch_and_keeps_it(
    name: str, random_images: Callable[..., tuple[Images, Images]]
) -> None:
    predictions, targets = random_images(6)
    whole, second_part, in_parts = (all_metrics()[name] for _ in range(3))
    in_parts(predictions[:9], targets[:9])
    of_batch = in_parts(predictions[9:], targets[9:])
    second_part.update(predictions[9:], targets[9:])
    torch.testing.assert_close(of_batch, second_part.compute(), equal_nan=True)
    whole.update(predictions, targets)
    torch.testing.assert_close(in_parts.compute(), whole.compute(), equal_nan=True)


@pytest.mark.parametrize("name", all_metrics())
def test_images_after_an_empty_update_and_before_one_count(
    name: str, random_images: Callable[..., tuple[Images, Images]]
) -> None:
    predictions, targets = random_images(8)
    plain, padded = all_metrics()[name], all_metrics()[name]
    plain.update(predictions, targets)
    for images in ([], predictions, []):
        padded.update(images, targets if images else [])
    torch.testing.assert_close(padded.compute(), plain.compute(), equal_nan=True)


def test_tensors_travel_on_the_device_that_the_processes_talk_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    for backend, device in (("nccl", "cuda:3"), ("gloo", "cpu"), ("cpu:gloo,cuda:nccl", "cpu")):
        monkeypatch.setattr(dist, "get_backend", lambda _, backend=backend: backend)
        assert transport_device(None) == torch.device(device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NCCL needs a CUDA device")
def test_nccl_carries_a_table_that_lies_on_the_cpu(tmp_path: Path) -> None:
    dist.init_process_group(
        "nccl",
        init_method=f"file://{tmp_path}/store",
        rank=0,
        world_size=1,
        device_id=torch.device("cuda", torch.cuda.current_device()),
    )
    try:
        table = torch.arange(6).reshape(3, 2)
        (gathered,) = gather(table)
    finally:
        dist.destroy_process_group()
    assert gathered.device == table.device
    torch.testing.assert_close(gathered, table)
