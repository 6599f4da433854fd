"""Measurements against torchvision's detectors; see README.md."""
