"""Checks a CUDA build without a GPU: it loads, says that it is one, and serves every operator on CUDA."""

import torch

import wemoe_ext

build = wemoe_ext.build_info()
print(f"torch {build['torch']}, CUDA {build['cuda']}, architectures {' '.join(build['cuda_architectures'])}")
assert build["cuda"] is not None, "the library was built for CPU only"
operators = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("wemoe::")]
assert operators, "no operator is registered"
for name in operators:
    assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, "CUDA"), f"{name} has no CUDA kernel"
    print(f"{name} has a kernel for CUDA")
