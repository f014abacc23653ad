// Inner products of gradients and experts. Part of kernels_impl.h.

#pragma once

#include "cpu/packing.h"

namespace wemoe::cpu {
namespace {

// Sums that stay in registers: of so many routes by so many tasks.
constexpr int CONTRACT_ROUTES = WEMOE_VECTOR_REGISTERS == 32 ? 4 : 2;
constexpr int CONTRACT_TASKS = 4;

// sums[r][t] += g[r] * expert t, over runs of `size` numbers: a line, or arrays as a whole.
template <typename Real, int R, int TASKS, typename Expert>
void contract_block(int64_t runs, int64_t size, const Real* g, int64_t g_stride, const Expert* experts,
                    int64_t run_step, int64_t expert_step, Real* sums, int64_t sums_stride) {
  constexpr int N = LANES<Real>;
  using V = Vector<Real, N>;
  V sum[R][TASKS];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int t = 0; t < TASKS; t++) {
      sum[r][t] = read<V>(sums + r * sums_stride + t * N);
    }
  }
  for (int64_t run = 0; run < runs; run++) {
    for (int64_t i = 0; i + N <= size; i += N) {
      V expert[TASKS];
#pragma GCC unroll 4
      for (int t = 0; t < TASKS; t++) {
        expert[t] = load<Real, N>(experts + run * run_step + t * expert_step + i);
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const V left = read<V>(g + r * g_stride + run * size + i);
#pragma GCC unroll 4
        for (int t = 0; t < TASKS; t++) {
          sum[r][t] += left * expert[t];
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
    for (int t = 0; t < TASKS; t++) {
      write(sums + r * sums_stride + t * N, sum[r][t]);
    }
  }
  if (runs != 1) return;  // lines are whole vectors
  for (int64_t i = size / N * N; i < size; i++) {
    for (int r = 0; r < R; r++) {
      for (int t = 0; t < TASKS; t++) {
        sums[r * sums_stride + t * N + i % N] +=
            g[r * g_stride + i] * load_one<Real>(experts + t * expert_step + i);
      }
    }
  }
}

template <typename Real, typename Expert, int... I>
constexpr auto contraction_table(Indices<I...>) {
  struct Table {
    decltype(&contract_block<Real, 1, 1, Expert>) by_size[sizeof...(I)];
  };
  return Table{{&contract_block<Real, I / CONTRACT_TASKS + 1, I % CONTRACT_TASKS + 1, Expert>...}};
}

template <typename Real, typename Expert>
void contract_runs(int64_t routes, int64_t tasks, int64_t runs, int64_t size, const Real* g, int64_t g_stride,
                   const Expert* experts, int64_t run_step, int64_t expert_step, Real* sums) {
  static constexpr auto table =
      contraction_table<Real, Expert>(typename IndicesUpTo<CONTRACT_ROUTES * CONTRACT_TASKS>::type{});
  for (int64_t r = 0; r < routes; r += CONTRACT_ROUTES) {
    for (int64_t t = 0; t < tasks; t += CONTRACT_TASKS) {
      const int64_t shape =
          (min(CONTRACT_ROUTES, routes - r) - 1) * CONTRACT_TASKS + min(CONTRACT_TASKS, tasks - t) - 1;
      table.by_size[shape](runs, size, g + r * g_stride, g_stride, experts + t * expert_step, run_step,
                           expert_step, sums + (r * tasks + t) * LANES<Real>, tasks * LANES<Real>);
    }
  }
}

template <typename Real>
void contract(int64_t routes, int64_t tasks, int64_t lines, const Real* g, int64_t g_stride,
              const void* experts, Dtype dtype, Real* sums) {
  // A few lines at a time stay in the first-level cache for all routes and tasks.
  constexpr int64_t BLOCK = 32;
  with_expert_type<Real>(experts, dtype, [&](auto* typed) {
    for (int64_t line = 0; line < lines; line += BLOCK) {
      contract_runs(routes, tasks, min(BLOCK, lines - line), LINE, g + line * LINE, g_stride,
                    typed + line * tasks * LINE, tasks * LINE, LINE, sums);
    }
  });
}

template <typename Real>
void inner_products(int64_t routes, int64_t tasks, int64_t size, const Real* g, int64_t g_stride,
                    const Real* experts, int64_t expert_stride, Real* sums) {
  contract_runs(routes, tasks, 1, size, g, g_stride, experts, 0, expert_stride, sums);
}

}  // namespace
}  // namespace wemoe::cpu
