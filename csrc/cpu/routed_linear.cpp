// routed_linear on the CPU: y[r] = x[r] @ (weight + sum_t routing_weights[r, t] * task_vectors[t])^T + merged
// bias. Panels are 64 outputs; tiles go over the inputs.

#include <torch/library.h>

#include <functional>

#include "checks.h"
#include "cpu/panels.h"

namespace wemoe::cpu {
namespace {

using at::Tensor;

constexpr int64_t TILE_BYTES =
    320 * 1024;  // of base and experts: what a usual second-level cache has room for

// Inputs of a tile.
template <typename Real>
int64_t tile_inputs(int64_t T) {
  const int64_t inputs = TILE_BYTES / ((T + 1) * PANEL * static_cast<int64_t>(sizeof(Real)));
  return std::clamp<int64_t>(inputs / INPUT_BLOCK * INPUT_BLOCK, INPUT_BLOCK, 128);
}

template <typename Real>
struct Forward {
  int64_t R, M, D, F, T;
  const Weights<Real>& weights;
  const Real* x;                // [R, M, D]
  const Real* bias;             // merged, [R, F], or null
  const Real* routing_weights;  // [R, T]
  Tensor y;                     // [R, M, F]

  void run_panel(const Chunk& chunk, int64_t panel) const {
    const auto& k = kernels<Real>();
    const int64_t column = panel * PANEL, columns = std::min(PANEL, F - column);
    const int64_t strip = column / LINE, strips = ceil_divide(columns, LINE), step = tile_inputs<Real>(T);
    const auto tile_memory = scratch<Real>(weights.scratch_size(strips, step)),
               merged_memory = scratch<Real>(k.routes * strips * step * LINE),
               sums_memory = scratch<Real>(chunk.routes * chunk.rows * PANEL);
    Real* merged = merged_memory.template mutable_data_ptr<Real>();
    Real* sums = sums_memory.template mutable_data_ptr<Real>();

    start_from_bias(chunk, column, columns, sums);
    for (int64_t input = 0; input < D; input += step) {
      const int64_t inputs = std::min(step, D - input), size = strips * inputs * LINE;
      const auto tile =
          weights.tile(strip, strips, input, inputs, tile_memory.template mutable_data_ptr<Real>());
      const auto next = input + step < D
                            ? weights.ahead(strip, input + step, std::min(step, D - input - step))
                            : weights.ahead(strip + strips, 0, std::min(step, D));
      for_groups(chunk, k.routes, [&](int64_t first, int64_t count) {
        const int64_t route = chunk.first_route + first;
        assemble_tile(tile, strips, inputs, count, routing_weights + route * T, merged);
        for (int64_t i = 0; i < count; i++) {
          const Real* rows = x + ((route + i) * M + chunk.first_row) * D + input;
          k.multiply(chunk.rows, strips, inputs, {rows, D, 1}, {merged + i * size, inputs * LINE},
                     sums + (first + i) * chunk.rows * PANEL,
                     share_of(next, first + i, chunk.routes, merged));
        }
      });
    }
    for (int64_t i = 0; i < chunk.routes * chunk.rows; i++) {
      const int64_t row = (chunk.first_route + i / chunk.rows) * M + chunk.first_row + i % chunk.rows;
      k.store(sums + i * PANEL, columns, offset(y.mutable_data_ptr(), y, row * F + column), dtype_of(y));
    }
  }

  // sums[route, row] = merged bias of the route
  void start_from_bias(const Chunk& chunk, int64_t column, int64_t columns, Real* sums) const {
    std::fill_n(sums, chunk.routes * chunk.rows * PANEL, Real(0));
    for (int64_t i = 0; bias != nullptr && i < chunk.routes * chunk.rows; i++) {
      std::copy_n(bias + (chunk.first_route + i / chunk.rows) * F + column, columns, sums + i * PANEL);
    }
  }
};

// bias + sum_t routing_weights[r, t] * task_biases[t]: [R, F], empty without a bias
template <typename Real>
Tensor merge_biases(const Tensor& routing_weights, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& task_biases) {
  if (!bias) return scratch<Real>(0);
  const int64_t R = routing_weights.size(0), F = bias->size(0);
  const auto type = routing_weights.scalar_type();
  const auto base = bias->to(type).contiguous();
  const auto experts = task_biases ? task_biases->to(type).contiguous() : base.new_empty({0, F});
  const auto lambda = task_biases ? routing_weights : routing_weights.new_empty({R, 0});
  const auto merged = at::empty({R, F}, base.options());
  kernels<Real>().merge(R, experts.size(0), F, base.template const_data_ptr<Real>(),
                        experts.template const_data_ptr<Real>(), F, lambda.template const_data_ptr<Real>(),
                        merged.template mutable_data_ptr<Real>(), F);
  return merged;
}

template <typename Real>
Tensor forward(const Weights<Real>& weights, const Tensor& x, const Tensor& routing_weights, int64_t F,
               const std::optional<Tensor>& bias, const std::optional<Tensor>& task_biases) {
  const int64_t R = x.size(0), M = x.size(1), D = x.size(2), T = routing_weights.size(1);
  const auto type = c10::CppTypeToScalarType<Real>::value;
  const auto rows = x.to(type).contiguous(), lambda = routing_weights.to(type).contiguous();
  const auto merged_bias = merge_biases<Real>(lambda, bias, task_biases);
  const auto y = at::empty({R, M, F}, x.options());
  const Forward<Real> problem = {R,
                                 M,
                                 D,
                                 F,
                                 T,
                                 weights,
                                 rows.template const_data_ptr<Real>(),
                                 bias ? merged_bias.template const_data_ptr<Real>() : nullptr,
                                 lambda.template const_data_ptr<Real>(),
                                 y};
  const int64_t panels = ceil_divide(F, PANEL);
  for_panels_and_chunks(split_into_chunks(R, M, panels, kernels<Real>().routes), panels,
                        [&](const Chunk& chunk, int64_t panel) { problem.run_panel(chunk, panel); });
  return y;
}

Tensor routed_linear(const Tensor& x, const Tensor& weight, const Tensor& task_vectors,
                     const Tensor& routing_weights, const std::optional<Tensor>& bias,
                     const std::optional<Tensor>& task_biases) {
  const auto sizes = check_routed_linear_forward(x, weight, task_vectors, routing_weights, bias, task_biases);
  const int64_t F = sizes.F.guard_int(__FILE__, __LINE__);
  return with_weights(x, weight, task_vectors, [&](const auto& weights) {
    return forward(weights, x, routing_weights, F, bias, task_biases);
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(wemoe, CPU, m) { m.impl("routed_linear", &routed_linear); }

}  // namespace wemoe::cpu
