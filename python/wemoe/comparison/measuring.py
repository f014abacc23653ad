"""What a merge costs: seconds and memory of making it, parameters of the model, and time of its forward.

- Memory is the growth of the process's resident memory at its peak, as Linux counts it (`VmHWM`, which is reset first);
  what the allocator kept of earlier work is given back before. Elsewhere it is not measured.
- Inference is timed on one thread, base and model in turn on the same batches; the ratio is the median of the pairs'.
"""

from __future__ import annotations

import ctypes
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wemoe.inspection import count_parameters
from wemoe.modes import evaluating

Forward = Callable[[nn.Module, Any, str], Tensor]
PROCESS = Path("/proc/self")


@dataclass
class Cost:
    """What a block of code has cost; filled in at its end.

    Attributes:
        seconds: by the clock on the wall.
        peak_memory: bytes that the process's resident memory has grown by at most; None where that is not known.
    """

    seconds: float = 0.0
    peak_memory: int | None = None


@contextmanager
def measuring() -> Iterator[Cost]:
    """Measure a block of code."""
    cost = Cost()
    _give_back_memory()
    before = _reset_peak()
    start = time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - start
    if before is not None:
        cost.peak_memory = max(0, _resident("VmHWM") - before)


def _give_back_memory() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _reset_peak() -> int | None:
    """Set the process's peak of resident memory to what it has now and return that, in bytes; None if that fails."""
    try:
        (PROCESS / "clear_refs").write_text("5")
        return _resident("VmRSS")
    except OSError:
        return None


def _resident(field: str) -> int:
    found = re.search(rf"^{field}:\s*(\d+) kB$", (PROCESS / "status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status must tell {field}; found none")
    return 1024 * int(found[1])


def count_distinct(models: Iterable[nn.Module]) -> int:
    """Count the parameters of distinct models."""
    return sum(count_parameters(model) for model in {id(model): model for model in models}.values())


def inference_cost(
    base: nn.Module, models: Mapping[str, nn.Module], batches: Mapping[str, Any], predict: Forward, rounds: int = 7
) -> float:
    """Time models beside the base.

    Args:
        base: what 1.0 stands for.
        models: by task, the model that serves it.
        batches: by task, one batch.
        predict: runs a model on a batch of a task and gives logits [B, C].
        rounds: how often each is timed.

    Returns:
        The median, over the rounds, of the time of all batches by their models over that by the base.

    Raises:
        RuntimeError: a model's logits are not finite, not of the base's shape, or change from run to run.
    """

    def run(by_task: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        return {task: predict(by_task[task], batch, task) for task, batch in batches.items()}

    def seconds(by_task: Mapping[str, nn.Module]) -> float:
        start = time.perf_counter()
        run(by_task)
        _wait_for(base)
        return time.perf_counter() - start

    bases = dict.fromkeys(batches, base)
    with _one_thread(), evaluating(base, *models.values()), torch.inference_mode():
        _check_outputs(run(bases), run(models), run(models))
        return statistics.median([seconds(models) / seconds(bases) for _ in range(rounds)])


def _wait_for(model: nn.Module) -> None:
    """Wait until the devices of a model have done what they were asked; a CPU has by then."""
    for device in {theta.device for theta in model.parameters()}:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)


def _check_outputs(expected: Mapping[str, Tensor], first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    for task, logits in first.items():
        if logits.shape != expected[task].shape or not logits.isfinite().all() or not torch.equal(logits, second[task]):
            raise RuntimeError(
                f"the logits of task {task!r} must be finite, of the base's shape {tuple(expected[task].shape)}, and "
                f"the same in each run; found {tuple(logits.shape)}"
            )


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
