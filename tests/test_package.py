"""The public names of the package."""

import importlib
import pkgutil
import subprocess
import sys
import typing

import pytest
from pydantic.dataclasses import is_pydantic_dataclass

import rcnn
import rcnn.model


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, rcnn\n"
        "assert not {'torch', 'numpy', 'pydantic', 'pytorch_lightning'} & set(sys.modules)\n"
        "assert rcnn.__version__ == '0.2.0'\n"
        "rcnn.ops\n"
        "assert 'torch' in sys.modules and 'pytorch_lightning' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_listed() -> None:
    for name in rcnn.__all__:
        assert getattr(rcnn, name) is not None
    systems = {"FasterRCNN", "FastRCNN", "RCNN", "SPPNet", "ProposalNetwork"}
    modules = {"DetectionModule", "DetectionDataModule", "load", "SettingsError"}
    packages = {"data", "interop", "metrics", "model", "ops", "training", "view", "report"}
    assert systems | modules | packages | {"inference"} <= set(rcnn.__all__) <= set(dir(rcnn))


def test_the_settings_of_every_part_of_a_detector_are_public() -> None:
    settings = set()
    for entry in pkgutil.walk_packages(rcnn.model.__path__, "rcnn.model."):
        for name, value in vars(importlib.import_module(entry.name)).items():
            if isinstance(value, type) and is_pydantic_dataclass(value):
                settings.add(name)
    assert _parts() <= settings
    assert settings <= set(rcnn.__all__)


def _parts() -> set[str]:
    hints = typing.get_type_hints(rcnn.DetectorSettings)
    return {hint.__name__ for hint in hints.values() if is_pydantic_dataclass(hint)}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = rcnn.no_such_name
