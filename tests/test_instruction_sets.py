"""The CPU kernels of every instruction set: right on this machine, out of one another's way, and chosen by name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wemoe_ext import build_info


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_no_instruction_set_exports_functions(isa, tmp_path):
    """What a kernel file exports the linker may put in place of the same function for older CPUs."""
    root = Path(__file__).parents[1]
    compiler = os.environ.get("CXX", "c++").split()[0]
    source, target = root / "csrc" / "cpu" / f"kernels_{isa}.cpp", tmp_path / "kernels.o"
    flags = ["-std=c++20", "-O1", "-fPIC", f"-I{root / 'csrc'}", "-c"]
    subprocess.run([compiler, *flags, str(source), "-o", str(target)], check=True)
    symbols = subprocess.run(
        ["nm", "--demangle", "--defined-only", "--extern-only", str(target)], check=True, capture_output=True, text=True
    )
    assert [line.split()[-1] for line in symbols.stdout.splitlines()] in ([], [f"wemoe::cpu::{isa}_isa"])


# What torch's own library may use beside each of ours.
ONEDNN_ISA = {"baseline": "SSE41", "avx2": "AVX2", "avx512": "AVX512_CORE", "avx512_bf16": "DEFAULT"}


@pytest.mark.parametrize("isa", ONEDNN_ISA)
def test_every_instruction_set_matches_the_reference(isa):
    active = run_python("import wemoe_ext; print(wemoe_ext.build_info()['cpu_instruction_set'])", isa)
    if "not on this machine" in active.stderr:
        pytest.skip(f"this machine has no {isa}")
    assert active.stdout.strip() == isa, active.stderr
    if isa == build_info()["cpu_instruction_set"]:
        return  # all tests here are its tests
    files = [str(Path(__file__).with_name(name)) for name in ("test_routed_linear.py", "test_packing.py")]
    checks = run_python(f"import sys, pytest; sys.exit(pytest.main(['-q', *{files}, '-k', '{KERNEL_TESTS}']))", isa)
    assert checks.returncode == 0, checks.stdout


KERNEL_TESTS = "cpu and (matches_reference or dtype or strides) or depend or half_precision or last_bit"


def test_unknown_instruction_set_is_an_error():
    result = run_python("import wemoe_ext; wemoe_ext.build_info()", "sse9")
    assert "RuntimeError: WEMOE_CPU_ISA must name an instruction set" in result.stderr
    assert "Found sse9." in result.stderr


def run_python(code, isa):
    environment = {**os.environ, "WEMOE_CPU_ISA": isa, "ONEDNN_MAX_CPU_ISA": ONEDNN_ISA.get(isa, "DEFAULT")}
    root = Path(__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True, timeout=300
    )
