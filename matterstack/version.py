"""The version of this package: the lowest module, so that whatever needs it imports nothing else."""

__version__ = "0.1.0"
