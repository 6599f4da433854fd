"""The ``rcnn`` command."""
