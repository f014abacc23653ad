"""Bytes and cycles of a kernel, and the seconds that they take."""

from dataclasses import dataclass

from cuda_prediction.gpus import ISSUES_A_CYCLE, SHARED_BYTES_A_CYCLE, START_SECONDS, Gpu

BYTES = 2  # of a number in half precision
LIMITERS = ("dram", "l2", "tensor", "fp32", "convert", "shared", "issue")
Seconds = dict[str, float]  # by limiter


def divide_up(a: int, b: int) -> int:
    """The smallest multiple of b that is not below a, over b."""
    return -(-a // b)


@dataclass(frozen=True)
class Cycles:
    """What a multiprocessor has to do: counts of warps' instructions and of shared memory's wavefronts."""

    mma: float = 0  # of 16 x 8 x 16
    ffma: float = 0
    widen: float = 0
    narrow: float = 0
    wavefronts: float = 0  # of 128 bytes
    issue: float = 0  # instructions of every kind

    def __add__(self, other: "Cycles") -> "Cycles":
        mine, others = vars(self), vars(other)
        return Cycles(**{name: mine[name] + others[name] for name in mine})

    def __mul__(self, times: float) -> "Cycles":
        return Cycles(**{name: count * times for name, count in vars(self).items()})

    def seconds(self, gpu: Gpu) -> Seconds:
        """Of each kind, were it alone."""
        cycles = {
            "tensor": self.mma * 16 * 8 * 16 / (gpu.tensor_fma * gpu.mma_share),
            "fp32": self.ffma * 32 / gpu.fp32_fma,
            "convert": self.widen * 32 / 64 + self.narrow * 32 / gpu.conversions,
            "shared": self.wavefronts,
            "issue": self.issue / ISSUES_A_CYCLE,
        }
        return {name: count / gpu.clock for name, count in cycles.items()}


def copied(count: float, instructions: float) -> Cycles:
    """Asynchronous copies of bytes to shared memory, 16 a lane and 512 a warp, and the instructions of each."""
    return Cycles(wavefronts=count / SHARED_BYTES_A_CYCLE, issue=instructions * count / 512)


def combine(phases: list[Seconds], dram: float, l2: float, gpu: Gpu) -> tuple[float, Seconds]:
    """A kernel's predicted time, and its limiters: what follows one another is added, the rest overlaps."""
    limits = {name: sum(phase[name] for phase in phases) for name in phases[0]}
    limits |= {"dram": dram / gpu.dram, "l2": l2 / gpu.l2}
    busy = sum(max(phase.values()) for phase in phases)
    return START_SECONDS + max(busy, limits["dram"], limits["l2"]), {name: limits[name] for name in LIMITERS}
