"""What goes wrong between libraries."""


class InteropError(ValueError):
    """A model or a file of another library that cannot be taken over exactly."""
