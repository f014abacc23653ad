"""Test-time adaptation: training routers (arXiv 2402.00433, section 3.4) or coefficients on unlabeled data."""

from wemoe.adaptation.adamerging import adamerging
from wemoe.adaptation.anchor import anchor_to_start
from wemoe.adaptation.class_shares import hold_class_shares
from wemoe.adaptation.collapse import CollapseWarning
from wemoe.adaptation.loop import Adaptation, AdaptOptions, adapt
from wemoe.adaptation.objectives import OBJECTIVES

__all__ = [
    "OBJECTIVES",
    "AdaptOptions",
    "Adaptation",
    "CollapseWarning",
    "adamerging",
    "adapt",
    "anchor_to_start",
    "hold_class_shares",
]
