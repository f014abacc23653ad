"""The routed MLP on a GPU, fused and chunked, against the plain MLP, vectorised PyTorch and a loop over samples.

Run by `make gpu-check`, or `python benchmarks/bench_cuda.py --json FILE`. Every result is compared with the loop in
float32 before it is timed; methods are timed in turn; ratios are medians of the rounds' ratios.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from statistics import median, quantiles

import torch
from cuda_ceilings import Clock, measure_ceilings
from cuda_clock import EventClock
from cuda_mlps import MLP, PATHS, PLAIN, Methods, Setting, check
from in_turn import time_in_turn

MLPS = (MLP("ViT-B/32", N=50, D=768, F=3072), MLP("ViT-L/14", N=257, D=1024, F=4096))
BATCHES = (1, 16, 64)
NUMBERS = ("bfloat16", "float16", "tf32", "float32")
WHATS = ("forward", "forward + backward")
SETTINGS = tuple(Setting(*parts) for parts in product(MLPS, BATCHES, NUMBERS, WHATS))


def measure(settings: Iterable[Setting], device: torch.device, clock: Clock, tell: Callable[[str], None]) -> list[dict]:
    """An entry for each method of each case: seconds and what follows of them, or the error that it ended in."""
    entries = []
    for setting in settings:
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("highest")
        methods = Methods(setting, device)
        expected = methods.expected()
        torch.set_float32_matmul_precision("high" if setting.numbers == "tf32" else "highest")
        right, errors = {}, {}
        for name, function in methods.functions().items():
            error = error_of(setting, name, function, expected)
            if error is None:
                right[name] = function
            else:
                errors[name] = error
        times = time_in_turn(right, judged=[name for name in (PLAIN, *PATHS) if name in right], clock=clock)
        entries += [{"case": str(setting), "method": name, "error": error} for name, error in errors.items()]
        entries += [entry_of(setting, name, times) for name in times]
        for entry in entries[-len(times) - len(errors) :]:
            tell(f"{entry['case']}: {entry['method']}: {entry.get('error') or format(entry['seconds'], '.3e') + ' s'}")
    torch.set_float32_matmul_precision("highest")
    return entries


def error_of(setting: Setting, name: str, function: Callable, expected: tuple) -> str | None:
    """Why a method is not timed: its memory does not suffice, or it gives wrong results."""
    try:
        found = function()
    except torch.OutOfMemoryError:
        return "out of memory"
    except RuntimeError as error:  # of a launch, say; what was measured before is kept
        return f"wrong: {error}"
    if name != PLAIN:
        try:
            check(setting, found, expected)
        except ArithmeticError as error:
            return f"wrong: {error}"
    return None


def entry_of(setting: Setting, name: str, times: dict[str, list[float]]) -> dict:
    """Median, interquartile range as a part of it, the ratio to the plain MLP, and rates of the least work."""
    seconds, work = median(times[name]), setting.work_of(name)
    lower, _, upper = quantiles(times[name], n=4)
    plain = times.get(PLAIN)
    ratios = [one / other for one, other in zip(times[name], plain, strict=False)] if plain else []
    return {
        "case": str(setting),
        "method": name,
        "model": setting.mlp.model,
        "B": setting.B,
        "numbers": setting.numbers,
        "what": setting.what,
        "seconds": seconds,
        "spread": (upper - lower) / seconds,
        "rounds": len(times[name]),
        "ratio": median(ratios) if ratios else None,
        "tflop_per_s": work.operations / seconds / 1e12,
        "gb_per_s": work.bytes / seconds / 1e9,
    }


def main(arguments: list[str] | None = None) -> int:
    """Measures, writes what was found, and fails where a method gave wrong results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the results go")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(f"error: bench_cuda.py needs a GPU. Found none: torch {torch.__version__}.", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    clock = EventClock(device)
    ceilings = measure_ceilings(device, clock)
    entries = measure(SETTINGS, device, clock, tell=lambda line: print(line, flush=True))
    temporary = options.json.with_suffix(".part")
    temporary.write_text(json.dumps({"ceilings": ceilings, "methods": entries}, indent=1) + "\n")
    temporary.replace(options.json)
    return int(any(entry.get("error", "").startswith("wrong") for entry in entries))


if __name__ == "__main__":
    sys.exit(main())
