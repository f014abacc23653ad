"""Where each family of transformers keeps its pieces: descriptions, not code."""

from wemoe.models.blocks import find_blocks
from wemoe.models.families import FAMILIES, Family

__all__ = ["FAMILIES", "Family", "find_blocks"]
