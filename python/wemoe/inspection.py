"""Looking into a routed model: the routing weights of its layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from wemoe.layers import RoutedMLP


@contextmanager
def record_routing(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the routing weights of every routed MLP, call by call.

    Example:
        with wemoe.record_routing(model) as routing:
            model(**batch)
        routing["encoder.layer.0.output.dense"][0]  # [B, T]

    Args:
        model: a routed model, or any module that holds routed MLPs.

    Yields:
        By the path of each routed MLP, a list that gains one detached tensor [R, T] at each of its calls; R = 1
        where one row of routing weights serves the whole batch.

    Raises:
        ValueError: the model holds no routed MLP.
    """
    routed = {name: module for name, module in model.named_modules() if isinstance(module, RoutedMLP)}
    if not routed:
        raise ValueError(f"model must hold routed MLPs; found none in {type(model).__name__}")
    records: dict[str, list[Tensor]] = {name: [] for name in routed}
    handles = [
        module.router.register_forward_hook(
            lambda _router, _inputs, output, name=name: records[name].append(output.detach())
        )
        for name, module in routed.items()
    ]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()
