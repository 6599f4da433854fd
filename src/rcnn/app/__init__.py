"""From a composed config to a finished run; the only place that knows Hydra."""

from rcnn.app.errors import explained
from rcnn.app.run import run

__all__ = ["explained", "run"]
