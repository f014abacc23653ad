"""Merged models off the distribution that they were made on: corrupted images, and tasks that they never saw."""

from wemoe.off_distribution.corrupted import corrupted_suite
from wemoe.off_distribution.corrupting import CORRUPTIONS, Corruption

__all__ = ["CORRUPTIONS", "Corruption", "corrupted_suite"]
