// merge_weights on the CPU: merged[r] = base + sum_t routing_weights[r, t] * task_vectors[t], over flat
// parameters.
//
// Blocks of elements are converted where their type is not the one that sums are taken in, and each expert's
// block is read once for all routes. Backward takes the inner product of every route's gradient with every
// expert.

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <numeric>

#include "checks.h"
#include "cpu/kernels.h"
#include "cpu/matrix.h"

namespace wemoe::cpu {
namespace {

using at::Tensor;

constexpr int64_t BLOCK = 1024;    // elements of one step: with a few experts they stay in cache
constexpr int64_t PART = 1 << 16;  // elements that add up to one partial sum of backward

// Rows of a contiguous tensor [rows, P] as numbers of type Real: in place, or converted a block at a time.
template <typename Real>
struct Rows {
  const Tensor& tensor;
  int64_t size;  // P
  bool in_place = tensor.scalar_type() == c10::CppTypeToScalarType<Real>::value;
  Tensor converted = scratch<Real>(in_place ? 0 : tensor.numel() / std::max<int64_t>(1, size) * BLOCK);

  int64_t stride() const { return in_place ? size : BLOCK; }

  const Real* read(int64_t first, int64_t count) {
    if (in_place) return tensor.const_data_ptr<Real>() + first;
    Real* out = converted.template mutable_data_ptr<Real>();
    for (int64_t i = 0; i < converted.numel() / BLOCK; i++) {
      kernels<Real>().load(offset(tensor.const_data_ptr(), tensor, i * size + first), dtype_of(tensor), count,
                           out + i * BLOCK);
    }
    return out;
  }
};

template <typename Real>
Tensor forward(const Tensor& base, const Tensor& task_vectors, const Tensor& routing_weights) {
  const auto& k = kernels<Real>();
  const int64_t R = routing_weights.size(0), T = task_vectors.size(0), P = base.numel();
  auto shape = base.sizes().vec();
  shape.insert(shape.begin(), R);
  const auto merged = at::empty(shape, base.options());
  const auto flat_base = base.contiguous(), experts = task_vectors.contiguous();
  const auto lambda = routing_weights.to(c10::CppTypeToScalarType<Real>::value).contiguous();
  at::parallel_for(0, P, BLOCK, [&](int64_t begin, int64_t end) {
    Rows<Real> base_rows{flat_base, P}, expert_rows{experts, P};
    const bool in_place = base_rows.in_place;
    const auto memory = scratch<Real>(in_place ? 0 : R * BLOCK);
    for (int64_t first = begin; first < end; first += BLOCK) {
      const int64_t count = std::min(BLOCK, end - first);
      Real* out = in_place ? merged.template mutable_data_ptr<Real>() + first
                           : memory.template mutable_data_ptr<Real>();
      const int64_t stride = in_place ? P : BLOCK;
      k.merge(R, T, count, base_rows.read(first, count), expert_rows.read(first, count), expert_rows.stride(),
              lambda.template const_data_ptr<Real>(), out, stride);
      for (int64_t r = 0; r < R && !in_place; r++) {
        k.store(out + r * stride, count, offset(merged.mutable_data_ptr(), merged, r * P + first),
                dtype_of(merged));
      }
    }
  });
  return merged;
}

template <typename Real>
Tensor backward(const Tensor& grad, const Tensor& task_vectors) {
  const auto& k = kernels<Real>();
  const int64_t R = grad.size(0), T = task_vectors.size(0), P = c10::multiply_integers(grad.sizes().slice(1));
  const auto gradients = grad.contiguous(), experts = task_vectors.contiguous();
  const int64_t parts = (P + PART - 1) / PART;
  const auto partials = at::zeros({parts + 1, R, T}, at::kDouble);
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    Rows<Real> gradient_rows{gradients, P}, expert_rows{experts, P};
    const auto memory = scratch<Real>(R * T * k.lanes);
    Real* sums = memory.template mutable_data_ptr<Real>();
    for (int64_t part = begin; part < end; part++) {
      std::fill_n(sums, memory.numel(), Real(0));
      const int64_t part_end = std::min(P, (part + 1) * PART);
      for (int64_t first = part * PART; first < part_end; first += BLOCK) {
        const int64_t count = std::min(BLOCK, part_end - first);
        k.inner_products(R, T, count, gradient_rows.read(first, count), gradient_rows.stride(),
                         expert_rows.read(first, count), expert_rows.stride(), sums);
      }
      double* out = partials.mutable_data_ptr<double>() + part * R * T;
      for (int64_t i = 0; i < R * T; i++) {
        out[i] = std::accumulate(sums + i * k.lanes, sums + (i + 1) * k.lanes, 0.0);
      }
    }
  });
  return add_partials(partials).to(c10::CppTypeToScalarType<Real>::value);
}

Tensor merge_weights(const Tensor& base, const Tensor& task_vectors, const Tensor& routing_weights) {
  check_merge_weights(base, task_vectors, routing_weights);
  const auto run = compute_type(base) == at::kDouble ? forward<double> : forward<float>;
  return run(base, task_vectors, routing_weights);
}

Tensor merge_weights_backward(const Tensor& grad, const Tensor& task_vectors) {
  check_merge_weights_backward(grad, task_vectors);
  const auto run = compute_type(grad) == at::kDouble ? backward<double> : backward<float>;
  return run(grad, task_vectors);
}

}  // namespace

TORCH_LIBRARY_IMPL(wemoe, CPU, m) {
  m.impl("merge_weights", &merge_weights);
  m.impl("merge_weights_backward", &merge_weights_backward);
}

}  // namespace wemoe::cpu
