"""Tensors in, tensors out: the arithmetic of the detectors."""
