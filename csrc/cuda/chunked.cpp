#include "cuda/chunked.h"

#include <algorithm>

#include "checks.h"
#include "cuda/merging.h"

namespace wemoe::cuda {
namespace {

using at::Tensor;

// Calls f(first, count) for the routes, as many at a time as have weights of this type in half of L2: the
// other half is left for what they are made of.
template <typename F>
void for_chunks(int64_t routes, int64_t numbers, at::ScalarType type, const Device& device, F f) {
  const int64_t bytes = std::max<int64_t>(numbers, 1) * static_cast<int64_t>(c10::elementSize(type));
  const int64_t step = std::max<int64_t>(device.l2_bytes / 2 / bytes, 1);
  for (int64_t first = 0; first < routes; first += step) {
    f(first, std::min(step, routes - first));
  }
}

// The base once in a type that merges of all chunks take it in: as it is, or what sums are taken in.
Tensor base_for(const Tensor& weight, const Tensor& x) {
  return weight.scalar_type() == x.scalar_type() ? weight : weight.to(compute_type(x)).contiguous();
}

// [R or 1, 1, F] in x's type.
Tensor merge_bias(const Tensor& x, const Tensor& routing_weights, const Tensor& bias,
                  const std::optional<Tensor>& task_biases) {
  if (!task_biases) return bias.to(x.scalar_type()).reshape({1, 1, -1});
  return merge_on_device(base_for(bias, x), *task_biases, routing_weights, x.scalar_type()).unsqueeze(1);
}

}  // namespace

Tensor routed_linear_chunked(const Tensor& x, const Tensor& weight, const Tensor& task_vectors,
                             const Tensor& routing_weights, const std::optional<Tensor>& bias,
                             const std::optional<Tensor>& task_biases, const Device& device) {
  const auto type = x.scalar_type();
  const int64_t R = x.size(0), M = x.size(1), F = weight.size(0);
  auto y = at::empty({R, M, F}, x.options());
  const auto merged_bias =
      bias ? merge_bias(x, routing_weights, *bias, task_biases).expand({R, 1, F}) : Tensor();
  const auto base = base_for(weight, x), experts = task_vectors.contiguous();
  const auto lambda = routing_weights.to(compute_type(x));
  for_chunks(R, weight.numel(), type, device, [&](int64_t first, int64_t count) {
    const auto merged = merge_on_device(base, experts, lambda.narrow(0, first, count), type);
    const auto rows = x.narrow(0, first, count), weights = merged.transpose(1, 2);
    auto part = y.narrow(0, first, count);
    if (bias) {
      at::baddbmm_out(part, merged_bias.narrow(0, first, count), rows, weights);
    } else {
      at::bmm_out(part, rows, weights);
    }
  });
  return y;
}

Tensor grad_x_chunked(const Tensor& grad, const Tensor& weight, const Tensor& task_vectors,
                      const Tensor& routing_weights, const Device& device) {
  const auto type = grad.scalar_type();
  auto grad_x = at::empty({grad.size(0), grad.size(1), weight.size(1)}, grad.options());
  const auto base = base_for(weight, grad), experts = task_vectors.contiguous();
  const auto lambda = routing_weights.to(compute_type(grad));
  for_chunks(grad.size(0), weight.numel(), type, device, [&](int64_t first, int64_t count) {
    const auto merged = merge_on_device(base, experts, lambda.narrow(0, first, count), type);
    auto part = grad_x.narrow(0, first, count);
    at::bmm_out(part, grad.narrow(0, first, count), merged);
  });
  return grad_x;
}

Tensor routing_gradient_chunked(const Tensor& grad, const Tensor& x, const Tensor& task_vectors,
                                const Device& device) {
  const auto type = compute_type(x);
  const int64_t R = x.size(0);
  auto grad_lambda = at::empty({R, task_vectors.size(0)}, x.options().dtype(type));
  const auto experts = task_vectors.contiguous();
  for_chunks(R, task_vectors[0].numel(), type, device, [&](int64_t first, int64_t count) {
    const auto gradients = grad.narrow(0, first, count).transpose(1, 2), rows = x.narrow(0, first, count);
    const bool half = type != x.scalar_type();  // products are kept in fp32, which sums are taken in
    const auto products = half ? at::bmm(gradients, rows, type) : at::bmm(gradients, rows);
    grad_lambda.narrow(0, first, count).copy_(merge_backward_on_device(products, experts));
  });
  return grad_lambda;
}

}  // namespace wemoe::cuda
