"""Faster computations on a CPU. Each kernel equals a reference and imports only torch."""
