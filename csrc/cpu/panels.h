// How routed_linear is walked on the CPU, forward and backward.
//
// A panel is up to PANEL columns of the result. For each panel, and each tile of rows of its weights, base
// and experts are packed once; each route's tile is assembled from them and multiplied while both are in
// cache. So every expert is read from memory once for each chunk of routes (thousands of rows), and no merged
// weights but those of a few routes' tiles ever exist.
//
// Every sum runs over the whole of its index in order, whatever the chunks, groups and threads are: a route's
// result does not depend on the routes beside it.

#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/matrix.h"

namespace wemoe::cpu {

constexpr int64_t GROUP = 8;                 // routes whose tiles are assembled together
constexpr int64_t CACHE_BYTES = 512 * 1024;  // for the tiles of one step: half of a usual second-level cache
constexpr int64_t CHUNK_ROWS = 4096;         // whose results a panel keeps at hand: 1 MiB of floats
constexpr int64_t SHARED_ROWS = 256;  // fewer are not worth reading the experts again for another thread

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_divide(a, b) * b; }

// Rows of a tile, such that base, experts and the group's assembled tiles stay in cache.
template <typename Real>
int64_t tile_rows(int64_t T) {
  const int64_t rows = CACHE_BYTES / ((T + 1 + GROUP) * PANEL * static_cast<int64_t>(sizeof(Real)));
  return std::clamp<int64_t>(rows / 16 * 16, 16, 128);
}

// Some routes with all their rows, or one route's part of CHUNK_ROWS rows at most.
struct Chunk {
  int64_t first_route, routes, part, first_row, rows;
};

inline int64_t parts_of_route(int64_t M) { return ceil_divide(M, CHUNK_ROWS); }

// Large chunks read the experts seldom; where there are fewer panels than threads, smaller ones share the
// work.
inline std::vector<Chunk> split_into_chunks(int64_t R, int64_t M, int64_t panels) {
  std::vector<Chunk> chunks;
  if (M == 0 || panels == 0) return chunks;
  const int64_t sharing = ceil_divide(at::get_num_threads(), panels);
  const int64_t max_rows = std::clamp(ceil_divide(R * M, sharing), SHARED_ROWS, CHUNK_ROWS);
  const int64_t routes = std::max<int64_t>(1, max_rows / M), parts = parts_of_route(M);
  for (int64_t r = 0; r < R; r += routes) {
    for (int64_t p = 0; p < parts; p++) {
      const int64_t first_row = M * p / parts;
      chunks.push_back({r, std::min(routes, R - r), p, first_row, M * (p + 1) / parts - first_row});
    }
  }
  return chunks;
}

// Calls f(chunk, panel) for all of them, shared between the threads.
template <typename F>
void for_chunks_and_panels(const std::vector<Chunk>& chunks, int64_t panels, F f) {
  at::parallel_for(0, panels * static_cast<int64_t>(chunks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      f(chunks[i / panels], i % panels);
    }
  });
}

// Calls f(first, count) for the groups of a chunk's routes, counted from the chunk's first.
template <typename F>
void for_groups(const Chunk& chunk, F f) {
  for (int64_t first = 0; first < chunk.routes; first += GROUP) {
    f(first, std::min(GROUP, chunk.routes - first));
  }
}

// Base first, then the experts, each as [D, F], or as [F, D] if not `transpose`.
inline std::vector<Matrix> base_and_experts(const at::Tensor& base, const at::Tensor& task_vectors,
                                            bool transpose) {
  std::vector<Matrix> matrices = {matrix_of(base)};
  for (const auto& task_vector : task_vectors.unbind()) {
    matrices.push_back(matrix_of(task_vector));
  }
  if (transpose) {
    std::transform(matrices.begin(), matrices.end(), matrices.begin(), transposed);
  }
  return matrices;
}

// Left operands, [tile of columns][route][row][column of the tile], with the rows transposed in blocks: a
// panel's walk over the tiles reads them from first to last.
template <typename Real>
at::Tensor pack_left(const at::Tensor& x, const std::vector<Chunk>& chunks, int64_t step) {
  const int64_t R = x.size(0), M = x.size(1), columns = x.size(2);
  const auto packed = scratch<Real>(x.numel());
  Real* out = packed.template mutable_data_ptr<Real>();
  for (const auto& chunk : chunks) {
    at::parallel_for(0, chunk.routes, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = chunk.first_route + begin; r < chunk.first_route + end; r++) {
        const Matrix route = matrix_of(x.select(0, r));
        for (int64_t column = 0; column < columns; column += step) {
          const int64_t depth = std::min(step, columns - column);
          kernels<Real>().pack_rows(block(route, chunk.first_row, column, chunk.rows, depth),
                                    out + column * R * M + (r * M + chunk.first_row) * depth);
        }
      }
    });
  }
  return packed;
}

// Packs the same block of base and experts, `size` numbers apart, and fetches each while the one before is
// packed.
template <typename Real>
void pack_tiles(const std::vector<Matrix>& matrices, int64_t row, int64_t column, int64_t rows,
                int64_t columns, int64_t size, Real* out) {
  for (size_t i = 0; i < matrices.size(); i++) {
    if (i + 1 < matrices.size()) kernels<Real>().prefetch(block(matrices[i + 1], row, column, rows, columns));
    kernels<Real>().pack_panel(block(matrices[i], row, column, rows, columns), out + i * size);
  }
}

// Fetches the part of the next tile that falls to some of a chunk's routes, while their arithmetic goes on.
template <typename Real>
void prefetch_tiles(const std::vector<Matrix>& matrices, int64_t row, int64_t column, int64_t step,
                    int64_t first, int64_t count, int64_t routes) {
  if (row >= matrices[0].rows) return;
  const int64_t rows = std::min(step, matrices[0].rows - row),
                columns = std::min(PANEL, matrices[0].columns - column);
  const int64_t size = static_cast<int64_t>(matrices.size());
  for (int64_t i = size * first / routes; i < size * (first + count) / routes; i++) {
    kernels<Real>().prefetch(block(matrices[i], row, column, rows, columns));
  }
}

}  // namespace wemoe::cpu
