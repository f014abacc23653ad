"""What results depend on: the threads that the benchmarks use, and what the processor can do."""

import os
from pathlib import Path

THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))


def has_amx() -> bool:
    """Whether the processor multiplies bf16 tiles; Linux tells."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "amx_tile" in cpuinfo.read_text().split()
