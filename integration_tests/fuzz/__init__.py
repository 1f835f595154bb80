"""Fuzzing of everything that reads files: the targets, their first inputs, and the driver (``python -m``)."""
