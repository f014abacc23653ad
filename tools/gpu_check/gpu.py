"""The GPU that is there, or a clear refusal."""

import subprocess
from typing import Any

import torch

QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")


class NoGpuError(Exception):
    """There is no GPU that torch can use; says what was found."""


def describe_gpu() -> dict[str, Any]:
    """What results depend on: the GPU as torch sees it, its driver, and the versions of torch and CUDA.

    Raises:
        NoGpuError: torch sees no GPU.
    """
    seen = nvidia_smi()
    if not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise NoGpuError(
            "gpu-check needs an NVIDIA GPU, its driver and a CUDA build of torch. "
            f"Found: nvidia-smi: {seen}; torch {torch.__version__} ({built}): torch.cuda.is_available() is False."
        )
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "l2_mb": round(properties.L2_cache_size / 2**20, 1),
        "nvidia_smi": seen,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def nvidia_smi() -> str:
    """The GPUs with driver and memory, one after the other, as the driver's own tool names them; or what it says."""
    try:
        finished = subprocess.run(QUERY, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return "not on PATH"
    except subprocess.TimeoutExpired:
        return "no answer within a minute"
    said = "; ".join((finished.stdout if finished.returncode == 0 else finished.stdout + finished.stderr).split("\n"))
    return said.strip("; ") or f"nothing (exit code {finished.returncode})"
