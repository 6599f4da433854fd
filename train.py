"""Train and test a detector: ``python train.py [group=choice] [key=value] ...``; see README.md."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from rcnn.app.errors import explained

CONF = Path(__file__).resolve().parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(config: DictConfig) -> float:
    """Run one job and return the validation metric that the config monitors."""
    from rcnn.app.run import run  # after the command line was read: this imports torch

    return run(config)


if __name__ == "__main__":
    with explained(CONF):
        main()
