"""Tests that need a GPU: run by name (`pytest tests/gpu`) or by `make gpu-check`, and never skipped for want of one."""

import importlib
import os
import warnings
from pathlib import Path

import pytest
import torch

# cuBLAS is deterministic with a workspace of its own for each stream; it reads this when it starts
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(autouse=True, scope="session")
def _gpu():
    if not torch.cuda.is_available():
        pytest.fail(f"these tests need a GPU and a CUDA build of torch. Found none: torch {torch.__version__}.")
    with warnings.catch_warnings(
        action="ignore"
    ):  # of its imports, which torch.compiler.reset needs where there is CUDA
        importlib.import_module("torch._inductor.cudagraph_trees")


@pytest.fixture(autouse=True)
def _float32_is_float32():
    """Products and convolutions of float32 are exact to float32 in each test that does not ask for TF32."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(params=["fused", "chunked"])
def path(request, monkeypatch):
    """Each of the two implementations of routed_linear in turn."""
    monkeypatch.setenv("WEMOE_CUDA_ROUTED_LINEAR", request.param)
    return request.param
