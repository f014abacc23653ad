// The gradients of routed_linear on the CPU:
//
//   grad_x[r] = grad[r] @ merged weight of r
//   grad_routing_weights[r, t] = <grad[r]^T x[r], task_vectors[t]> + <sum of grad[r] over rows,
//   task_biases[t]>
//
// Panels are 64 inputs; tiles go over the outputs. Of grad^T x, as of the merged weights, only tiles ever
// exist.

#include <torch/library.h>

#include <array>
#include <functional>
#include <numeric>
#include <tuple>

#include "checks.h"
#include "cpu/panels.h"

namespace wemoe::cpu {
namespace {

using at::Tensor;

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

std::tuple<Tensor, Tensor> routed_linear_backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                  const Tensor& task_vectors, const Tensor& routing_weights,
                                                  const std::optional<Tensor>& task_biases,
                                                  std::array<bool, 2> output_mask) {
  check_routed_linear_backward(grad, x, weight, task_vectors, routing_weights, task_biases);
  const auto run = compute_type(x) == at::kDouble ? backward<double> : backward<float>;
  return run(grad, x, weight, task_vectors, routing_weights, task_biases, output_mask);
}

}  // namespace

TORCH_LIBRARY_IMPL(wemoe, CPU, m) { m.impl("routed_linear_backward", &routed_linear_backward); }

}  // namespace wemoe::cpu
