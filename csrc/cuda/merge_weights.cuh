// merged[r] = base + sum_t routing_weights[r, t] * task_vectors[t] over P flat numbers, and the gradient of
// its routing weights. Both are bound by memory: experts are read once for several routes. Where P allows, a
// thread takes 16 bytes of the widest type at a time, and as many numbers of the others, so that a warp's
// bytes lie side by side in every array.

#pragma once

#include <cstring>

#include "cuda/elements.cuh"
#include "cuda/merge_weights.h"

namespace wemoe::cuda {

constexpr int MERGE_THREADS = 256;  // of a block
constexpr int MERGE_ROUTES = 4;     // that registers hold at a time
constexpr int MERGE_TASKS = 8;      // of the backward

// As many bytes as one instruction loads or stores.
template <int BYTES>
struct PieceType;
template <>
struct PieceType<16> {
  using Type = uint4;
};
template <>
struct PieceType<8> {
  using Type = uint2;
};
template <>
struct PieceType<4> {
  using Type = unsigned;
};
template <int BYTES>
using Piece = typename PieceType<BYTES>::Type;

// COUNT neighbouring numbers at once: at most 16 bytes, at a multiple of their size.
template <int COUNT, typename Element, typename Real>
__device__ __forceinline__ void load_numbers(Real (&numbers)[COUNT], const Element* source) {
  if constexpr (COUNT == 1) {
    numbers[0] = static_cast<Real>(widen(*source));
  } else {
    const auto piece = *reinterpret_cast<const Piece<COUNT * sizeof(Element)>*>(source);
    Element elements[COUNT];
    memcpy(elements, &piece, sizeof(elements));
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      numbers[i] = static_cast<Real>(widen(elements[i]));
    }
  }
}

template <int COUNT, typename Element, typename Real>
__device__ __forceinline__ void store_numbers(Element* target, const Real (&numbers)[COUNT]) {
  if constexpr (COUNT == 1) {
    *target = narrow<Element>(numbers[0]);
  } else {
    Element elements[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      elements[i] = narrow<Element>(numbers[i]);
    }
    Piece<sizeof(elements)> piece;
    memcpy(&piece, elements, sizeof(elements));
    __stwb(reinterpret_cast<Piece<sizeof(elements)>*>(target), piece);  // plain stores, nvcc takes apart
  }
}

// Every thread takes COUNT numbers at a time; a grid of any size takes all.
template <int COUNT, typename Base, typename Expert, typename Merged>
__global__ void __launch_bounds__(MERGE_THREADS, 1)
    merge_weights_kernel(const MergeSizes sizes, const Base* __restrict__ base,
                         const Expert* __restrict__ experts,
                         const Compute<Base>* __restrict__ routing_weights, Merged* __restrict__ merged) {
  using Real = Compute<Base>;
  constexpr int TOGETHER = COUNT == 1 ? 4 : 64 / (COUNT * sizeof(Expert));  // experts on their way
  const int64_t stride = static_cast<int64_t>(gridDim.x) * MERGE_THREADS * COUNT;
  int64_t i = (static_cast<int64_t>(blockIdx.x) * MERGE_THREADS + threadIdx.x) * COUNT;
  for (; i < sizes.P; i += stride) {
    for (int64_t first = 0; first < sizes.R; first += MERGE_ROUTES) {
      Real sums[MERGE_ROUTES][COUNT];
      load_numbers<COUNT>(sums[0], base + i);
#pragma unroll
      for (int r = 1; r < MERGE_ROUTES; r++) {
#pragma unroll
        for (int k = 0; k < COUNT; k++) {
          sums[r][k] = sums[0][k];
        }
      }
#pragma unroll TOGETHER
      for (int64_t t = 0; t < sizes.T; t++) {
        Real numbers[COUNT];
        load_numbers<COUNT>(numbers, experts + t * sizes.P + i);
#pragma unroll
        for (int r = 0; r < MERGE_ROUTES; r++) {
          if (first + r < sizes.R) {
            const Real weight = routing_weights[(first + r) * sizes.T + t];
#pragma unroll
            for (int k = 0; k < COUNT; k++) {
              sums[r][k] += weight * numbers[k];
            }
          }
        }
      }
#pragma unroll
      for (int r = 0; r < MERGE_ROUTES; r++) {
        if (first + r < sizes.R) store_numbers<COUNT>(merged + (first + r) * sizes.P + i, sums[r]);
      }
    }
  }
}

template <typename Real>
__device__ __forceinline__ Real sum_over_warp(Real number) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    number += __shfl_xor_sync(0xffffffffu, number, lanes);
  }
  return number;
}

// Products of up to MERGE_ROUTES gradients and MERGE_TASKS experts over the block's numbers, to
// partial[block, r, t]. Grid: any number of blocks, by groups of tasks, by groups of routes.
template <int COUNT, typename Grad, typename Expert>
__global__ void __launch_bounds__(MERGE_THREADS, 1)
    merge_weights_backward_kernel(const MergeSizes sizes, int blocks, const Grad* __restrict__ grad,
                                  const Expert* __restrict__ experts, Compute<Grad>* __restrict__ partial) {
  using Real = Compute<Grad>;
  constexpr int SUMS = MERGE_ROUTES * MERGE_TASKS, WARPS = MERGE_THREADS / 32;
  __shared__ Real warp_sums[WARPS][SUMS];
  const int64_t first_task = static_cast<int64_t>(blockIdx.y) * MERGE_TASKS;
  const int64_t first_route = static_cast<int64_t>(blockIdx.x / blocks) * MERGE_ROUTES;
  const int64_t block = blockIdx.x % blocks, stride = static_cast<int64_t>(blocks) * MERGE_THREADS * COUNT;
  Real sums[MERGE_ROUTES][MERGE_TASKS] = {};
  int64_t i = (block * MERGE_THREADS + threadIdx.x) * COUNT;
  for (; i < sizes.P; i += stride) {
    Real gradients[MERGE_ROUTES][COUNT] = {};
#pragma unroll
    for (int r = 0; r < MERGE_ROUTES; r++) {
      if (first_route + r < sizes.R)
        load_numbers<COUNT>(gradients[r], grad + (first_route + r) * sizes.P + i);
    }
#pragma unroll
    for (int t = 0; t < MERGE_TASKS; t++) {
      if (first_task + t < sizes.T) {
        Real numbers[COUNT];
        load_numbers<COUNT>(numbers, experts + (first_task + t) * sizes.P + i);
#pragma unroll
        for (int r = 0; r < MERGE_ROUTES; r++) {
#pragma unroll
          for (int k = 0; k < COUNT; k++) {
            sums[r][t] += gradients[r][k] * numbers[k];
          }
        }
      }
    }
  }
#pragma unroll
  for (int s = 0; s < SUMS; s++) {
    const Real sum = sum_over_warp(sums[s / MERGE_TASKS][s % MERGE_TASKS]);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32][s] = sum;
  }
  __syncthreads();
  const int64_t route = first_route + threadIdx.x / MERGE_TASKS,
                task = first_task + threadIdx.x % MERGE_TASKS;
  if (threadIdx.x < SUMS && route < sizes.R && task < sizes.T) {
    Real sum = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) {
      sum += warp_sums[warp][threadIdx.x];
    }
    partial[(block * sizes.R + route) * sizes.T + task] = sum;
  }
}

// sums[i] = partial[0, i] + partial[1, i] + ..., in this order.
template <typename Real>
__global__ void __launch_bounds__(MERGE_THREADS, 1)
    sum_partial_kernel(int64_t blocks, int64_t count, const Real* __restrict__ partial,
                       Real* __restrict__ sums) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * MERGE_THREADS + threadIdx.x;
  if (i >= count) return;
  Real sum = 0;
#pragma unroll 8
  for (int64_t block = 0; block < blocks; block++) {
    sum += partial[block * count + i];
  }
  sums[i] = sum;
}

}  // namespace wemoe::cuda
