"""The environment that results come from: versions, build, processor; no names of hosts, users or folders."""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import wemoe_ext

PACKAGES = ("torch", "transformers", "safetensors", "numpy")


def collect() -> dict[str, Any]:
    """Describes the environment.

    Returns:
        `wemoe`, `python` and `platform` as text; `packages`, name to version; `build`, as
        `wemoe_ext.build_info` tells; `cpu` (`model`, `cores`, `threads` that torch uses) and `cuda`
        (`available`, `devices`).
    """
    return {
        "wemoe": wemoe_ext.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in PACKAGES},
        "build": wemoe_ext.build_info(),
        "cpu": {"model": cpu_model(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "cuda": {
            "available": torch.cuda.is_available(),
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def cpu_model() -> str:
    """The processor's name as Linux tells it, else as Python knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def format_report(report: dict[str, Any]) -> str:
    """Lays a report of `collect` out as text, one `name  value` a line, groups indented."""
    return "\n".join(_lines(report, indent=""))


def _lines(group: dict[str, Any], indent: str) -> Iterator[str]:
    width = max(len(name) for name in group) + 2
    for name, value in group.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name:<{width}}{_format(value)}"


def _format(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
