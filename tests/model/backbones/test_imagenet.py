import hashlib
import socket
import urllib.error
from pathlib import Path

import pytest
import torch

from rcnn.model.backbones.backbone import SHIPPED, BackboneSettings
from rcnn.model.backbones.weights import (
    TIMEOUT_SECONDS,
    DownloadError,
    cached_file,
    download,
    imagenet_url,
)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A file named as torchvision names its weights."""
    contents = b"these are weights"
    path = tmp_path / f"net-{hashlib.sha256(contents).hexdigest()[:8]}.pth"
    path.write_bytes(contents)
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_backbone_has_imagenet_weights(name: str) -> None:
    architecture = BackboneSettings(name=name).architecture
    assert architecture is not None
    assert Path(imagenet_url(architecture)).name.startswith(f"{architecture}-")


def test_first_imagenet_weights_are_taken() -> None:
    assert imagenet_url("resnet50").endswith("/resnet50-0676ba61.pth")


def test_cached_file_lies_in_the_folder_of_torch_hub(cache: Path) -> None:
    assert cached_file("https://example.org/models/net-0123abcd.pth") == cache / "net-0123abcd.pth"


def test_download_writes_the_file_and_makes_its_folder(published: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / published.name
    download(published.as_uri(), target)
    assert target.read_bytes() == published.read_bytes()


def test_download_of_other_contents_is_an_error_and_leaves_nothing(
    published: Path, tmp_path: Path
) -> None:
    published.write_bytes(b"a page of the hotel's network")
    target = tmp_path / "cache" / published.name
    with pytest.raises(DownloadError, match="invalid hash value"):
        download(published.as_uri(), target)
    assert not list(target.parent.iterdir())


def test_download_without_network_fails_with_the_address_and_a_short_timeout(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts = []

    def unreachable(*args: object, **options: object) -> None:
        timeouts.append(socket.getdefaulttimeout())
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    before = socket.getdefaulttimeout()
    with pytest.raises(DownloadError, match=r"example\.org/a-0\.pth.*no route to host"):
        download("https://example.org/a-0.pth", tmp_path / "a-0.pth")
    assert timeouts == [TIMEOUT_SECONDS]
    assert socket.getdefaulttimeout() == before
    assert TIMEOUT_SECONDS <= 15


def test_cache_that_cannot_be_written_is_a_download_error(published: Path, tmp_path: Path) -> None:
    (tmp_path / "a_file").touch()
    with pytest.raises(DownloadError, match="a_file"):
        download(published.as_uri(), tmp_path / "a_file" / published.name)
