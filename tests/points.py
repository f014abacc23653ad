"""Models small enough to merge by hand."""

import torch
from torch import Tensor, nn


class Point(nn.Module):
    """Two parameters and a counter."""

    def __init__(self, a: float, b: float, count: int = 0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(float(a)))
        self.b = nn.Parameter(torch.tensor(float(b)))
        self.register_buffer("count", torch.tensor(count))

    def values(self) -> list[float]:
        return [self.a.item(), self.b.item(), self.count.item()]


class Row(nn.Module):
    """One parameter [d], and a floating-point buffer as running statistics are."""

    def __init__(self, values: list[float], buffer: list[float] | None = None) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.tensor(values))
        if buffer is not None:
            self.register_buffer("running", torch.tensor(buffer))


class TiedModel(nn.Module):
    """Tokens [B, N] to logits [B, VOCABULARY]: an embedding that is the last map too, and a map between."""

    def __init__(self, vocabulary: int = 11, width: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.inner = nn.Linear(width, width)
        self.decoder = nn.Linear(width, vocabulary)
        self.decoder.weight = self.embedding.weight
        self.register_buffer("positions", torch.arange(3))
        self.register_buffer("running", torch.ones(2))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(self.inner(self.embedding(tokens)).tanh().mean(dim=1))
