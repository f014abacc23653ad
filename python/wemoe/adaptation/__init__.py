"""Test-time adaptation: training the routers on unlabeled data (arXiv 2402.00433, section 3.4)."""

from wemoe.adaptation.collapse import CollapseWarning
from wemoe.adaptation.loop import Adaptation, adapt
from wemoe.adaptation.objectives import OBJECTIVES

__all__ = ["OBJECTIVES", "Adaptation", "CollapseWarning", "adapt"]
