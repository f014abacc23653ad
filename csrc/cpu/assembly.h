// Sums of base and experts, weighted for each route. Part of kernels_impl.h.

#pragma once

#include "cpu/packing.h"

namespace wemoe::cpu {
namespace {

// Sums that stay in registers: of so many routes, each in so many vectors.
constexpr int ROUTES = WEMOE_VECTOR_REGISTERS == 32 ? 8 : 4;
constexpr int ASSEMBLY_VECTORS = 2;

// One step: the experts' numbers are loaded once for all routes. Vector v of expert t lies at
// experts + v * vector_step + t * expert_step.
template <typename Real, int N, int VECTORS, int R, typename Expert>
[[gnu::always_inline]] inline void assemble_step(int64_t tasks, const Real* base, const Expert* experts,
                                                 int64_t vector_step, int64_t expert_step,
                                                 const Real* routing_weights, Real* out, int64_t out_stride) {
  using V = Vector<Real, N>;
  V sum[R][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
      sum[r][v] = read<V>(base + v * N);
    }
  }
  for (int64_t t = 0; t < tasks; t++) {
    V expert[VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
      expert[v] = load<Real, N>(experts + v * vector_step + t * expert_step);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++) {
        sum[r][v] += routing_weights[r * tasks + t] * expert[v];
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
      write(out + r * out_stride + v * N, sum[r][v]);
    }
  }
}

template <typename Real, typename Expert, int R>
void assemble_lines(int64_t tasks, int64_t lines, const Real* base, const Expert* experts,
                    const Real* routing_weights, Real* out, int64_t out_stride) {
  constexpr int N = LANES<Real>;
  constexpr int64_t STEP = N * ASSEMBLY_VECTORS;
  const int64_t vector_step = N < LINE ? N : tasks * LINE;  // the second vector may be the next line
  int64_t i = 0;
  for (; i + STEP <= lines * LINE; i += STEP) {
    assemble_step<Real, N, ASSEMBLY_VECTORS, R>(tasks, base + i, experts + i / LINE * tasks * LINE + i % LINE,
                                                vector_step, LINE, routing_weights, out + i, out_stride);
  }
  if (i < lines * LINE) {
    assemble_step<Real, N, 1, R>(tasks, base + i, experts + i * tasks, vector_step, LINE, routing_weights,
                                 out + i, out_stride);
  }
}

template <typename Real, int R>
void merge_arrays(int64_t tasks, int64_t size, const Real* base, const Real* experts, int64_t expert_stride,
                  const Real* routing_weights, Real* out, int64_t out_stride) {
  constexpr int N = LANES<Real>;
  constexpr int64_t STEP = N * ASSEMBLY_VECTORS;
  int64_t i = 0;
  for (; i + STEP <= size; i += STEP) {
    assemble_step<Real, N, ASSEMBLY_VECTORS, R>(tasks, base + i, experts + i, N, expert_stride,
                                                routing_weights, out + i, out_stride);
  }
  for (; i < size; i++) {
    assemble_step<Real, 1, 1, R>(tasks, base + i, experts + i, 1, expert_stride, routing_weights, out + i,
                                 out_stride);
  }
}

template <typename Real, typename Expert, int... I>
constexpr auto assembly_table(Indices<I...>) {
  struct Table {
    decltype(&assemble_lines<Real, Expert, 1>) by_routes[sizeof...(I)];
  };
  return Table{{&assemble_lines<Real, Expert, I + 1>...}};
}

template <typename Real>
void assemble(int64_t routes, int64_t tasks, int64_t lines, const Real* base, const void* experts,
              Dtype dtype, const Real* routing_weights, Real* out, int64_t out_stride) {
  with_expert_type<Real>(experts, dtype, [&]<typename Expert>(const Expert* typed) {
    static constexpr auto table = assembly_table<Real, Expert>(IndicesUpTo<ROUTES>::type{});
    table.by_routes[routes - 1](tasks, lines, base, typed, routing_weights, out, out_stride);
  });
}

template <typename Real, int... I>
constexpr auto merge_table(Indices<I...>) {
  struct Table {
    decltype(&merge_arrays<Real, 1>) by_routes[sizeof...(I)];
  };
  return Table{{&merge_arrays<Real, I + 1>...}};
}

template <typename Real>
void merge(int64_t routes, int64_t tasks, int64_t size, const Real* base, const Real* experts,
           int64_t expert_stride, const Real* routing_weights, Real* out, int64_t out_stride) {
  static constexpr auto table = merge_table<Real>(IndicesUpTo<ROUTES>::type{});
  for (int64_t r = 0; r < routes; r += ROUTES) {
    table.by_routes[min(ROUTES, routes - r) - 1](tasks, size, base, experts, expert_stride,
                                                 routing_weights + r * tasks, out + r * out_stride,
                                                 out_stride);
  }
}

}  // namespace
}  // namespace wemoe::cpu
