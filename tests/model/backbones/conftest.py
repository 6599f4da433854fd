"""Networks with known random weights, and a torch.hub cache of the test's own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rcnn.model.backbones import Backbone, BackboneSettings, BoxHead, SplitNetwork


@pytest.fixture
def randomise(generator: torch.Generator) -> Callable[[nn.Module], dict[str, Tensor]]:
    """Fills a network, batch statistics included, and returns its state dict."""

    def fill(network: nn.Module) -> dict[str, Tensor]:
        for name, tensor in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(7)
            elif tensor.ndim > 1:
                tensor.uniform_(-1, 1, generator=generator).mul_(tensor[0].numel() ** -0.5)
            else:
                tensor.uniform_(0.5, 1.5, generator=generator)
        return network.state_dict()

    return fill


@pytest.fixture
def pixels(generator: torch.Generator) -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=generator)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder in which torch.hub keeps its files during this test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


class TinyBackbone(Backbone):
    def __init__(self) -> None:
        super().__init__(strides=(2,), channels=4, roi_levels=1)
        self.conv = nn.Conv2d(3, 4, kernel_size=2, stride=2)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [self.norm(self.conv(pixels))]


class TinyHead(BoxHead):
    def __init__(self) -> None:
        super().__init__(channels=4)

    def forward(self, pooled: Tensor) -> Tensor:
        return pooled.mean(dim=(2, 3))


@pytest.fixture
def tiny_network() -> SplitNetwork:
    """One convolution; a file of weights calls it ``stem``, its norm ``bn``."""
    return SplitNetwork(
        TinyBackbone(), TinyHead(), {"stem.": "backbone.conv.", "bn.": "backbone.norm."}
    )


@pytest.fixture
def own_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BackboneSettings:
    """Settings that name a callable in a module outside of rcnn."""
    (tmp_path / "someones_project.py").write_text(
        "from torch import nn\n"
        "from rcnn.model.backbones import SplitNetwork, Backbone, TwoMLPHead\n"
        "class Stride8(Backbone):\n"
        "    def __init__(self, channels):\n"
        "        super().__init__(strides=(8,), channels=channels, roi_levels=1)\n"
        "        self.conv = nn.Conv2d(3, channels, 8, stride=8)\n"
        "    def forward(self, pixels):\n"
        "        return [self.conv(pixels)]\n"
        "def build(settings, cells):\n"
        "    box_head = TwoMLPHead(in_channels=5, cells=cells,\n"
        "                              hidden=settings.hidden, dropout=0.0)\n"
        "    return SplitNetwork(Stride8(5), box_head)\n"
        "def forgets_to_return(settings, cells):\n"
        "    pass\n"
        "number = 3\n"
    )
    (tmp_path / "someones_broken_project.py").write_text("import a_package_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    return BackboneSettings(name="someones_project.build", hidden=6)
