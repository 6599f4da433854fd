"""What ``import rcnn`` makes of its operations."""

import pkgutil
import subprocess
import sys

import rcnn.ops


def test_every_module_is_there_after_import_rcnn_alone() -> None:
    """In a process of its own, where nothing else has imported them."""
    names = "getattr(rcnn.ops, name).__name__ for name in rcnn.ops.__all__"
    print_all = f"import rcnn; print(*({names}))"
    done = subprocess.run(
        [sys.executable, "-c", print_all], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [f"rcnn.ops.{name}" for name in rcnn.ops.__all__]
    modules = {module.name for module in pkgutil.iter_modules(rcnn.ops.__path__)}
    assert modules == set(rcnn.ops.__all__)
