"""Predictions for the MLP of a vision transformer's block: two linear maps, eight tasks, half precision."""

from collections.abc import Callable
from typing import Any

from cuda_prediction import fused
from cuda_prediction.gpus import A100, GPUS, H100, Gpu
from cuda_prediction.others import (
    predict_chunked,
    predict_chunked_gradient,
    predict_merge,
    predict_merge_backward,
    predict_plain,
    predict_routing_gradient,
)
from cuda_prediction.work import LIMITERS, Seconds

T = 8
MODELS = {"ViT-B/32": (50, 768, 3072), "ViT-L/14": (257, 1024, 4096)}  # N tokens, D, F
BATCHES = (1, 16, 64)
NAMES = {"dram": "DRAM", "l2": "L2", "tensor": "tensor", "fp32": "fp32", "convert": "conversion"}


Entry = dict[str, Any]
Found = dict[tuple[str, str], Entry]  # by what is computed, and the method
FORWARD, GRAD_X, GRADIENT, BOTH = "forward", "grad_x", "routing gradient", "forward + backward"


def kernels(parts: list[tuple[float, Seconds]]) -> Entry:
    """Kernels one after the other: seconds in all and by limiter."""
    limits = {name: sum(limits[name] for _, limits in parts) for name in LIMITERS}
    return {"seconds": sum(seconds for seconds, _ in parts), "limiters": limits}


def predict_mlp(B: int, N: int, D: int, F: int, gpu: Gpu) -> Found:
    """Every kernel and path for x [B, N, D], through D to F to D; and one merge of all these weights."""
    maps = ((D, F), (F, D))  # inputs and outputs
    plain = sum(predict_plain(B * N, *sizes, gpu) for sizes in maps)
    chunked = sum(predict_chunked(B, N, *sizes, T, gpu) for sizes in maps)
    chunked_grad_x = sum(predict_chunked(B, N, *sizes[::-1], T, gpu) for sizes in maps)
    chunked_gradient = sum(predict_chunked_gradient(B, N, *sizes, T, gpu) for sizes in maps)
    found = {
        (FORWARD, "plain"): {"seconds": plain},
        (BOTH, "plain"): {"seconds": 2 * plain},  # weights are frozen
        (FORWARD, "fused"): kernels([fused.predict(B, N, *sizes, T, gpu) for sizes in maps]),
        (GRAD_X, "fused"): kernels([fused.predict(B, N, *sizes[::-1], T, gpu) for sizes in maps]),
        (GRADIENT, "fused"): kernels([predict_routing_gradient(B, N, *sizes, T, gpu) for sizes in maps]),
        (FORWARD, "chunked"): {"seconds": chunked},
        (BOTH, "chunked"): {"seconds": chunked + chunked_grad_x + chunked_gradient},
        ("merge", "merge_weights"): kernels([predict_merge(1, D * F, T, gpu)] * 2),
        ("merge's gradient", "merge_weights"): kernels([predict_merge_backward(1, D * F, T, gpu)] * 2),
    }
    whole = sum(found[what, "fused"]["seconds"] for what in (FORWARD, GRAD_X, GRADIENT))
    return found | {(BOTH, "fused"): {"seconds": whole}}


def predict_all() -> list[Entry]:
    """All models, batches and GPUs: what `make gpu-check` measures, and the kernels that it consists of."""
    return [
        {"model": model, "B": B, "gpu": gpu.name, "numbers": "bfloat16", "what": what, "method": method, **entry}
        for model, sizes in MODELS.items()
        for B in BATCHES
        for gpu in GPUS
        for (what, method), entry in predict_mlp(B, *sizes, gpu).items()
    ]


def markdown(head: list[str], row: Callable[[Found], list[str]], batches: tuple[int, ...]) -> str:
    """A table with a row for each model, batch and GPU."""
    lines = [["model", "B", "GPU", *head], ["---"] * 3 + ["---:"] * len(head)]
    for model, sizes in MODELS.items():
        for B in batches:
            lines += [[model, str(B), gpu.name, *row(predict_mlp(B, *sizes, gpu))] for gpu in GPUS]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def microseconds(seconds: float) -> str:
    """To three digits."""
    return f"{seconds * 1e6:.0f}" if seconds >= 1e-4 else f"{seconds * 1e6:.1f}"


def times(what: str) -> str:
    """Predicted microseconds by path."""

    def row(found: Found) -> list[str]:
        plain, own, chunked = (found[what, method]["seconds"] for method in ("plain", "fused", "chunked"))
        ratios = [f"{seconds / plain:.1f}" for seconds in (own, chunked)]
        return [*(microseconds(seconds) for seconds in (plain, own, chunked)), *ratios]

    return markdown(["plain, at best", "fused", "chunked", "fused / plain", "chunked / plain"], row, BATCHES)


def limits(what: str) -> str:
    """What would bound a kernel, were it alone, the greatest in bold; and how busy tensor cores are."""

    def row(found: Found) -> list[str]:
        entry = found[what, "fused"]
        worst = max(entry["limiters"].values())
        cells = [microseconds(seconds) for seconds in entry["limiters"].values()]
        marked = [f"**{c}**" if s == worst else c for c, s in zip(cells, entry["limiters"].values(), strict=True)]
        return [microseconds(entry["seconds"]), *marked, f"{entry['limiters']['tensor'] / entry['seconds']:.0%}"]

    return markdown(["predicted", *(NAMES.get(name, name) for name in LIMITERS), "tensor cores"], row, BATCHES)


def merges() -> str:
    """Predicted microseconds of merging an MLP's weights once, forward and backward."""

    def row(found: Found) -> list[str]:
        return [microseconds(found[what, "merge_weights"]["seconds"]) for what in ("merge", "merge's gradient")]

    return markdown(["merge_weights", "its gradient"], row, (1,))


def steps() -> str:
    """Cycles of a block of two groups for 16 inputs of full units, by what they are spent on."""
    names = LIMITERS[2:]
    lines = [
        [
            "rows of a unit",
            "units of a block",
            "GPU",
            *(NAMES.get(name, name) for name in names),
            "tensor cores, at most",
        ]
    ]
    lines.append(["---"] * 3 + ["---:"] * (len(lines[0]) - 3))
    for rows in (64, 128, 256):
        plan = fused.plan_groups(512 // rows, rows, fused.COLUMNS, groups=2)
        for gpu in (A100, H100):
            seconds = fused.step(plan, 512 // rows, T).seconds(gpu)
            cycles = [f"{seconds[name] * gpu.clock:.0f}" for name in names]
            most = seconds["tensor"] / max(seconds.values()) * gpu.mma_share
            lines.append([str(rows), str(512 // rows), gpu.name, *cycles, f"{most:.0%} of the peak"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


TABLES: dict[str, Callable[[], str]] = {
    "a step": steps,
    "forward": lambda: times(FORWARD),
    "forward and backward": lambda: times(BOTH),
    "limiters of the fused product": lambda: limits(FORWARD),
    "limiters of the routing gradient": lambda: limits(GRADIENT),
    "merging once": merges,
}
