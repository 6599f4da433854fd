"""What ``import rcnn`` makes of its operations."""

import pkgutil
import subprocess
import sys

import rcnn.ops


def test_every_module_is_there_after_import_rcnn_alone() -> None:
    """In a process of its own, where nothing else has imported them."""
    print_all = "import rcnn; print(*(getattr(rcnn.ops, name).__name__ for name in rcnn.ops.__all__))"
    done = subprocess.run(
        [sys.executable, "-c", print_all], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [f"rcnn.ops.{name}" for name in rcnn.ops.__all__]
    modules = {module.name for module in pkgutil.iter_modules(rcnn.ops.__path__)}
    assert modules - {"svd"} == set(rcnn.ops.__all__)
