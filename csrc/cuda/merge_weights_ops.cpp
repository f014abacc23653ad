// merge_weights on CUDA: checks, memory, stream; the kernels are in merge_weights.cuh.

#include <ATen/Dispatch.h>
#include <torch/library.h>

#include "cuda/context.h"
#include "cuda/merge_weights.h"
#include "cuda/merging.h"

#define WEMOE_DISPATCH(TYPE, NAME, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, TYPE, NAME, __VA_ARGS__)

namespace wemoe::cuda {
namespace {

using at::Tensor;

std::vector<int64_t> merged_shape(const Tensor& base, const Tensor& routing_weights) {
  auto shape = base.sizes().vec();
  shape.insert(shape.begin(), routing_weights.size(0));
  return shape;
}

template <typename Base, typename Merged>
void launch_merge(const Tensor& base, const Tensor& experts, const Tensor& routing_weights,
                  const Tensor& merged) {
  const MergeSizes sizes{routing_weights.size(0), experts.size(0), base.numel()};
  const auto lambda = routing_weights.to(compute_type(base)).contiguous();
  WEMOE_DISPATCH(experts.scalar_type(), "merge_weights", [&] {
    C10_CUDA_CHECK(wemoe::cuda::merge_weights(sizes, read<Base>(base), read<scalar_t>(experts),
                                              lambda.const_data_ptr<Compute<Base>>(), write<Merged>(merged),
                                              current_device(), current_stream()));
  });
}

}  // namespace

Tensor merge_on_device(const Tensor& base, const Tensor& task_vectors, const Tensor& routing_weights,
                       at::ScalarType merged_type) {
  const auto merged = at::empty(merged_shape(base, routing_weights), base.options().dtype(merged_type));
  if (merged.numel() == 0) return merged;
  const auto experts = task_vectors.contiguous();
  if (base.scalar_type() == merged_type) {
    const auto flat = base.contiguous();
    WEMOE_DISPATCH(merged_type, "merge_weights",
                   [&] { launch_merge<scalar_t, scalar_t>(flat, experts, routing_weights, merged); });
    return merged;
  }
  const auto flat = base.to(compute_type(merged)).contiguous();
  if (merged_type == compute_type(merged)) {
    AT_DISPATCH_FLOATING_TYPES(merged_type, "merge_weights", [&] {
      launch_merge<scalar_t, scalar_t>(flat, experts, routing_weights, merged);
    });
  } else {
    AT_DISPATCH_REDUCED_FLOATING_TYPES(merged_type, "merge_weights", [&] {
      launch_merge<float, scalar_t>(flat, experts, routing_weights, merged);
    });
  }
  return merged;
}

Tensor merge_backward_on_device(const Tensor& grad, const Tensor& task_vectors) {
  const int64_t R = grad.size(0), T = task_vectors.size(0);
  const auto options = grad.options().dtype(compute_type(grad));
  if (grad.numel() == 0) return at::zeros({R, T}, options);
  const MergeSizes sizes{R, T, grad.numel() / R};
  const auto device = current_device();
  const auto workspace = at::empty({merge_weights_backward_workspace(sizes, device)}, options);
  const auto grad_lambda = at::empty({R, T}, options);
  const auto gradients = grad.contiguous(), experts = task_vectors.contiguous();
  WEMOE_DISPATCH(grad.scalar_type(), "merge_weights_backward", [&] {
    using Grad = scalar_t;
    using Real = Compute<Grad>;
    WEMOE_DISPATCH(experts.scalar_type(), "merge_weights_backward", [&] {
      C10_CUDA_CHECK(wemoe::cuda::merge_weights_backward(
          sizes, read<Grad>(gradients), read<scalar_t>(experts), workspace.mutable_data_ptr<Real>(),
          grad_lambda.mutable_data_ptr<Real>(), device, current_stream()));
    });
  });
  return grad_lambda;
}

namespace {

Tensor merge_weights_op(const Tensor& base, const Tensor& task_vectors, const Tensor& routing_weights) {
  check_merge_weights(base, task_vectors, routing_weights);
  const OpScope scope(base);
  return merge_on_device(base, task_vectors, routing_weights, base.scalar_type());
}

Tensor merge_weights_backward_op(const Tensor& grad, const Tensor& task_vectors) {
  check_merge_weights_backward(grad, task_vectors);
  const OpScope scope(grad);
  return merge_backward_on_device(grad, task_vectors);
}

}  // namespace

TORCH_LIBRARY_IMPL(wemoe, CUDA, m) {
  m.impl("merge_weights", &merge_weights_op);
  m.impl("merge_weights_backward", &merge_weights_backward_op);
}

}  // namespace wemoe::cuda

#undef WEMOE_DISPATCH
