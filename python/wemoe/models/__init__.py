"""Where each family of transformers keeps its pieces: descriptions, not code."""

from wemoe.models.families import FAMILIES, Family, find_blocks

__all__ = ["FAMILIES", "Family", "find_blocks"]
