"""The fused product: routed_linear, and turned the gradient of its input (csrc/cuda/routed_product.cuh)."""

from dataclasses import dataclass

from cuda_prediction.gpus import SHARED_BYTES_A_CYCLE, Gpu
from cuda_prediction.work import BYTES, Cycles, Seconds, combine, copied, divide_up

TILE_ROWS, GROUP_ROWS, COLUMNS, STEP, TOGETHER = 16, 256, 64, 16, 4
GROUP_WARPS = 4
ROW_COPY_INSTRUCTIONS, PLANE_COPY_INSTRUCTIONS = 13, 30  # of a lane for each copy: addresses, bounds and the copy


@dataclass(frozen=True)
class Plan:
    """How a product is divided: what csrc/cuda/routed_plan.h decides."""

    groups: int
    tiles: int
    unit_rows: int
    route_units: int
    blocks_along: int
    blocks_across: int

    @property
    def group_units(self) -> int:
        """Units that a group of warps has room for."""
        return GROUP_ROWS // (TILE_ROWS * self.tiles)


def plan_groups(R: int, M: int, N: int, groups: int) -> Plan:
    """A plan for one or two groups of warps a block."""
    rows = divide_up(M, TILE_ROWS)
    tiles = 4 if rows <= 4 else 8 if rows <= 8 else 16
    route_units = divide_up(rows, tiles)
    units = groups * GROUP_ROWS // (TILE_ROWS * tiles)
    unit_rows = divide_up(rows, route_units) * TILE_ROWS
    return Plan(groups, tiles, unit_rows, route_units, divide_up(R * route_units, units), divide_up(N, COLUMNS))


def plan_product(R: int, M: int, N: int, gpu: Gpu) -> Plan:
    """Two groups, or one where two would leave multiprocessors without work."""
    two = plan_groups(R, M, N, 2)
    few = two.blocks_along * two.blocks_across < gpu.multiprocessors
    return plan_groups(R, M, N, 1) if few else two


def step(plan: Plan, R: int, T: int) -> Cycles:
    """A block's step of 16 inputs; instructions that are not named were counted in the code for sm_80."""
    warps, group_units = GROUP_WARPS * plan.groups, plan.group_units
    # weights are assembled for units that are not there, too, and not multiplied
    there = min(group_units, R * plan.route_units)
    filled = divide_up(plan.unit_rows // TILE_ROWS, TOGETHER) * TOGETHER * there  # tiles of a warp
    # a warp reads 512 bytes of each plane, widens them, and adds them to the weights of its units
    plane = Cycles(ffma=8 * group_units, widen=8, wavefronts=4 + 1, issue=8 * group_units + 8 + 4.3)
    # then it narrows these, clears them, and multiplies them with its tiles of rows, 512 bytes each
    unit = Cycles(narrow=4, issue=4 + 15)
    tile = Cycles(mma=2, wavefronts=4, issue=1 + 2)
    warp = plane * (T + 1) + unit * group_units + tile * filled + Cycles(issue=30)
    rows = copied(plan.groups * GROUP_ROWS * STEP * BYTES, ROW_COPY_INSTRUCTIONS)
    return warp * warps + rows + copied((T + 1) * COLUMNS * STEP * BYTES, PLANE_COPY_INSTRUCTIONS)


def epilogue(plan: Plan) -> Cycles:
    """A block's rows, through shared memory to y: pairs of numbers in, 16 bytes a lane out."""
    warps, staged = GROUP_WARPS * plan.groups, plan.groups * GROUP_ROWS * COLUMNS * BYTES
    return Cycles(wavefronts=2 * staged / SHARED_BYTES_A_CYCLE, issue=warps * (64 * 6 + 16 * 8))


def predict(R: int, M: int, K: int, N: int, T: int, gpu: Gpu) -> tuple[float, Seconds]:
    """Seconds of y [R, M, N] = x [R, M, K] times each route's weights, and its limiters."""
    plan = plan_product(R, M, N, gpu)
    blocks, together = plan.blocks_along * plan.blocks_across, 2 // plan.groups
    block = step(plan, R, T) * divide_up(K, STEP) + epilogue(plan)
    # the busiest multiprocessor's blocks, as many at a time as there is room for
    cycles = block * divide_up(blocks, gpu.multiprocessors)
    x, y, planes = R * M * K * BYTES, R * M * N * BYTES, (T + 1) * N * K * BYTES
    # x is read again for each column of blocks; those that run at a time share it, and L2 may keep it
    columns = max(1, gpu.multiprocessors * together // plan.blocks_along)
    passes = 1 if x <= gpu.l2_bytes / 2 else divide_up(plan.blocks_across, columns)
    dram = planes + y + x * passes
    l2 = plan.blocks_across * x + plan.blocks_along * planes + y
    return combine([cycles.seconds(gpu)], dram, l2, gpu)
