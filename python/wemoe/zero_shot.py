"""The head of a contrastive model's task: an image's cosines with its classes, times a temperature."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ZeroShotHead(nn.Module):
    """A frozen head that compares what a vision tower's pooler gives with a direction for each class.

    Args:
        classes: unit vectors [C, E].
        scale: what cosines are multiplied by, a scalar tensor.
        projection: the model's own map from pooled outputs to the features of both towers [E, D]; None where there is
            none, and D is E.
    """

    def __init__(self, classes: Tensor, scale: Tensor, projection: Tensor | None = None) -> None:
        super().__init__()
        self.classes = _frozen(classes)
        self.scale = _frozen(scale)
        self.projection = None if projection is None else _frozen(projection)

    @property
    def in_features(self) -> int:
        """D."""
        return (self.classes if self.projection is None else self.projection).shape[1]

    @property
    def out_features(self) -> int:
        """C."""
        return len(self.classes)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return logits [B, C] of pooled outputs [B, D]."""
        features = pooled if self.projection is None else F.linear(pooled, self.projection)
        return self.scale * F.linear(F.normalize(features, dim=-1), self.classes)

    def extra_repr(self) -> str:
        """Tell the sizes when the module is printed."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)
