"""Streams of batches that never end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic

from wemoe.predictions import Batch


class Stream(Generic[Batch]):
    """Draws batches from an iterable, from its start again whenever it ends; nothing is cached.

    Args:
        task: name for error messages.
        batches: an iterable that can be iterated again, a `DataLoader` say, or one that is long enough.
        argument: what the mapping of all streams is called in error messages.
    """

    def __init__(self, task: str, batches: Iterable[Batch], argument: str = "streams") -> None:
        self.name = f"{argument}[{task!r}]"
        self.drawn = 0
        self._batches = batches
        self._iterator: Iterator[Batch] = iter(batches)

    def draw(self) -> Batch:
        """Return the next batch.

        Raises:
            ValueError: the stream is empty, or has ended and cannot be iterated again.
        """
        for _ in range(2):
            for batch in self._iterator:
                self.drawn += 1
                return batch
            self._iterator = iter(self._batches)
        raise ValueError(
            f"{self.name} must yield batches for as long as the run lasts; "
            + (f"it ended after {self.drawn} batches" if self.drawn else "found an empty stream")
        )


def open_streams(
    streams: Mapping[str, Iterable[Batch]], skip: int, argument: str = "streams"
) -> dict[str, Stream[Batch]]:
    """Open one stream per task and draw `skip` batches from each, in the order in which a run draws them.

    Args:
        streams: by task, batches.
        skip: how many steps are done already.
        argument: what error messages call `streams`.

    Raises:
        TypeError: `streams` is no mapping from task name to iterable.
        ValueError: there is no stream, or one is too short to skip that far.
    """
    if not isinstance(streams, Mapping):
        raise TypeError(f"{argument} must map task names to batches; found {type(streams).__name__}")
    if not streams:
        raise ValueError(f"{argument} must hold at least one task; found none")
    opened = {task: Stream(task, batches, argument) for task, batches in streams.items()}
    for _ in range(skip):
        for stream in opened.values():
            stream.draw()
    return opened
