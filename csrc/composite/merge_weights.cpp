// merge_weights out of ATen's own ops, for devices that have no kernels of their own: one matrix product over
// flat parameters, a slice at a time where types have to be converted.

#include <torch/library.h>

#include "checks.h"
#include "composite/workspace.h"

namespace wemoe::composite {
namespace {

using at::Tensor;

Tensor merge_weights(const Tensor& base, const Tensor& task_vectors, const Tensor& routing_weights) {
  check_merge_weights(base, task_vectors, routing_weights);
  const int64_t R = routing_weights.size(0), T = task_vectors.size(0), P = base.numel();
  const auto type = compute_type(base);
  const auto lambda = routing_weights.to(type);
  const auto flat_base = base.reshape({1, P}), experts = task_vectors.reshape({T, P});
  auto shape = base.sizes().vec();
  shape.insert(shape.begin(), R);
  const auto merged = at::empty({R, P}, base.options());
  for_slices(P, R + T + 1, type, [&](int64_t first, int64_t count) {
    const auto slice = [&](const Tensor& rows) { return rows.narrow(1, first, count).to(type); };
    merged.narrow(1, first, count).copy_(at::addmm(slice(flat_base), lambda, slice(experts)));
  });
  return merged.view(shape);
}

Tensor merge_weights_backward(const Tensor& grad, const Tensor& task_vectors) {
  check_merge_weights_backward(grad, task_vectors);
  const int64_t R = grad.size(0), T = task_vectors.size(0), P = c10::multiply_integers(grad.sizes().slice(1));
  const auto type = compute_type(grad);
  const auto gradients = grad.reshape({R, P}), experts = task_vectors.reshape({T, P});
  const auto grad_lambda = at::zeros({R, T}, grad.options().dtype(type));
  for_slices(P, R + T, type, [&](int64_t first, int64_t count) {
    const auto slice = [&](const Tensor& rows) { return rows.narrow(1, first, count).to(type); };
    grad_lambda.addmm_(slice(gradients), slice(experts).t());
  });
  return grad_lambda;
}

}  // namespace

TORCH_LIBRARY_IMPL(wemoe, CompositeExplicitAutograd, m) {
  m.impl("merge_weights", &merge_weights);
  m.impl("merge_weights_backward", &merge_weights_backward);
}

}  // namespace wemoe::composite
