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
  Rows<const Real*> biases;     // merged, one a route
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
    // The last tile's sums are the result, where that is of the same type and in whole lines.
    const bool into_y = dtype_of(y) == real_dtype<Real>() && columns == strips * LINE;
    Real* y_data = into_y ? y.template mutable_data_ptr<Real>() : nullptr;

    for (int64_t input = 0; input < D; input += step) {
      const int64_t inputs = std::min(step, D - input), size = strips * inputs * LINE;
      const bool last = input + inputs == D;
      const auto tile =
          weights.tile(strip, strips, input, inputs, tile_memory.template mutable_data_ptr<Real>());
      const auto next = last ? weights.ahead(strip + strips, 0, std::min(step, D))
                             : weights.ahead(strip, input + step, std::min(step, D - input - step));
      for_groups(chunk, k.routes, [&](int64_t first, int64_t count) {
        assemble_tile(tile, strips, inputs, count, routing_weights + (chunk.first_route + first) * tile.tasks,
                      merged);
        for (int64_t i = first; i < first + count; i++) {
          const int64_t route = chunk.first_route + i, row = route * M + chunk.first_row;
          const Rows<Real*> route_sums = {sums + i * chunk.rows * PANEL, PANEL};
          const Rows<const Real*> bias = {biases.data + route * biases.stride + column, 0},
                                  addend = input == 0 ? bias : Rows<const Real*>{route_sums.data, PANEL};
          const Rows<Real*> out = last && into_y ? Rows<Real*>{y_data + row * F + column, F} : route_sums;
          k.multiply(chunk.rows, strips, inputs, {x + row * D + input, D, 1},
                     {merged + (i - first) * size, inputs * LINE}, addend, out,
                     share_of(next, i, chunk.routes, merged));
        }
      });
    }
    if (!into_y) store(chunk, column, columns, sums);
  }

  // y from sums[route][row][PANEL]
  void store(const Chunk& chunk, int64_t column, int64_t columns, const Real* sums) const {
    for (int64_t i = 0; i < chunk.routes * chunk.rows; i++) {
      const int64_t row = (chunk.first_route + i / chunk.rows) * M + chunk.first_row + i % chunk.rows;
      kernels<Real>().store(sums + i * PANEL, columns, offset(y.mutable_data_ptr(), y, row * F + column),
                            dtype_of(y));
    }
  }
};

// bias + sum_t routing_weights[r, t] * task_biases[t]: [R, F in whole lines], zero without a bias
template <typename Real>
Tensor merge_biases(const Tensor& routing_weights, int64_t F, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& task_biases) {
  const int64_t R = routing_weights.size(0), width = round_up(F, LINE);
  const auto merged = at::zeros({R, width}, routing_weights.options());
  if (!bias) return merged;
  const auto base = bias->to(merged.scalar_type()).contiguous();
  const auto experts =
      task_biases ? task_biases->to(base.scalar_type()).contiguous() : base.new_empty({0, F});
  kernels<Real>().merge(
      R, experts.size(0), F, base.template const_data_ptr<Real>(), experts.template const_data_ptr<Real>(), F,
      routing_weights.template const_data_ptr<Real>(), merged.template mutable_data_ptr<Real>(), width);
  return merged;
}

template <typename Real>
Tensor forward(const Weights<Real>& weights, const Tensor& x, const Tensor& routing_weights, int64_t F,
               const std::optional<Tensor>& bias, const std::optional<Tensor>& task_biases) {
  const int64_t R = x.size(0), M = x.size(1), D = x.size(2), T = routing_weights.size(1);
  const auto type = c10::CppTypeToScalarType<Real>::value;
  const auto rows = x.to(type).contiguous(), lambda = routing_weights.to(type).contiguous();
  const auto merged_bias = merge_biases<Real>(lambda, F, bias, task_biases);
  const auto y = at::empty({R, M, F}, x.options());
  if (D == 0) return y.copy_(merged_bias.narrow(1, 0, F).unsqueeze(1));
  const Forward<Real> problem = {R,
                                 M,
                                 D,
                                 F,
                                 T,
                                 weights,
                                 rows.template const_data_ptr<Real>(),
                                 {merged_bias.template const_data_ptr<Real>(), merged_bias.size(1)},
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
  if (x.size(0) == 1 && x.scalar_type() == at::kFloat && !is_packed(weight) &&
      MergedWeights<float>::fit(weight, task_vectors)) {
    const MergedWeights<float> merged(weight, task_vectors, routing_weights.to(at::kFloat));
    return forward<float>(merged, x, routing_weights, F, bias, task_biases);
  }
  return with_weights(x, weight, task_vectors, [&](const auto& weights) {
    return forward(weights, x, routing_weights, F, bias, task_biases);
  });
}

Tensor routed_linear_sparse(const Tensor& x, const Tensor& weight, const Tensor& masks, const Tensor& values,
                            const Tensor& offsets, const Tensor& routing_weights,
                            const std::optional<Tensor>& bias, const std::optional<Tensor>& task_biases) {
  const auto sizes = check_routed_linear_sparse_forward(x, weight, masks, values, offsets, routing_weights,
                                                        bias, task_biases);
  const int64_t F = sizes.F.guard_int(__FILE__, __LINE__);
  return with_sparse_weights(x, weight, masks, values, offsets, [&](const auto& weights) {
    return forward(weights, x, routing_weights, F, bias, task_biases);
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(wemoe, CPU, m) {
  m.impl("routed_linear", &routed_linear);
  m.impl("routed_linear_sparse", &routed_linear_sparse);
}

}  // namespace wemoe::cpu
