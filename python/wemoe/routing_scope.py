"""What a routed MLP knows of the block that is running: which tokens vote, and where routing weights are kept.

The upcycled block holds a scope for the time of its forward; the routed MLP inside reads it. The scope belongs to the
thread and ends with the block's forward, so that nothing is left behind between calls, recomputation under gradient
checkpointing sees the same scope, and `torch.compile` traces it without a graph break.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar

from torch import Tensor


class RoutingScope:
    """Context in which routed MLPs average their routers over the tokens of a mask only.

    Args:
        token_mask: bool [B, N], true where a token may vote; None lets every token vote.
        kept: routing weights by block, which travel with a cache of keys and values. What is there is used, what is
            missing is made and put there. None keeps nothing.
        block: the name of the running block among `kept`.
    """

    def __init__(
        self, token_mask: Tensor | None = None, kept: dict[str, Tensor] | None = None, block: str = ""
    ) -> None:
        self.token_mask = token_mask
        self.kept = kept
        self.block = block

    def route(self, router: Callable[[Tensor, Tensor | None], Tensor], hidden_states: Tensor) -> Tensor:
        """Return the routing weights [R, T] of hidden states [B, N, D]: those kept, or else the router's."""
        if self.kept is None:
            return router(hidden_states, self.token_mask)
        if self.block not in self.kept:
            self.kept[self.block] = router(hidden_states, self.token_mask)
        return self.kept[self.block]

    def __enter__(self) -> None:
        self._outer = _thread.scope
        _thread.scope = self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _thread.scope = self._outer


class _OfThread:
    """Context in which a variable of the thread has another value."""

    variable: ClassVar[str]

    def __init__(self, value: Any) -> None:
        self._value = value

    def __enter__(self) -> None:
        self._outer = getattr(_thread, self.variable)
        setattr(_thread, self.variable, self._value)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        setattr(_thread, self.variable, self._outer)


class GeneratingAfter(_OfThread):
    """Context in which a model writes after a prompt: whatever else it is given at once is no part of the prompt.

    Args:
        tokens: length of the prompt, padding included; None where it is not known.
    """

    variable = "prompt_length"

    def __init__(self, tokens: int | None) -> None:
        super().__init__(tokens)


class BatchReduce(_OfThread):
    """Context in which routed MLPs average their routing weights over the batch, or do not, whatever they were made to.

    Args:
        value: whether they do.
    """

    variable = "batch_reduce"

    def __init__(self, value: bool) -> None:
        super().__init__(value)


class _Thread(threading.local):
    scope = RoutingScope()
    prompt_length: int | None = None
    batch_reduce: bool | None = None


_thread = _Thread()


def current_scope() -> RoutingScope:
    """Return the scope of the block that is running; outside of blocks, one in which every token votes."""
    return _thread.scope


def current_prompt_length() -> int | None:
    """Return the length of the prompt that a model is writing after; None outside of generation."""
    return _thread.prompt_length


def current_batch_reduce() -> bool | None:
    """Return whether routing weights are averaged over the batch; None where routed MLPs decide for themselves."""
    return _thread.batch_reduce
