"""Time on a GPU, as the GPU measures it."""

from collections.abc import Callable

import torch

FLUSHED_BYTES = 2**28  # more than any L2 cache holds
QUEUEING_CYCLES = 1_000_000  # about half a millisecond, in which the processor launches what is timed


class EventClock:
    """Seconds between two events around a call, which finds its operands in memory, not in L2.

    The GPU is kept busy before, so that what the processor launches within half a millisecond is timed without the
    launching; a method of more launches than that waits for the processor, as it does in use.
    """

    def __init__(self, device: torch.device):
        self.flushed = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=device)

    def __call__(self, function: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flushed.zero_()
        torch.cuda._sleep(QUEUEING_CYCLES)
        start.record()
        function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
