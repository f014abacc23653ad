// routed_linear on CUDA for every shape, dtype and device: the weights of a few samples at a time are merged
// into a workspace that fits L2, and multiplied by cuBLAS. Arguments are checked and not packed, the device
// is the current one; x and grad have one type, and grad is not empty.

#pragma once

#include <ATen/ATen.h>

#include <optional>

#include "cuda/device.h"

namespace wemoe::cuda {

at::Tensor routed_linear_chunked(const at::Tensor& x, const at::Tensor& weight,
                                 const at::Tensor& task_vectors, const at::Tensor& routing_weights,
                                 const std::optional<at::Tensor>& bias,
                                 const std::optional<at::Tensor>& task_biases, const Device& device);

at::Tensor grad_x_chunked(const at::Tensor& grad, const at::Tensor& weight, const at::Tensor& task_vectors,
                          const at::Tensor& routing_weights, const Device& device);

// [R, T] in the type that sums are taken in, without the part of the biases.
at::Tensor routing_gradient_chunked(const at::Tensor& grad, const at::Tensor& x,
                                    const at::Tensor& task_vectors, const Device& device);

}  // namespace wemoe::cuda
