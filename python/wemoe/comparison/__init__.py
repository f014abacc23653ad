"""Comparing ways to merge: every method on one suite, in one table."""

from wemoe.comparison.choosing import CompareSettings
from wemoe.comparison.rows import ROWS, Row
from wemoe.comparison.running import compare

__all__ = ["ROWS", "CompareSettings", "Row", "compare"]
