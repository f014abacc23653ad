"""The operators of wemoe: tensors in, tensors out, compiled for CPU and CUDA.

`wemoe_ext.reference` has the same functions in plain PyTorch, which define what is correct.
"""

from importlib.metadata import version
from typing import Any

from wemoe_ext import _library

_C = _library.load()

from wemoe_ext.ops import merge_weights, routed_linear  # noqa: E402 - the library registers what ops describes
from wemoe_ext.packing import (  # noqa: E402
    SparseTaskVectors,
    check_sparse_task_vectors,
    expand_task_vectors,
    pack_sparse_task_vectors,
    pack_task_vectors,
    pack_weight,
    unpack_task_vectors,
    unpack_weight,
)

__version__ = version("wemoe")


def build_info() -> dict[str, Any]:
    """Tells what the library was built with, and what it uses here.

    Returns:
        `wemoe`, `torch`, `cuda` (None without), `cuda_architectures`, `compiler`, `cpu_instruction_set`.
    """
    info: dict[str, Any] = _C.build_info()
    return info


__all__ = [
    "SparseTaskVectors",
    "__version__",
    "build_info",
    "check_sparse_task_vectors",
    "expand_task_vectors",
    "merge_weights",
    "pack_sparse_task_vectors",
    "pack_task_vectors",
    "pack_weight",
    "routed_linear",
    "unpack_task_vectors",
    "unpack_weight",
]
