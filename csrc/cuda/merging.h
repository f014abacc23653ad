// The launchers of merge_weights.h on tensors: arguments are checked, routes are there, the device is the
// current one.

#pragma once

#include <ATen/ATen.h>

namespace wemoe::cuda {

// merged[r] = base + sum_t routing_weights[r, t] task_vectors[t], [R, ...], in a type of the caller's choice,
// which may be other than the base's.
at::Tensor merge_on_device(const at::Tensor& base, const at::Tensor& task_vectors,
                           const at::Tensor& routing_weights, at::ScalarType merged_type);

// [R, T], in the type that sums are taken in.
at::Tensor merge_backward_on_device(const at::Tensor& grad, const at::Tensor& task_vectors);

}  // namespace wemoe::cuda
