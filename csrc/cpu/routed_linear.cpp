// routed_linear on the CPU: y[r] = x[r] @ (weight + sum_t routing_weights[r, t] * task_vectors[t])^T + merged
// bias.
//
// A panel is up to PANEL columns of the result. For each panel, and each tile of rows of its weights, base
// and experts are packed once; each route's tile is assembled from them and multiplied while both are in
// cache. So every expert is read from memory once for each chunk of routes (thousands of rows), and no merged
// weights but those of one tile ever exist. Backward walks over the tiles in the same way.
//
// Every sum runs over the whole of its index in order, whatever the chunks, groups and threads are: a route's
// result does not depend on the routes beside it.

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>
#include <tuple>
#include <vector>

#include "checks.h"
#include "cpu/kernels.h"
#include "cpu/matrix.h"

namespace wemoe::cpu {
namespace {

using at::Tensor;

constexpr int64_t GROUP = 8;                 // routes whose tiles are assembled together
constexpr int64_t CACHE_BYTES = 512 * 1024;  // for the tiles of one step: half of a usual second-level cache
constexpr int64_t CHUNK_ROWS = 4096;         // whose results a panel keeps at hand: 1 MiB of floats
constexpr int64_t SHARED_ROWS = 256;  // fewer are not worth reading the experts again for another thread

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_divide(a, b) * b; }

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

int64_t parts_of_route(int64_t M) { return ceil_divide(M, CHUNK_ROWS); }

// Large chunks read the experts seldom; where there are fewer panels than threads, smaller ones share the
// work.
std::vector<Chunk> split_into_chunks(int64_t R, int64_t M, int64_t panels) {
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
std::vector<Matrix> base_and_experts(const Tensor& base, const Tensor& task_vectors, bool transpose) {
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
Tensor pack_left(const Tensor& x, const std::vector<Chunk>& chunks, int64_t step) {
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

// Packs the same block of base and experts, `size` numbers apart.
template <typename Real>
void pack_tiles(const std::vector<Matrix>& matrices, int64_t row, int64_t column, int64_t rows,
                int64_t columns, int64_t size, Real* out) {
  for (size_t i = 0; i < matrices.size(); i++) {
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

template <typename Real>
struct Forward {
  int64_t R, M, D, F, T;
  std::vector<Matrix> weights;  // [D, F] each
  std::vector<Matrix> biases;   // [1, F] each: base and tasks, base alone, or none
  const Real* x;                // packed
  const Real* routing_weights;  // [R, T]
  Tensor y;                     // [R, M, F]

  void run_panel(const Chunk& chunk, int64_t panel) const {
    const auto& k = kernels<Real>();
    const int64_t column = panel * PANEL, columns = std::min(PANEL, F - column),
                  width = round_up(columns, k.strip);
    const int64_t step = tile_rows<Real>(T);
    const auto tiles_memory = scratch<Real>((1 + T) * step * width),
               merged_memory = scratch<Real>(GROUP * step * width),
               sums_memory = scratch<Real>(chunk.routes * chunk.rows * PANEL);
    Real* tiles = tiles_memory.template mutable_data_ptr<Real>();
    Real* merged = merged_memory.template mutable_data_ptr<Real>();
    Real* sums = sums_memory.template mutable_data_ptr<Real>();

    start_from_bias(chunk, column, columns, width, tiles, merged, sums);
    for (int64_t d = 0; d < D; d += step) {
      const int64_t depth = std::min(step, D - d), size = depth * width;
      pack_tiles(weights, d, column, depth, columns, size, tiles);
      for_groups(chunk, [&](int64_t first, int64_t count) {
        const int64_t route = chunk.first_route + first;
        k.assemble(count, T, size, tiles, tiles + size, size, routing_weights + route * T, merged, size);
        for (int64_t i = 0; i < count; i++) {
          k.multiply(chunk.rows, columns, depth, x + d * R * M + ((route + i) * M + chunk.first_row) * depth,
                     merged + i * size, sums + (first + i) * chunk.rows * PANEL);
          prefetch_tiles<Real>(weights, d + step, column, step, first + i, 1, chunk.routes);
        }
      });
    }
    for (int64_t i = 0; i < chunk.routes; i++) {
      const int64_t row = (chunk.first_route + i) * M + chunk.first_row;
      k.unpack(sums + i * chunk.rows * PANEL, offset(y.mutable_data_ptr(), y, row * F + column), dtype_of(y),
               chunk.rows, columns, F);
    }
  }

  // sums[route, row] = merged bias of the route
  void start_from_bias(const Chunk& chunk, int64_t column, int64_t columns, int64_t width, Real* tiles,
                       Real* merged, Real* sums) const {
    std::fill_n(sums, chunk.routes * chunk.rows * PANEL, Real(0));
    if (biases.empty()) return;
    const int64_t tasks = static_cast<int64_t>(biases.size()) - 1;
    pack_tiles(biases, 0, column, 1, columns, width, tiles);
    for_groups(chunk, [&](int64_t first, int64_t count) {
      const Real* weights = routing_weights + (chunk.first_route + first) * T;
      kernels<Real>().assemble(count, tasks, width, tiles, tiles + width, width, weights, merged, width);
      for (int64_t i = 0; i < count * chunk.rows; i++) {
        std::copy_n(merged + i / chunk.rows * width, width, sums + (first * chunk.rows + i) * PANEL);
      }
    });
  }
};

template <typename Real>
Tensor forward(const Tensor& x, const Tensor& weight, const Tensor& task_vectors,
               const Tensor& routing_weights, const std::optional<Tensor>& bias,
               const std::optional<Tensor>& task_biases) {
  const int64_t R = x.size(0), M = x.size(1), D = x.size(2), F = weight.size(0), T = task_vectors.size(0);
  const auto y = at::empty({R, M, F}, x.options());
  const int64_t panels = ceil_divide(F, PANEL);
  const auto chunks = split_into_chunks(R, M, panels);
  const auto packed_x = pack_left<Real>(x, chunks, tile_rows<Real>(T));
  const auto lambda = routing_weights.to(packed_x.scalar_type()).contiguous();
  std::vector<Matrix> biases;
  if (bias) {
    const auto task_rows = task_biases ? task_biases->unsqueeze(1) : bias->new_empty({0, 1, F});
    biases = base_and_experts(bias->unsqueeze(0), task_rows, false);
  }
  const Forward<Real> problem = {R,
                                 M,
                                 D,
                                 F,
                                 T,
                                 base_and_experts(weight, task_vectors, true),
                                 biases,
                                 packed_x.template const_data_ptr<Real>(),
                                 lambda.template const_data_ptr<Real>(),
                                 y};
  for_chunks_and_panels(chunks, panels,
                        [&](const Chunk& chunk, int64_t panel) { problem.run_panel(chunk, panel); });
  return y;
}

template <typename Real>
struct Backward {
  int64_t R, M, D, F, T;
  std::vector<Matrix> weights;  // [F, D] each
  Tensor x;                     // [R, M, D]
  const Real* grad;             // [R, M, F]
  const Real* packed_grad;      // for grad_x
  const Real* routing_weights;  // [R, T]
  Tensor grad_x;                // [R, M, D], or undefined
  double* routing_partials;     // [panel][part of the route][R][T], or null

  void run_panel(const Chunk& chunk, int64_t panel) const {
    const auto& k = kernels<Real>();
    const int64_t column = panel * PANEL, columns = std::min(PANEL, D - column),
                  width = round_up(columns, k.strip);
    const int64_t step = tile_rows<Real>(T), rows = chunk.routes * chunk.rows;
    const auto tiles_memory = scratch<Real>((1 + T) * step * width),
               merged_memory = scratch<Real>(GROUP * step * width),
               grad_x_memory = scratch<Real>(grad_x.defined() ? rows * PANEL : 0),
               x_memory = scratch<Real>(routing_partials ? rows * PANEL : 0),
               routing_memory = scratch<Real>(routing_partials ? chunk.routes * T * k.lanes : 0);
    Real* tiles = tiles_memory.template mutable_data_ptr<Real>();
    Real* merged = merged_memory.template mutable_data_ptr<Real>();
    Real* grad_x_sums = grad_x_memory.template mutable_data_ptr<Real>();
    Real* x_panel = x_memory.template mutable_data_ptr<Real>();
    Real* routing_sums = routing_memory.template mutable_data_ptr<Real>();
    std::fill_n(grad_x_sums, grad_x_memory.numel(), Real(0));
    std::fill_n(routing_sums, routing_memory.numel(), Real(0));
    if (routing_partials) pack_x_panel(chunk, column, columns, x_panel);

    for (int64_t f = 0; f < F; f += step) {
      const int64_t depth = std::min(step, F - f), size = depth * width;
      pack_tiles(weights, f, column, depth, columns, size, tiles);
      for_groups(chunk, [&](int64_t first, int64_t count) {
        const int64_t route = chunk.first_route + first;
        prefetch_tiles<Real>(weights, f + step, column, step, first, count, chunk.routes);
        if (grad_x.defined()) {
          k.assemble(count, T, size, tiles, tiles + size, size, routing_weights + route * T, merged, size);
          for (int64_t i = 0; i < count; i++) {
            k.multiply(chunk.rows, columns, depth,
                       packed_grad + f * R * M + ((route + i) * M + chunk.first_row) * depth,
                       merged + i * size, grad_x_sums + (first + i) * chunk.rows * PANEL);
          }
        }
        if (routing_partials) {
          add_routing_sums(chunk.rows, count, width, depth, grad + (route * M + chunk.first_row) * F + f,
                           x_panel + first * chunk.rows * PANEL, tiles + size, merged,
                           routing_sums + first * T * k.lanes);
        }
      });
    }
    if (grad_x.defined()) store_grad_x(chunk, column, columns, grad_x_sums);
    if (routing_partials) store_routing_sums(chunk, panel, routing_sums);
  }

  // x_panel[route] = panel of the route's rows
  void pack_x_panel(const Chunk& chunk, int64_t column, int64_t columns, Real* x_panel) const {
    for (int64_t i = 0; i < chunk.routes; i++) {
      const Matrix route = matrix_of(x.select(0, chunk.first_route + i));
      kernels<Real>().pack_panel(block(route, chunk.first_row, column, chunk.rows, columns),
                                 x_panel + i * chunk.rows * PANEL);
    }
  }

  // sums[route, t] += <grad^T x, expert t> over one tile, a few of its rows at a time: the routes' parts of
  // grad^T x (products) and the experts' rows that they meet stay in the first-level cache.
  void add_routing_sums(int64_t rows, int64_t routes, int64_t width, int64_t depth, const Real* tile_grad,
                        const Real* x_panel, const Real* experts, Real* products, Real* sums) const {
    const auto& k = kernels<Real>();
    for (int64_t row = 0; row < depth; row += k.max_rows) {
      const int64_t tile_rows = std::min(k.max_rows, depth - row), size = tile_rows * k.strip;
      for (int64_t strip = 0; strip < width; strip += k.strip) {
        for (int64_t i = 0; i < routes; i++) {
          k.multiply_transposed(tile_rows, rows, tile_grad + i * M * F + row, F,
                                x_panel + (i * PANEL + strip) * rows, products + i * size);
        }
        k.contract(routes, T, size, products, size, experts + strip * depth + row * k.strip, depth * width,
                   sums);
      }
    }
  }

  void store_grad_x(const Chunk& chunk, int64_t column, int64_t columns, const Real* sums) const {
    for (int64_t i = 0; i < chunk.routes; i++) {
      const int64_t row = (chunk.first_route + i) * M + chunk.first_row;
      kernels<Real>().unpack(sums + i * chunk.rows * PANEL,
                             offset(grad_x.mutable_data_ptr(), grad_x, row * D + column), dtype_of(grad_x),
                             chunk.rows, columns, D);
    }
  }

  void store_routing_sums(const Chunk& chunk, int64_t panel, const Real* sums) const {
    const int64_t lanes = kernels<Real>().lanes;
    double* out = routing_partials + ((panel * parts_of_route(M) + chunk.part) * R + chunk.first_route) * T;
    for (int64_t i = 0; i < chunk.routes * T; i++) {
      out[i] = std::accumulate(sums + i * lanes, sums + (i + 1) * lanes, 0.0);
    }
  }
};

// out[r, t] = <sum of grad[r] over its rows, task_biases[t]>
template <typename Real>
void add_bias_sums(const Tensor& grad, const Tensor& task_biases, double* out) {
  const int64_t R = grad.size(0), M = grad.size(1), F = grad.size(2), T = task_biases.size(0);
  const auto biases = task_biases.to(at::kDouble).contiguous();
  at::parallel_for(0, R, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      std::vector<double> total(F, 0.0);
      const Real* rows = grad.template const_data_ptr<Real>() + r * M * F;
      for (int64_t i = 0; i < M * F; i += F) {
        std::transform(rows + i, rows + i + F, total.begin(), total.begin(), std::plus<double>());
      }
      for (int64_t t = 0; t < T; t++) {
        out[r * T + t] =
            std::inner_product(total.begin(), total.end(), biases.const_data_ptr<double>() + t * F, 0.0);
      }
    }
  });
}

template <typename Real>
std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                    const Tensor& task_vectors, const Tensor& routing_weights,
                                    const std::optional<Tensor>& task_biases,
                                    std::array<bool, 2> output_mask) {
  const int64_t R = x.size(0), M = x.size(1), D = x.size(2), F = weight.size(0), T = task_vectors.size(0);
  const int64_t panels = ceil_divide(D, PANEL);
  const auto chunks = split_into_chunks(R, M, panels);
  const auto type = c10::CppTypeToScalarType<Real>::value;
  const auto rows = grad.to(type).contiguous(), lambda = routing_weights.to(type).contiguous();
  const auto packed_grad =
      output_mask[0] ? pack_left<Real>(rows, chunks, tile_rows<Real>(T)) : scratch<Real>(0);
  const auto grad_x = output_mask[0] ? at::empty({R, M, D}, x.options()) : Tensor();
  // The last partial sum is the biases'.
  const int64_t partials = panels * parts_of_route(M) + 1;
  const auto routing_partials = output_mask[1] ? at::zeros({partials, R, T}, at::kDouble) : Tensor();
  double* partial_sums = output_mask[1] ? routing_partials.mutable_data_ptr<double>() : nullptr;
  const Backward<Real> problem = {R,
                                  M,
                                  D,
                                  F,
                                  T,
                                  base_and_experts(weight, task_vectors, false),
                                  x,
                                  rows.template const_data_ptr<Real>(),
                                  packed_grad.template const_data_ptr<Real>(),
                                  lambda.template const_data_ptr<Real>(),
                                  grad_x,
                                  partial_sums};
  for_chunks_and_panels(chunks, panels,
                        [&](const Chunk& chunk, int64_t panel) { problem.run_panel(chunk, panel); });
  if (output_mask[1] && task_biases) {
    add_bias_sums<Real>(rows, *task_biases, partial_sums + (partials - 1) * R * T);
  }
  return {output_mask[0] ? grad_x : at::empty({0}, x.options()),
          output_mask[1] ? add_partials(routing_partials).to(routing_weights.scalar_type())
                         : at::empty({0}, routing_weights.options())};
}

Tensor routed_linear(const Tensor& x, const Tensor& weight, const Tensor& task_vectors,
                     const Tensor& routing_weights, const std::optional<Tensor>& bias,
                     const std::optional<Tensor>& task_biases) {
  check_routed_linear_forward(x, weight, task_vectors, routing_weights, bias, task_biases);
  const auto run = compute_type(x) == at::kDouble ? forward<double> : forward<float>;
  return run(x, weight, task_vectors, routing_weights, bias, task_biases);
}

std::tuple<Tensor, Tensor> routed_linear_backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                  const Tensor& task_vectors, const Tensor& routing_weights,
                                                  const std::optional<Tensor>& task_biases,
                                                  std::array<bool, 2> output_mask) {
  check_routed_linear_backward(grad, x, weight, task_vectors, routing_weights, task_biases);
  const auto run = compute_type(x) == at::kDouble ? backward<double> : backward<float>;
  return run(grad, x, weight, task_vectors, routing_weights, task_biases, output_mask);
}

}  // namespace

TORCH_LIBRARY_IMPL(wemoe, CPU, m) {
  m.impl("routed_linear", &routed_linear);
  m.impl("routed_linear_backward", &routed_linear_backward);
}

}  // namespace wemoe::cpu
