"""Timing the stages of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Announces named stages and adds up the seconds that they take.

    Args:
        tell: what to do with a line of text.

    Attributes:
        seconds: by stage.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self.seconds: dict[str, float] = {}
        self._tell = tell
        self._started = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block of code under a name; a name that comes again goes on counting."""
        start = time.perf_counter()
        self._tell(f"[{start - self._started:4.0f} s] {name}")
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
