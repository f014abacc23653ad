"""How tests name GPUs, sizes and ways of multiplying to the emulated launchers."""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch


class Device(NamedTuple):
    """What ``csrc/cuda/device.h`` has: capability, multiprocessors, bytes of shared memory a block, bytes of L2."""

    capability: int
    multiprocessors: int
    shared_bytes: int
    l2_bytes: int


H100 = Device(90, 132, 227 * 1024, 50 * 2**20)
A100 = Device(80, 108, 163 * 1024, 40 * 2**20)
CONSUMER = Device(86, 84, 99 * 1024, 6 * 2**20)
ONE = H100._replace(multiprocessors=1)  # no block is made small to keep others busy

# Dtypes and whether products are taken in TF32.
KINDS = {
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
    "fp32": (torch.float32, False),
    "tf32": (torch.float32, True),
}
CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}


def array(numbers: Sequence[int]) -> ctypes.Array:
    """Sizes or a device, as the launchers read them."""
    return (ctypes.c_int64 * len(numbers))(*numbers)
