"""make cuda-inspect: what it reads of the compiler's reports, and that it fails where a kernel is not as expected."""

from collections import Counter
from dataclasses import replace

import pytest

from cuda_inspection.expectations import TABLE
from cuda_inspection.kernels import Kernel, read_kernels, short_name
from cuda_inspection.resources import read_shared_memory
from cuda_inspection.rules import Expectation, at_least, check, exactly, find_expectation, none_but

# What nvcc 13.0 and nvdisasm say of a kernel that spills, shortened, and of the start of another.
PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN5wemoe4cuda8spillingI13__nv_bfloat16EEvPfi' for 'sm_80'
ptxas info    : Function properties for _ZN5wemoe4cuda8spillingI13__nv_bfloat16EEvPfi
    536 bytes stack frame, 584 bytes spill stores, 588 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 536 bytes cumulative stack size, 364 bytes cmem[0]
ptxas info    : Compile time = 10.375 ms
ptxas info    : Compiling entry function '_Z5cleanPf' for 'sm_80'
ptxas info    : Function properties for _Z5cleanPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 0 barriers, 4096 bytes smem, 360 bytes cmem[0]
ptxas info    : Function properties for _Z6helperv
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
"""
NVDISASM = """\
//--------------------- .text._ZN5wemoe4cuda8spillingI13__nv_bfloat16EEvPfi --------------------------
        .global         _ZN5wemoe4cuda8spillingI13__nv_bfloat16EEvPfi
_ZN5wemoe4cuda8spillingI13__nv_bfloat16EEvPfi:
.text._ZN5wemoe4cuda8spillingI13__nv_bfloat16EEvPfi:
        /*0010*/                   HFMA2.MMA R3, -RZ, RZ, 0, 2.384185791015625e-07 ;
        /*0080*/                   STL.64 [R1+0x8], R2 ;
        /*0110*/                   LDL.LU.64 R14, [R1+0x8] ;
        /*0120*/              @!P0 LDGSTS.E.BYPASS.LTC128B.128.ZFILL [R5], [R2.64], !P1 ;
        /*0130*/             @!UP0 LDGSTS.E.LTC128B [R7], [R2.64] ;
        /*0140*/               @PT HMMA.16816.F32.BF16 R4, R8, R10, R4 ;
        /*0150*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
.L_x_0:
        /*0160*/              @P12 STG.E.128 [R2.64], R4 ;
        /*0170*/                   EXIT ;
.text._Z5cleanPf:
        /*0000*/                   STG.E [R2.64], R4 ;
"""

PRODUCTS = ("HalfProduct<__half>", "HalfProduct<__nv_bfloat16>", "FloatProduct", "Tf32Product")

ENTRY = Expectation(
    pattern="spilling<*>",
    threads=256,
    registers=255,
    blocks=2,
    reason="two blocks hide each other's waiting",
    rules=(exactly(2, "HMMA", "two products"), at_least(1, "STG", "whole rows", modifier="128")),
)


def clean_kernel():
    return Kernel("symbol", "spilling<float>", registers=200, opcodes=Counter({"HMMA.16816": 2, "STG.E.128": 4}))


def test_resources_and_instructions_are_read_of_each_kernel():
    clean, spilling = read_kernels(PTXAS, NVDISASM)
    assert (clean.name, clean.registers, clean.static_shared, clean.stack, clean.spilled) == ("clean", 12, 4096, 0, 0)
    assert clean.opcodes == {"STG.E": 1}
    assert spilling.name == "spilling<__nv_bfloat16>"
    assert (spilling.registers, spilling.static_shared, spilling.stack) == (32, 0, 536)
    assert spilling.spilled == 584 + 588
    assert spilling.opcodes.total() == 9
    assert spilling.count("HMMA") == 2  # not HFMA2.MMA
    assert spilling.count("LDGSTS") == 2
    assert spilling.count("LDGSTS", "128") == 1  # LTC128B is a hint to L2, not a width
    assert spilling.count("STG", "128") == 1


def test_names_lose_what_the_table_does_not_need():
    name = "void wemoe::cuda::product<wemoe::cuda::Half<__half>, wemoe::cuda::(anonymous namespace)::Block<2, 4> >(int)"
    assert short_name(name) == "product<Half<__half>, Block<2, 4>>"


def test_a_kernel_as_expected_passes():
    assert check(clean_kernel(), 80, (ENTRY,), blocks=2) == []


@pytest.mark.parametrize(
    ("change", "blocks", "rule", "found"),
    [
        ({"spilled": 8}, 2, "spilled bytes = 0", "8"),
        ({"stack": 16}, 2, "stack bytes = 0", "16"),
        ({"registers": 256}, 2, "registers <= 255", "256"),
        ({"opcodes": Counter({"HMMA.16816": 3, "STG.E.128": 4})}, 2, "HMMA = 2", "3"),
        ({"opcodes": Counter({"HMMA.16816": 2, "STG.E": 4})}, 2, "STG.128 >= 1", "0"),
        ({"opcodes": clean_kernel().opcodes + Counter({"LDL.LU.64": 1})}, 2, "LDL = 0", "1"),
        ({"opcodes": clean_kernel().opcodes + Counter({"STL": 5})}, 2, "STL = 0", "5"),
        ({}, 1, "blocks a multiprocessor >= 2", "1"),
    ],
)
def test_what_is_not_as_expected_is_named(change, blocks, rule, found):
    (failure,) = check(replace(clean_kernel(), **change), 90, (ENTRY,), blocks)
    assert (failure.architecture, failure.kernel, failure.rule, failure.found) == (90, "spilling<float>", rule, found)
    assert str(failure).startswith(f"sm_90 spilling<float>: expected {rule} (")
    assert str(failure).endswith(f"Found {found}.")


def test_the_kernel_that_spills_breaks_the_common_rules():
    broken = {failure.rule for failure in check(read_kernels(PTXAS, NVDISASM)[1], 80, (ENTRY,), blocks=2)}
    assert broken == {"spilled bytes = 0", "stack bytes = 0", "LDL = 0", "STL = 0"}


def test_a_width_may_be_the_only_one():
    kernel = read_kernels(PTXAS, NVDISASM)[1]
    rule = none_but("128", "LDGSTS", "16 bytes a copy")
    assert rule.found(kernel) == 1
    assert not rule.holds(rule.found(kernel))
    assert rule.holds(rule.found(clean_kernel()))


def test_small_shared_memory_may_hold_fewer_blocks():
    entry = replace(ENTRY, blocks_in_100_kb=1)
    assert [entry.blocks_on(architecture) for architecture in (80, 86, 90, 100, 120)] == [2, 1, 2, 2, 1]


def test_a_kernel_without_an_entry_fails_and_so_does_one_with_two():
    for table in ((), (ENTRY, ENTRY)):
        (failure,) = check(clean_kernel(), 80, table, blocks=2)
        assert "one entry" in failure.rule


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("groups", [1, 2])
def test_every_way_of_multiplying_has_its_entry(product, groups):
    entry = find_expectation(TABLE, f"routed_product<{product}, Block<{groups}, 16>, true>")
    assert (entry.threads, entry.blocks_on(80)) == (128 * groups, 2 // groups)


def test_shared_memory_is_read_by_architecture_and_kernel():
    lines = "80 81280 routed_product<wemoe::cuda::HalfProduct<__half>, wemoe::cuda::Block<1, 4>, false>\n90 16 other\n"
    shared = read_shared_memory(lines)
    assert shared == {(80, "routed_product<HalfProduct<__half>, Block<1, 4>, false>"): 81280, (90, "other"): 16}
