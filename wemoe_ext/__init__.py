"""The operators of wemoe: tensors in, tensors out, compiled for CPU and CUDA.

`wemoe_ext.reference` has the same functions in plain PyTorch, which define what is correct.
"""

from importlib.metadata import version
from typing import Any

from wemoe_ext import _library

_C = _library.load()

from wemoe_ext.ops import merge_weights, routed_linear  # noqa: E402 - the library registers what ops describes

__version__ = version("wemoe")


def build_info() -> dict[str, Any]:
    """Tells what the library was built with, and what it uses here.

    Returns:
        `wemoe`, `torch`, `cuda` (None without), `cuda_architectures`, `compiler`, `cpu_instruction_set`.
    """
    info: dict[str, Any] = _C.build_info()
    return info


__all__ = ["__version__", "build_info", "merge_weights", "routed_linear"]
