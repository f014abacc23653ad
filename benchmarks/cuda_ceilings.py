"""What this GPU reaches at best, measured: copying, and large products of matrices."""

from collections.abc import Callable
from statistics import median

import torch

Clock = Callable[[Callable[[], object]], float]

ROUNDS = 20
COPIED_BYTES = 2**30
SIZES = {torch.bfloat16: 8192, torch.float16: 8192, torch.float32: 4096}


def measure_ceilings(device: torch.device, clock: Clock, shrink: int = 1, rounds: int = ROUNDS) -> list[dict]:
    """Bandwidth of a copy, and the rate of products by dtype, TF32 beside float32; medians.

    Args:
        device: Where to measure.
        clock: Seconds of a call.
        shrink: Divides the sizes.
        rounds: How often each is timed, after one call that is not.
    """
    source, target = torch.zeros(2, COPIED_BYTES // shrink, dtype=torch.uint8, device=device)
    seconds = time_median(lambda: target.copy_(source), clock, rounds)
    ceilings = [{"name": "copy", "value": 2 * source.nbytes / seconds / 1e9, "unit": "GB/s"}]
    for dtype, size in SIZES.items():
        for precision in ("highest", "high") if dtype == torch.float32 else ("highest",):
            torch.set_float32_matmul_precision(precision)
            n = size // shrink
            a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
            seconds = time_median(lambda a=a, b=b: a @ b, clock, rounds)
            name = "tf32" if precision == "high" else str(dtype).removeprefix("torch.")
            ceilings.append({"name": f"{name} product", "value": 2 * n**3 / seconds / 1e12, "unit": "TFLOP/s"})
    torch.set_float32_matmul_precision("highest")
    return ceilings


def time_median(function: Callable[[], object], clock: Clock, rounds: int) -> float:
    function()
    return median(clock(function) for _ in range(rounds))
