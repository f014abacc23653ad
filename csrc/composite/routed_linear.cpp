// routed_linear out of ATen's own ops, for devices that have no kernels of their own: the merged weights of a
// slice of the outputs are assembled into a bounded workspace and multiplied.

#include <torch/library.h>

#include <array>
#include <tuple>

#include "checks.h"
#include "composite/workspace.h"

namespace wemoe::composite {
namespace {

using at::Tensor;

// Outputs first to first + count of the task vectors, one task a row: [T, count * D].
Tensor flat_slice(const Tensor& task_vectors, int64_t first, int64_t count, at::ScalarType type) {
  return task_vectors.narrow(1, first, count).to(type).reshape({task_vectors.size(0), -1});
}

// The routes' weights for a slice of the outputs: [R, count, D].
Tensor merge_slice(const Tensor& weight, const Tensor& flat_experts, const Tensor& lambda, int64_t first,
                   int64_t count) {
  const auto base = weight.narrow(0, first, count).to(lambda.scalar_type()).reshape({1, -1});
  return at::addmm(base, lambda, flat_experts).view({lambda.size(0), count, weight.size(1)});
}

Tensor routed_linear(const Tensor& x, const Tensor& weight, const Tensor& task_vectors,
                     const Tensor& routing_weights, const std::optional<Tensor>& bias,
                     const std::optional<Tensor>& task_biases) {
  check_routed_linear_forward(x, weight, task_vectors, routing_weights, bias, task_biases);
  if (is_packed(weight)) {
    return routed_linear(x, unpack_weight(weight), unpack_task_vectors(task_vectors), routing_weights, bias,
                         task_biases);
  }
  const int64_t R = x.size(0), M = x.size(1), D = x.size(2), F = weight.size(0), T = task_vectors.size(0);
  const auto type = compute_type(x);
  const auto lambda = routing_weights.to(type), rows = x.to(type);
  auto merged_bias = bias ? bias->to(type).unsqueeze(0) : at::zeros({1, F}, rows.options());
  if (task_biases) merged_bias = at::addmm(merged_bias, lambda, task_biases->to(type));
  merged_bias = merged_bias.unsqueeze(1);  // [R or 1, 1, F]
  const auto y = at::empty({R, M, F}, x.options());
  for_slices(F, (R + T + 1) * D + R * M, type, [&](int64_t first, int64_t count) {
    const auto experts = flat_slice(task_vectors, first, count, type);
    const auto merged = merge_slice(weight, experts, lambda, first, count);
    y.narrow(2, first, count)
        .copy_(at::baddbmm(merged_bias.narrow(2, first, count), rows, merged.transpose(1, 2)));
  });
  return y;
}

std::tuple<Tensor, Tensor> routed_linear_backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                  const Tensor& task_vectors, const Tensor& routing_weights,
                                                  const std::optional<Tensor>& task_biases,
                                                  std::array<bool, 2> output_mask) {
  check_routed_linear_backward(grad, x, weight, task_vectors, routing_weights, task_biases);
  if (is_packed(weight)) {
    return routed_linear_backward(grad, x, unpack_weight(weight), unpack_task_vectors(task_vectors),
                                  routing_weights, task_biases, output_mask);
  }
  const int64_t R = x.size(0), M = x.size(1), D = x.size(2), F = weight.size(0), T = task_vectors.size(0);
  const auto type = compute_type(x);
  const auto lambda = routing_weights.to(type), rows = x.to(type), grad_rows = grad.to(type);
  const auto grad_x = at::zeros({output_mask[0] ? R : 0, M, D}, lambda.options());
  const auto grad_lambda = at::zeros({output_mask[1] ? R : 0, T}, lambda.options());
  for_slices(F, (2 * R + T + 1) * D, type, [&](int64_t first, int64_t count) {
    const auto experts = flat_slice(task_vectors, first, count, type);
    const auto grad_slice = grad_rows.narrow(2, first, count);
    if (output_mask[0]) grad_x.baddbmm_(grad_slice, merge_slice(weight, experts, lambda, first, count));
    if (output_mask[1]) {
      const auto products = at::bmm(grad_slice.transpose(1, 2), rows).view({R, count * D});  // grad^T x
      grad_lambda.addmm_(products, experts.t());
    }
  });
  if (output_mask[1] && task_biases) grad_lambda.addmm_(grad_rows.sum(1), task_biases->to(type).t());
  return {output_mask[0] ? grad_x.to(x.scalar_type()) : at::empty({0}, x.options()),
          output_mask[1] ? grad_lambda.to(routing_weights.scalar_type())
                         : at::empty({0}, routing_weights.options())};
}

// Sparse task vectors are expanded for the device's own kernels of the dense op, where it has some.
Tensor routed_linear_sparse(const Tensor& x, const Tensor& weight, const Tensor& masks, const Tensor& values,
                            const Tensor& offsets, const Tensor& routing_weights,
                            const std::optional<Tensor>& bias, const std::optional<Tensor>& task_biases) {
  check_routed_linear_sparse_forward(x, weight, masks, values, offsets, routing_weights, bias, task_biases);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("wemoe::routed_linear", "")
                             .typed<decltype(routed_linear)>();
  return op.call(x, weight, expand_task_vectors(masks, values), routing_weights, bias, task_biases);
}

std::tuple<Tensor, Tensor> routed_linear_sparse_backward(const Tensor& grad, const Tensor& x,
                                                         const Tensor& weight, const Tensor& masks,
                                                         const Tensor& values, const Tensor& offsets,
                                                         const Tensor& routing_weights,
                                                         const std::optional<Tensor>& task_biases,
                                                         std::array<bool, 2> output_mask) {
  check_routed_linear_sparse_backward(grad, x, weight, masks, values, offsets, routing_weights, task_biases);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("wemoe::routed_linear_backward", "")
                             .typed<decltype(routed_linear_backward)>();
  return op.call(grad, x, weight, expand_task_vectors(masks, values), routing_weights, task_biases,
                 output_mask);
}

}  // namespace

TORCH_LIBRARY_IMPL(wemoe, CompositeExplicitAutograd, m) {
  m.impl("routed_linear", &routed_linear);
  m.impl("routed_linear_backward", &routed_linear_backward);
  m.impl("routed_linear_sparse", &routed_linear_sparse);
  m.impl("routed_linear_sparse_backward", &routed_linear_sparse_backward);
}

}  // namespace wemoe::composite
