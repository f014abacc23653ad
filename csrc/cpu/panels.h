// How routed_linear is walked on the CPU, forward and backward.
//
// A panel is up to PANEL columns of the result. For each panel the weights pass by in tiles, each of which is
// assembled for a few routes at a time and multiplied while it is in cache. So every expert is read from
// memory once for each chunk of routes (about a thousand rows), and no merged weights but those of a few
// routes' tiles ever exist.
//
// Every sum runs over the whole of its index in order, whatever the chunks, groups and threads are: a route's
// result does not depend on the routes beside it.

#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "cpu/weights.h"

namespace wemoe::cpu {

constexpr int64_t CHUNK_ROWS = 1024;  // whose results a panel keeps in cache: 256 KiB of floats
constexpr int64_t SHARED_ROWS = 256;  // fewer are not worth reading the experts again for another thread

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_divide(a, b) * b; }

// Some routes with all their rows, or one route's part of CHUNK_ROWS rows at most.
struct Chunk {
  int64_t first_route, routes, part, first_row, rows;
};

inline int64_t parts_of_route(int64_t M) { return ceil_divide(M, CHUNK_ROWS); }

// Chunks of equal size, in whole groups where there are several; more of them where there are fewer panels
// than threads.
inline std::vector<Chunk> split_into_chunks(int64_t R, int64_t M, int64_t panels, int64_t group) {
  std::vector<Chunk> chunks;
  if (R == 0 || M == 0 || panels == 0) return chunks;
  const int64_t sharing = ceil_divide(at::get_num_threads(), panels), parts = parts_of_route(M);
  const int64_t max_rows = std::clamp(ceil_divide(R * M, sharing), SHARED_ROWS, CHUNK_ROWS);
  const int64_t count = ceil_divide(R, std::max<int64_t>(1, max_rows / M));
  const int64_t routes = count == 1 ? R : std::min(R, round_up(ceil_divide(R, count), std::min(group, R)));
  for (int64_t r = 0; r < R; r += routes) {
    for (int64_t p = 0; p < parts; p++) {
      const int64_t first_row = M * p / parts;
      chunks.push_back({r, std::min(routes, R - r), p, first_row, M * (p + 1) / parts - first_row});
    }
  }
  return chunks;
}

// Calls f(chunk, panel) for all of them, shared between the threads. A chunk's rows stay in a cache while all
// panels pass by: their experts come in order and are fetched ahead, which rows are not.
template <typename F>
void for_chunks_and_panels(const std::vector<Chunk>& chunks, int64_t panels, F f) {
  const int64_t count = static_cast<int64_t>(chunks.size());
  at::parallel_for(0, panels * count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      f(chunks[i / panels], i % panels);
    }
  });
}

// Calls f(first, count) for the groups of a chunk's routes, counted from the chunk's first.
template <typename F>
void for_groups(const Chunk& chunk, int64_t group, F f) {
  for (int64_t first = 0; first < chunk.routes; first += group) {
    f(first, std::min(group, chunk.routes - first));
  }
}

// merged[route][strip][input][LINE], for some routes
template <typename Real>
void assemble_tile(const Tile<Real>& tile, int64_t strips, int64_t inputs, int64_t routes,
                   const Real* routing_weights, Real* merged) {
  const int64_t size = inputs * LINE;
  for (int64_t s = 0; s < strips; s++) {
    kernels<Real>().assemble(routes, tile.tasks, inputs, tile.base.data + s * tile.base.step,
                             tile.experts_of(s), tile.dtype, routing_weights, merged + s * size,
                             strips * size);
  }
}

// Fetches what is in a cache anyway.
inline Ahead nothing_ahead(const void* near) { return {{static_cast<const char*>(near), 0}, 0}; }

// The share of one route in what is fetched ahead.
inline Ahead share_of(const Ahead& ahead, int64_t route, int64_t routes, const void* near) {
  if (ahead.bytes == 0) return nothing_ahead(near);
  const int64_t first = ahead.bytes * route / routes, end = ahead.bytes * (route + 1) / routes;
  return {{ahead.strips.data + first, ahead.strips.step}, end - first};
}

}  // namespace wemoe::cpu
