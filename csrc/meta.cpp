// Shapes without data, for tracing and the meta device.

#include <torch/library.h>

#include <array>
#include <tuple>

#include "checks.h"

namespace wemoe {
namespace {

using at::Tensor;

Tensor routed_linear(const Tensor& x, const Tensor& weight, const Tensor& task_vectors,
                     const Tensor& routing_weights, const std::optional<Tensor>& bias,
                     const std::optional<Tensor>& task_biases) {
  const auto sizes = check_routed_linear_forward(x, weight, task_vectors, routing_weights, bias, task_biases);
  return at::empty_symint({x.sym_size(0), x.sym_size(1), sizes.F}, x.options());
}

std::tuple<Tensor, Tensor> empty_gradients(const Tensor& x, const Tensor& routing_weights,
                                           std::array<bool, 2> output_mask) {
  return {output_mask[0] ? at::empty_symint(x.sym_sizes(), x.options()) : at::empty({0}, x.options()),
          output_mask[1] ? at::empty_symint(routing_weights.sym_sizes(), routing_weights.options())
                         : at::empty({0}, routing_weights.options())};
}

std::tuple<Tensor, Tensor> routed_linear_backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                  const Tensor& task_vectors, const Tensor& routing_weights,
                                                  const std::optional<Tensor>& task_biases,
                                                  std::array<bool, 2> output_mask) {
  check_routed_linear_backward(grad, x, weight, task_vectors, routing_weights, task_biases);
  return empty_gradients(x, routing_weights, output_mask);
}

Tensor routed_linear_sparse(const Tensor& x, const Tensor& weight, const Tensor& masks, const Tensor& values,
                            const Tensor& offsets, const Tensor& routing_weights,
                            const std::optional<Tensor>& bias, const std::optional<Tensor>& task_biases) {
  const auto sizes = check_routed_linear_sparse_forward(x, weight, masks, values, offsets, routing_weights,
                                                        bias, task_biases);
  return at::empty_symint({x.sym_size(0), x.sym_size(1), sizes.F}, x.options());
}

std::tuple<Tensor, Tensor> routed_linear_sparse_backward(const Tensor& grad, const Tensor& x,
                                                         const Tensor& weight, const Tensor& masks,
                                                         const Tensor& values, const Tensor& offsets,
                                                         const Tensor& routing_weights,
                                                         const std::optional<Tensor>& task_biases,
                                                         std::array<bool, 2> output_mask) {
  check_routed_linear_sparse_backward(grad, x, weight, masks, values, offsets, routing_weights, task_biases);
  return empty_gradients(x, routing_weights, output_mask);
}

Tensor merge_weights(const Tensor& base, const Tensor& task_vectors, const Tensor& routing_weights) {
  check_merge_weights(base, task_vectors, routing_weights);
  c10::SymDimVector shape(base.sym_sizes());
  shape.insert(shape.begin(), routing_weights.sym_size(0));
  return at::empty_symint(shape, base.options());
}

Tensor merge_weights_backward(const Tensor& grad, const Tensor& task_vectors) {
  check_merge_weights_backward(grad, task_vectors);
  return at::empty_symint({grad.sym_size(0), task_vectors.sym_size(0)},
                          grad.options().dtype(compute_type(grad)));
}

}  // namespace

TORCH_LIBRARY_IMPL(wemoe, Meta, m) {
  m.impl("routed_linear", &routed_linear);
  m.impl("routed_linear_backward", &routed_linear_backward);
  m.impl("routed_linear_sparse", &routed_linear_sparse);
  m.impl("routed_linear_sparse_backward", &routed_linear_sparse_backward);
  m.impl("merge_weights", &merge_weights);
  m.impl("merge_weights_backward", &merge_weights_backward);
}

}  // namespace wemoe
