// routed_linear on the CPU: y[r] = x[r] @ (weight + sum_t routing_weights[r, t] * task_vectors[t])^T + merged
// bias. Panels are 64 outputs; tiles go over the inputs.

#include <torch/library.h>

#include "checks.h"
#include "cpu/panels.h"

namespace wemoe::cpu {
namespace {

using at::Tensor;

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

Tensor routed_linear(const Tensor& x, const Tensor& weight, const Tensor& task_vectors,
                     const Tensor& routing_weights, const std::optional<Tensor>& bias,
                     const std::optional<Tensor>& task_biases) {
  check_routed_linear_forward(x, weight, task_vectors, routing_weights, bias, task_biases);
  const auto run = compute_type(x) == at::kDouble ? forward<double> : forward<float>;
  return run(x, weight, task_vectors, routing_weights, bias, task_biases);
}

}  // namespace

TORCH_LIBRARY_IMPL(wemoe, CPU, m) { m.impl("routed_linear", &routed_linear); }

}  // namespace wemoe::cpu
