"""The GPUs that times are predicted for, in published numbers."""

from dataclasses import dataclass

KB, MB = 1024, 1024 * 1024
SHARED_BYTES_A_CYCLE = 128  # of a multiprocessor: 32 banks of 4 bytes
ISSUES_A_CYCLE = 4  # instructions of a multiprocessor, one for each of its schedulers
L2_SHARE = 0.7  # of L2's nominal bandwidth that kernels are known to reach
START_SECONDS = 2e-6  # of a kernel: from the end of the one before it until its multiprocessors are full


@dataclass(frozen=True)
class Gpu:
    """A GPU; rates are those of a multiprocessor and cycle."""

    name: str
    multiprocessors: int
    clock: float  # Hz, at which the published tensor-core rate holds
    tensor_fma: int  # dense, half precision
    mma_share: float  # of tensor_fma that mma.sync reaches
    fp32_fma: int
    conversions: int  # fp32 to half precision; the other way is a shift, of which there are 64
    dram: float  # bytes a second
    l2_bytes: int
    shared_bytes: int  # that a block may have

    @property
    def l2(self) -> float:
        """Bytes a second between L2 and the multiprocessors: nominally 5120 a cycle."""
        return L2_SHARE * 5120 * self.clock

    @property
    def tensor_flops(self) -> float:
        """What a library can reach: two operations for each FMA of the tensor cores."""
        return 2 * self.tensor_fma * self.multiprocessors * self.clock


A100 = Gpu("A100", 108, 1.41e9, 1024, 1.0, 64, 16, 2.039e12, 40 * MB, 163 * KB)
H100 = Gpu("H100", 132, 1.83e9, 2048, 0.62, 128, 64, 3.35e12, 50 * MB, 227 * KB)
H200 = Gpu("H200", 132, 1.83e9, 2048, 0.62, 128, 64, 4.8e12, 50 * MB, 227 * KB)
GPUS = (A100, H100, H200)
