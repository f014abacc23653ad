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

constexpr int64_t TILE_STRIPS = 8;  // 128 outputs

template <typename Real>
struct Backward {
  int64_t R, M, D, F, T;
  const Weights<Real>& weights;
  const Real* x;                // [R, M, D]
  const Real* grad;             // [R, M, F]
  const Real* routing_weights;  // [R, T]
  Tensor grad_x;                // [R, M, D], or undefined
  double* routing_partials;     // [panel][part of the route][R][T], or null

  // Scratch memory of a panel.
  struct Buffers {
    Tensor tile, merged, turned, grad_x_sums, x_panel, grad_strip, products, routing_sums;
  };

  void run_panel(const Chunk& chunk, int64_t panel) const {
    const auto& k = kernels<Real>();
    const int64_t input = panel * PANEL, inputs = std::min(PANEL, D - input);
    const auto buffers = make_buffers(chunk, inputs);
    if (routing_partials) copy_x_panel(chunk, input, inputs, data(buffers.x_panel));

    for (int64_t strip = 0; strip * LINE < F; strip += TILE_STRIPS) {
      const int64_t strips = std::min(TILE_STRIPS, ceil_divide(F, LINE) - strip);
      const auto tile = weights.tile(strip, strips, input, inputs, data(buffers.tile));
      for_groups(chunk, k.routes, [&](int64_t first, int64_t count) {
        if (grad_x.defined()) {
          add_grad_x(chunk, tile, {strip, strips, input, inputs}, first, count, buffers);
        }
        if (routing_partials) {
          add_routing_sums(chunk, tile, {strip, strips, input, inputs}, first, count, buffers);
        }
      });
    }
    if (grad_x.defined()) store_grad_x(chunk, input, inputs, data(buffers.grad_x_sums));
    if (routing_partials) store_routing_sums(chunk, panel, data(buffers.routing_sums));
  }

 private:
  struct Range {
    int64_t strip, strips, input, inputs;
  };

  static Real* data(const Tensor& memory) { return memory.template mutable_data_ptr<Real>(); }

  Buffers make_buffers(const Chunk& chunk, int64_t inputs) const {
    const auto& k = kernels<Real>();
    const int64_t size = TILE_STRIPS * LINE * PANEL, rows = chunk.routes * chunk.rows;
    const bool for_x = grad_x.defined(), for_routing = routing_partials != nullptr;
    return {
        .tile = scratch<Real>(weights.scratch_size(TILE_STRIPS, inputs)),
        .merged = scratch<Real>(for_x ? k.routes * size : 0),
        .turned = scratch<Real>(for_x ? size : 0),
        .grad_x_sums = scratch<Real>(for_x ? rows * PANEL : 0).zero_(),
        .x_panel = scratch<Real>(for_routing ? rows * PANEL : 0),
        .grad_strip = scratch<Real>(for_routing ? chunk.rows * LINE : 0),
        .products = scratch<Real>(for_routing ? k.routes * PANEL * LINE : 0),
        .routing_sums = scratch<Real>(for_routing ? chunk.routes * T * k.lanes : 0).zero_(),
    };
  }

  // x_panel[route][row][PANEL]
  void copy_x_panel(const Chunk& chunk, int64_t input, int64_t inputs, Real* x_panel) const {
    for (int64_t i = 0; i < chunk.routes * chunk.rows; i++) {
      std::copy_n(x + row_of(chunk, i) * D + input, inputs, x_panel + i * PANEL);
    }
  }

  // The row of x and grad that is the chunk's i-th.
  int64_t row_of(const Chunk& chunk, int64_t i) const {
    return (chunk.first_route + i / chunk.rows) * M + chunk.first_row + i % chunk.rows;
  }

  // grad_x_sums[route][row][PANEL] += grad @ merged weights, over the outputs of the tile
  void add_grad_x(const Chunk& chunk, const Tile<Real>& tile, const Range& range, int64_t first,
                  int64_t count, const Buffers& buffers) const {
    const auto& k = kernels<Real>();
    const int64_t output = range.strip * LINE, outputs = range.strips * LINE;
    Real *merged = data(buffers.merged), *turned = data(buffers.turned);
    assemble_tile(tile, range.strips, range.inputs, count,
                  routing_weights + (chunk.first_route + first) * tile.tasks, merged);
    for (int64_t i = first; i < first + count; i++) {
      Real* sums = data(buffers.grad_x_sums) + i * chunk.rows * PANEL;
      k.transpose(range.inputs, range.strips, merged + (i - first) * outputs * range.inputs, turned);
      k.multiply(chunk.rows, ceil_divide(range.inputs, LINE), std::min(outputs, F - output),
                 {grad + row_of(chunk, i * chunk.rows) * F + output, F, 1}, {turned, outputs * LINE},
                 {sums, PANEL}, {sums, PANEL}, nothing_ahead(turned));
    }
  }

  // routing_sums[route][t][lane] += <grad^T x, expert t> over the tile, one of its strips at a time: the
  // routes' parts of grad^T x (products) stay in the first-level cache until they meet the experts.
  void add_routing_sums(const Chunk& chunk, const Tile<Real>& tile, const Range& range, int64_t first,
                        int64_t count, const Buffers& buffers) const {
    const auto& k = kernels<Real>();
    static constexpr Real zeros[LINE] = {};
    const int64_t size = range.inputs * LINE;
    Real *grad_strip = data(buffers.grad_strip), *products = data(buffers.products);
    for (int64_t s = 0; s < range.strips; s++) {
      const int64_t output = (range.strip + s) * LINE, outputs = std::min(LINE, F - output);
      for (int64_t i = first; i < first + count; i++) {
        const Real* rows = grad + row_of(chunk, i * chunk.rows) * F + output;
        k.pack_strip({rows, real_dtype<Real>(), chunk.rows, outputs, F, 1}, LINE, grad_strip);
        k.multiply(range.inputs, 1, chunk.rows, {data(buffers.x_panel) + i * chunk.rows * PANEL, 1, PANEL},
                   {grad_strip, 0}, {zeros, 0}, {products + (i - first) * size, LINE},
                   share_of(weights.ahead(range.strip + s + TILE_STRIPS, range.input, range.inputs), i,
                            chunk.routes, products));
      }
      k.contract(count, T, range.inputs, products, size, tile.experts_of(s), tile.dtype,
                 data(buffers.routing_sums) + first * T * k.lanes);
    }
  }

  void store_grad_x(const Chunk& chunk, int64_t input, int64_t inputs, const Real* sums) const {
    for (int64_t i = 0; i < chunk.routes * chunk.rows; i++) {
      kernels<Real>().store(sums + i * PANEL, inputs,
                            offset(grad_x.mutable_data_ptr(), grad_x, row_of(chunk, i) * D + input),
                            dtype_of(grad_x));
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
std::tuple<Tensor, Tensor> backward(const Weights<Real>& weights, const Tensor& grad, const Tensor& x,
                                    const Tensor& routing_weights, const std::optional<Tensor>& task_biases,
                                    std::array<bool, 2> output_mask) {
  const int64_t R = x.size(0), M = x.size(1), D = x.size(2), F = grad.size(2), T = routing_weights.size(1);
  const int64_t panels = ceil_divide(D, PANEL);
  const auto type = c10::CppTypeToScalarType<Real>::value;
  const auto grad_rows = grad.to(type).contiguous(), lambda = routing_weights.to(type).contiguous(),
             x_rows = output_mask[1] ? x.to(type).contiguous() : scratch<Real>(0);
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
                                  weights,
                                  x_rows.template const_data_ptr<Real>(),
                                  grad_rows.template const_data_ptr<Real>(),
                                  lambda.template const_data_ptr<Real>(),
                                  grad_x,
                                  partial_sums};
  for_chunks_and_panels(split_into_chunks(R, M, panels, kernels<Real>().routes), panels,
                        [&](const Chunk& chunk, int64_t panel) { problem.run_panel(chunk, panel); });
  if (output_mask[1] && task_biases) {
    add_bias_sums<Real>(grad_rows, *task_biases, partial_sums + (partials - 1) * R * T);
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
  return with_weights(x, weight, task_vectors, [&](const auto& weights) {
    return backward(weights, grad, x, routing_weights, task_biases, output_mask);
  });
}

std::tuple<Tensor, Tensor> routed_linear_sparse_backward(const Tensor& grad, const Tensor& x,
                                                         const Tensor& weight, const Tensor& masks,
                                                         const Tensor& values, const Tensor& offsets,
                                                         const Tensor& routing_weights,
                                                         const std::optional<Tensor>& task_biases,
                                                         std::array<bool, 2> output_mask) {
  check_routed_linear_sparse_backward(grad, x, weight, masks, values, offsets, routing_weights, task_biases);
  return with_sparse_weights(x, weight, masks, values, offsets, [&](const auto& weights) {
    return backward(weights, grad, x, routing_weights, task_biases, output_mask);
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(wemoe, CPU, m) {
  m.impl("routed_linear_backward", &routed_linear_backward);
  m.impl("routed_linear_sparse_backward", &routed_linear_sparse_backward);
}

}  // namespace wemoe::cpu
