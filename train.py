"""Train and test a detector: ``python train.py [group=choice] [key=value] ...``; see README.md."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):  # answered without an import of torch
        from rcnn.cli.main import main as command

        sys.exit(command(["train", "--help"]))
    from rcnn.app.run import main

    main(Path(__file__).resolve().parent / "conf")
