"""The other kernels and paths: the routing gradient, merge_weights, weights in chunks, a plain linear map."""

from cuda_prediction.gpus import START_SECONDS, Gpu
from cuda_prediction.work import BYTES, Cycles, Seconds, combine, copied, divide_up

TILE, SLAB, ROUTES = 64, 64, 8
MERGE_ROUTES, MERGE_TASKS = 4, 8
COPY_INSTRUCTIONS = 9  # of a lane for each copy, counted in the code for sm_80


def predict_routing_gradient(R: int, M: int, D: int, F: int, T: int, gpu: Gpu) -> tuple[float, Seconds]:
    """Seconds of the gradient of routing weights, and its limiters."""
    warps = 8
    # 32 rows of grad and x: six loads of 512 bytes, eight products of 16 x 8 x 16
    rows = Cycles(mma=8, wavefronts=24, issue=8 + 6 + 10) * warps
    slab = copied(2 * SLAB * TILE * BYTES, COPY_INSTRUCTIONS) + Cycles(issue=10) * warps
    # an expert's tile: 16 numbers a lane meet those of eight routes, whose sums are taken over the warp
    contraction = Cycles(ffma=16 * ROUTES, widen=16, wavefronts=8, issue=16 * ROUTES + 16 + 2 + 57)
    expert = contraction * warps + copied(TILE * TILE * BYTES, COPY_INSTRUCTIONS) + Cycles(issue=5) * warps
    groups, tiles = divide_up(R, ROUTES), divide_up(F, TILE) * divide_up(D, TILE)
    rounds = divide_up(groups * tiles, gpu.multiprocessors)
    routes = min(R, ROUTES)
    route = rows * divide_up(M, 32) + slab * divide_up(M, SLAB)
    phases = [route * routes * rounds, expert * T * rounds]
    x, grad, experts = R * M * D * BYTES, R * M * F * BYTES, T * F * D * BYTES
    partial = tiles * groups * T * ROUTES * 4
    # tiles are numbered along the inputs: x is read again for every row of tiles that run at a time
    tile_rows = max(1, gpu.multiprocessors // (groups * divide_up(D, TILE)))
    passes = 1 if x <= gpu.l2_bytes / 2 else divide_up(divide_up(F, TILE), tile_rows)
    l2 = divide_up(F, TILE) * x + divide_up(D, TILE) * grad + groups * experts + 2 * partial
    seconds, limits = combine([phase.seconds(gpu) for phase in phases], x * passes + grad + experts, l2, gpu)
    return seconds + START_SECONDS, limits  # the second kernel adds up what the blocks found


def merge_cycles(numbers: float, R: int, T: int, planes: float, written: float, gpu: Gpu) -> Seconds:
    """Of a kernel that reads planes and has R times T products for each number; eight numbers a lane."""
    per_warp = numbers / (32 * 8 * gpu.multiprocessors)
    return Cycles(
        ffma=8 * R * T * per_warp,
        widen=8 * planes * per_warp,
        narrow=4 * written * per_warp,
        issue=(8 * R * T + (8 + 4) * planes + (4 + 4) * written) * per_warp,
    ).seconds(gpu)


def predict_merge(R: int, P: int, T: int, gpu: Gpu, in_l2: bool = False) -> tuple[float, Seconds]:
    """Seconds of merge_weights; merged weights that stay in L2 are not written to device memory."""
    read, written = (T + 1) * P * BYTES, R * P * BYTES
    rereads = divide_up(R, MERGE_ROUTES)
    phase = merge_cycles(P, R, T, (T + 1) * rereads, R, gpu)
    return combine([phase], read + (0 if in_l2 else written), read * rereads + written, gpu)


def predict_merge_backward(R: int, P: int, T: int, gpu: Gpu) -> tuple[float, Seconds]:
    """Seconds of the gradient of merge_weights: experts come once for every four routes, gradients for eight tasks."""
    planes = T * divide_up(R, MERGE_ROUTES) + R * divide_up(T, MERGE_TASKS)
    read = planes * P * BYTES
    seconds, limits = combine([merge_cycles(P, R, T, planes, 0, gpu)], read, read, gpu)
    return seconds + START_SECONDS, limits


def predict_plain(rows: int, K: int, N: int, gpu: Gpu) -> float:
    """Seconds of a plain linear map at the published peak: no library is faster."""
    return START_SECONDS + max(2 * rows * K * N / gpu.tensor_flops, (rows * (K + N) + K * N) * BYTES / gpu.dram)


def chunks(R: int, weight_bytes: int, gpu: Gpu) -> list[int]:
    """Routes of each chunk: as many as have weights that fit half of L2."""
    most = max(1, min(R, gpu.l2_bytes // 2 // weight_bytes))
    return [min(most, R - first) for first in range(0, R, most)]


def batched_product(routes: int, M: int, K: int, N: int, gpu: Gpu) -> float:
    """Seconds of products of a library at its peak, tiles of 64 rows, operands in L2."""
    flops = 2 * routes * divide_up(M, 64) * 64 * K * N / gpu.tensor_flops
    return START_SECONDS + max(flops, routes * (M * (K + N) + N * K) * BYTES / gpu.l2)


def predict_chunked(R: int, M: int, K: int, N: int, T: int, gpu: Gpu) -> float:
    """Seconds of merging weights and multiplying them, chunk by chunk."""
    in_l2 = gpu.l2_bytes // 2 >= N * K * BYTES
    return sum(
        predict_merge(routes, N * K, T, gpu, in_l2)[0] + batched_product(routes, M, K, N, gpu)
        for routes in chunks(R, N * K * BYTES, gpu)
    )


def predict_chunked_gradient(R: int, M: int, D: int, F: int, T: int, gpu: Gpu) -> float:
    """Seconds of making the gradients of weights, in fp32, and contracting them with the experts, chunk by chunk."""
    seconds, gradient_bytes = 0.0, 2 * F * D * BYTES
    for routes in chunks(R, gradient_bytes, gpu):
        experts = T * F * D * BYTES * divide_up(routes, MERGE_ROUTES)
        contraction = max(experts / gpu.dram, (experts + 2 * routes * gradient_bytes) / gpu.l2)
        seconds += batched_product(routes, M, D, F, gpu) + contraction + 2 * START_SECONDS
    return seconds
