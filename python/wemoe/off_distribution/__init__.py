"""Merged models off the distribution that they were made on: corrupted images, and tasks that they never saw."""

from wemoe.off_distribution.corrupted import corrupted_suite
from wemoe.off_distribution.corrupting import CORRUPTIONS, Corruption
from wemoe.off_distribution.generalisation import pairs_of, unseen
from wemoe.off_distribution.robustness import collapses, corruptions
from wemoe.off_distribution.scoring import DEFAULT_ROWS
from wemoe.off_distribution.tables import collapse_table, corruption_table, unseen_table

__all__ = [
    "CORRUPTIONS",
    "DEFAULT_ROWS",
    "Corruption",
    "collapse_table",
    "collapses",
    "corrupted_suite",
    "corruption_table",
    "corruptions",
    "pairs_of",
    "unseen",
    "unseen_table",
]
