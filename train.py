"""Train and test a detector: ``python train.py [group=choice] [key=value] ...``; see README.md."""

from pathlib import Path

from rcnn.app.run import main

if __name__ == "__main__":
    main(Path(__file__).resolve().parent / "conf")
