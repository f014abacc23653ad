// routed_linear on the CPU: y[r] = x[r] @ (weight + sum_t routing_weights[r, t] * task_vectors[t])^T + merged
// bias. Panels are 64 outputs; tiles go over the inputs.

#include <torch/library.h>

#include <type_traits>

#include "checks.h"
#include "cpu/bf16_product.h"
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
  const Real* x;                // [R, M, D], or null:
  const uint16_t* bf16_x;       // multiplied as it is
  Rows<const Real*> biases;     // merged, one a route
  const Real* routing_weights;  // [R, T]
  Tensor y;                     // [R, M, F]

  // Part of a panel's product: some inputs' share in a route's sums.
  struct Part {
    int64_t column, strips, input, inputs, route, first_row, rows;
    const Real* merged;  // [strip][input][LINE]
    Real* sums;          // [row][PANEL]
  };

  void run_panel(const Chunk& chunk, int64_t panel) const {
    const auto& k = kernels<Real>();
    const int64_t column = panel * PANEL, columns = std::min(PANEL, F - column);
    const int64_t strip = column / LINE, strips = ceil_divide(columns, LINE), step = tile_inputs<Real>(T);
    const auto tile_memory = scratch<Real>(weights.scratch_size(strips, step)),
               merged_memory = scratch<Real>(k.routes * strips * step * LINE),
               sums_memory = scratch<Real>(chunk.routes * chunk.rows * PANEL),
               pairs_memory = at::empty({bf16_x ? strips * step * LINE : 0}, at::kBFloat16);
    Real* merged = merged_memory.template mutable_data_ptr<Real>();
    Real* sums = sums_memory.template mutable_data_ptr<Real>();
    auto* pairs = static_cast<uint16_t*>(pairs_memory.mutable_data_ptr());
    // The last tile's sums are the result, where that is of the same type and in whole lines.
    const bool into_y = dtype_of(y) == real_dtype<Real>() && columns == strips * LINE;

    for (int64_t input = 0; input < D; input += step) {
      const int64_t inputs = std::min(step, D - input), size = strips * inputs * LINE;
      const auto tile =
          weights.tile(strip, strips, input, inputs, tile_memory.template mutable_data_ptr<Real>());
      const auto next = input + inputs == D
                            ? weights.ahead(strip + strips, 0, std::min(step, D))
                            : weights.ahead(strip, input + step, std::min(step, D - input - step));
      for_groups(chunk, k.routes, [&](int64_t first, int64_t count) {
        assemble_tile(tile, strips, inputs, count, routing_weights + (chunk.first_route + first) * tile.tasks,
                      merged);
        for (int64_t i = first; i < first + count; i++) {
          const Part part = {column,
                             strips,
                             input,
                             inputs,
                             chunk.first_route + i,
                             chunk.first_row,
                             chunk.rows,
                             merged + (i - first) * size,
                             sums + i * chunk.rows * PANEL};
          if (bf16_x) {
            multiply_in_bf16(part, pairs);
          } else {
            multiply(part, into_y, share_of(next, i, chunk.routes, merged));
          }
        }
      });
    }
    if (bf16_x) release_bf16_product();
    if (!into_y) store(chunk, column, columns, sums);
  }

  int64_t row_of(const Part& part) const { return part.route * M + part.first_row; }

  const Real* bias_of(const Part& part) const {
    return biases.data + part.route * biases.stride + part.column;
  }

  void multiply(const Part& part, bool into_y, const Ahead& ahead) const {
    const bool first = part.input == 0, last = part.input + part.inputs == D;
    const Rows<const Real*> addend = {first ? bias_of(part) : part.sums, first ? 0 : PANEL};
    Rows<Real*> out = {part.sums, PANEL};
    if (last && into_y) out = {y.template mutable_data_ptr<Real>() + row_of(part) * F + part.column, F};
    kernels<Real>().multiply(part.rows, part.strips, part.inputs, {x + row_of(part) * D + part.input, D, 1},
                             {part.merged, part.inputs * LINE}, addend, out, ahead);
  }

  void multiply_in_bf16(const Part& part, uint16_t* pairs) const {
    if constexpr (std::is_same_v<Real, float>) {
      const int64_t columns = part.strips * LINE;
      for (int64_t i = 0; part.input == 0 && i < part.rows; i++) {
        std::copy_n(bias_of(part), columns, part.sums + i * PANEL);
      }
      kernels<Real>().pack_pairs(part.inputs, part.strips, part.merged, pairs);
      multiply_bf16(part.rows, columns, part.inputs, bf16_x + row_of(part) * D + part.input, D, pairs,
                    part.sums, PANEL);
    }
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
  // Merged weights are rounded to bfloat16 then; its pairs of inputs leave none over.
  const bool in_bf16 = active().multiplies_bf16 && x.scalar_type() == at::kBFloat16 && D % 2 == 0;
  const auto rows = (in_bf16 ? x : x.to(type)).contiguous(), lambda = routing_weights.to(type).contiguous();
  const auto merged_bias = merge_biases<Real>(lambda, F, bias, task_biases);
  const auto y = at::empty({R, M, F}, x.options());
  if (D == 0) return y.copy_(merged_bias.narrow(1, 0, F).unsqueeze(1));
  const Forward<Real> problem = {R,
                                 M,
                                 D,
                                 F,
                                 T,
                                 weights,
                                 in_bf16 ? nullptr : rows.template const_data_ptr<Real>(),
                                 in_bf16 ? static_cast<const uint16_t*>(rows.const_data_ptr()) : nullptr,
                                 {merged_bias.template const_data_ptr<Real>(), merged_bias.size(1)},
                                 lambda.template const_data_ptr<Real>(),
                                 y};
  const int64_t panels = ceil_divide(F, PANEL);
  for_chunks_and_panels(split_into_chunks(R, M, panels, kernels<Real>().routes), panels,
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
