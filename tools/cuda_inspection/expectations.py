"""What each CUDA kernel was written for, one entry a template. A kernel without an entry fails the inspection.

Counts are exact where all loops around an instruction are unrolled by hand, so that they also prove the unrolling.
Registers are bounded, since their exact number changes with the compiler's version.
"""

from cuda_inspection.rules import Expectation, Rule, at_least, exactly, none_but

COPIES = (
    at_least(1, "LDGSTS", "tiles come by asynchronous copies", modifier="128"),
    none_but("128", "LDGSTS", "16 bytes a copy: a narrower one costs the same slot and passes through L1"),
)
STORES = (
    at_least(1, "STG", "rows leave 16 bytes a lane", modifier="128"),
    none_but("128", "STG", "no narrow store is left in the epilogue"),
)


def routed_product(product: str, groups: int, *rules: Rule, small: int | None = None) -> Expectation:
    """The fused product, of one or two groups of four warps."""
    return Expectation(
        pattern=f"routed_product<{product}, Block<{groups}, *>, *>",
        threads=128 * groups,
        registers=255,
        blocks=2 // groups,
        blocks_in_100_kb=small,
        reason="eight warps fill a multiprocessor: 128 sums and up to 32 weights a lane want all 255 registers",
        rules=(*rules, *COPIES, *STORES),
    )


HALF = (
    exactly(32, "HMMA", "16 tiles of 16 rows, two products of 8 outputs each"),
    at_least(16 + 3, "LDSM", "a load for each tile of rows and for each of three planes that are fetched together"),
)
TF32 = (
    exactly(64, "HMMA", "16 tiles of 16 rows, two products of 8 outputs for each half of the 16 inputs"),
    at_least(32, "LDSM", "two loads for each tile of rows"),
)
FLOAT = (
    exactly(0, "HMMA", "fp32 is not rounded"),
    at_least(2048, "FFMA", "16 tiles, 8 sums a lane, 16 inputs, all unrolled"),
    at_least(128, "LDS", "rows come 16 bytes a lane: 16 tiles, two rows, four pieces", modifier="128"),
)


def routing_gradient(product: str, *rules: Rule) -> Expectation:
    """The contraction of weight gradients with the experts."""
    return Expectation(
        pattern=f"routing_gradient_tiles<{product}>",
        threads=256,
        registers=255,
        blocks=1,
        reason="128 sums of eight routes a lane: one block of eight warps has the registers to itself",
        rules=(*rules, *COPIES),
    )


CONTRACTION = at_least(128, "FFMA", "16 sums of 8 routes meet an expert's numbers, all unrolled")


def merging(pattern: str, registers: int, blocks: int, *rules: Rule) -> Expectation:
    """A kernel of merge_weights: bound by device memory, which wants some 32 KB on their way to a multiprocessor."""
    return Expectation(
        pattern=pattern,
        threads=256,
        registers=registers,
        blocks=blocks,
        reason=f"{blocks * 256} threads have enough loads on their way to fill device memory's latency",
        rules=rules,
        dynamic_shared=False,
    )


# of the widest type; narrower ones come and go in as many numbers
PIECES = at_least(1, "LDG", "numbers are read 16 bytes a lane", modifier="128")
WHOLE_STORES = exactly(4, "STG", "one store for each of four routes: none is taken apart")

TABLE = (
    routed_product("HalfProduct<*>", 1, *HALF),
    routed_product("HalfProduct<*>", 2, *HALF),
    routed_product("Tf32Product", 1, *TF32, small=1),  # rows on their way out take 64 KB of 100
    routed_product("Tf32Product", 2, *TF32),
    routed_product("FloatProduct", 1, *FLOAT, small=1),
    routed_product("FloatProduct", 2, *FLOAT),
    routing_gradient(
        "HalfWeightGradient<*>",
        exactly(128, "HMMA", "8 routes, four times 16 rows, four products of 8 inputs"),
        exactly(100, "LDSM", "8 routes, four times 16 rows, three loads; two for each of two experts"),
        CONTRACTION,
    ),
    routing_gradient(
        "Tf32WeightGradient",
        exactly(128, "HMMA", "8 routes, four times 8 rows, four products of 8 inputs"),
        CONTRACTION,
    ),
    routing_gradient(
        "FloatWeightGradient",
        exactly(0, "HMMA", "fp32 is not rounded"),
        at_least(512 + 128, "FFMA", "8 routes, four rows, 16 sums; and the contraction"),
        at_least(64, "LDS", "rows come 16 bytes a lane: 8 routes, four rows, grad and x", modifier="128"),
    ),
    Expectation(
        pattern="sum_gradient_tiles",
        threads=1024,
        registers=64,
        blocks=1,
        reason="a block of 1024 threads can have no more registers, and there are fewer blocks than multiprocessors",
        rules=(),
    ),
    # one number at a time, where rows of P numbers are no whole pieces of 16 bytes; else 2, 4 or 8
    merging("merge_weights_kernel<1, *>", 96, 2),
    merging("merge_weights_kernel<[!1], [!d]*>", 128, 2, PIECES, WHOLE_STORES),
    merging("merge_weights_kernel<[!1], double, *>", 255, 1, PIECES, WHOLE_STORES),  # sums of fp64 take two registers
    merging("merge_weights_backward_kernel<1, *>", 128, 2),
    merging("merge_weights_backward_kernel<[!1], [!d]*>", 128, 2, PIECES),
    merging("merge_weights_backward_kernel<[!1], double, *>", 255, 1, PIECES),
    merging("sum_partial_kernel<*>", 64, 4),
)
