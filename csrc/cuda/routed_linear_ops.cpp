// routed_linear on CUDA: checks, memory, stream, and which of the two implementations runs.

#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <c10/util/env.h>
#include <torch/library.h>

#include <array>
#include <initializer_list>
#include <tuple>

#include "cuda/choice.h"
#include "cuda/chunked.h"
#include "cuda/context.h"
#include "cuda/merging.h"
#include "cuda/routed_linear.h"
#include "cuda/routing_gradient.h"

namespace wemoe::cuda {
namespace {

using at::Tensor;

#define WEMOE_DISPATCH_FUSED(TYPE, NAME, ...)                                                           \
  AT_DISPATCH_SWITCH(TYPE, NAME,                                                                        \
                     AT_DISPATCH_CASE(at::kFloat, __VA_ARGS__) AT_DISPATCH_CASE(at::kHalf, __VA_ARGS__) \
                         AT_DISPATCH_CASE(at::kBFloat16, __VA_ARGS__))

// What WEMOE_CUDA_ROUTED_LINEAR asks for, at this call.
Wanted wanted_path() {
  const auto found = c10::utils::get_env("WEMOE_CUDA_ROUTED_LINEAR").value_or("auto");
  const auto wanted = parse_wanted(found);
  TORCH_CHECK_VALUE(wanted, "WEMOE_CUDA_ROUTED_LINEAR must be auto, fused or chunked. Found ", found, ".");
  return *wanted;
}

Sizes sizes_of(const Tensor& x, const Tensor& weight, const Tensor& task_vectors) {
  return {x.size(0), x.size(1), weight.size(1), weight.size(0), task_vectors.size(0)};
}

// For grad_x, which reads rows of F numbers and writes rows of D.
Sizes turned(const Sizes& sizes) { return {sizes.R, sizes.M, sizes.F, sizes.D, sizes.T}; }

// Where torch's own matrix products may use TF32.
bool allow_tf32() {
  return at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL) ==
         at::Float32Precision::TF32;
}

Factors factors_of(const Tensor& x) {
  if (x.element_size() == 2) return Factors::HALF;
  return allow_tf32() ? Factors::TF32 : Factors::FLOAT;
}

using Fits = bool (*)(const Sizes&, int element_bytes, const Device&);

// Which implementation runs: `fits` is the fused kernels' own rule, weights are all that is beside x.
Path find_path(Fits fits, const Sizes& sizes, const Sizes& work, const Tensor& x,
               std::initializer_list<Tensor> weights, const Device& device) {
  const auto wanted = wanted_path();
  const bool asked = wanted.path == Path::FUSED;
  for (const auto& weight : weights) {
    const bool fused = x.scalar_type() != at::kDouble && weight.scalar_type() == x.scalar_type();
    TORCH_CHECK_VALUE(fused || !asked,
                      "routed_linear: WEMOE_CUDA_ROUTED_LINEAR=fused needs `x`, `weight` and `task_vectors` "
                      "of one dtype: float32, bfloat16 or float16. Found ",
                      x.scalar_type(), " and ", weight.scalar_type(), ".");
    if (!fused) return Path::CHUNKED;
  }
  const int element_bytes = static_cast<int>(x.element_size());
  const bool found = fits(sizes, element_bytes, device);
  TORCH_CHECK_VALUE(found || !asked, "routed_linear: WEMOE_CUDA_ROUTED_LINEAR=fused needs ",
                    broken_rule(found, sizes, element_bytes, device), ".");
  return choose_path(wanted, found, work, factors_of(x), device);
}

// A bias in x's type, or an undefined tensor.
Tensor bias_like(const std::optional<Tensor>& bias, const Tensor& x) {
  return bias ? bias->to(x.scalar_type()).contiguous() : Tensor();
}

template <typename Scalar>
const ElementOf<Scalar>* read_if(const Tensor& tensor) {
  return tensor.defined() ? read<Scalar>(tensor) : nullptr;
}

Tensor routed_linear_fused(const Sizes& sizes, const Tensor& x, const Tensor& weight,
                           const Tensor& task_vectors, const Tensor& routing_weights,
                           const std::optional<Tensor>& bias, const std::optional<Tensor>& task_biases,
                           const Device& device) {
  const auto rows = in_pieces(x), base = in_pieces(weight), experts = in_pieces(task_vectors);
  const auto lambda = routing_weights.to(at::kFloat).contiguous();
  const auto plain_bias = bias_like(bias, x), expert_biases = bias_like(task_biases, x);
  const auto y = at::empty({sizes.R, sizes.M, sizes.F}, x.options());
  WEMOE_DISPATCH_FUSED(x.scalar_type(), "routed_linear", [&] {
    C10_CUDA_CHECK(wemoe::cuda::routed_linear(sizes, read<scalar_t>(rows), read<scalar_t>(base),
                                              read<scalar_t>(experts), lambda.const_data_ptr<float>(),
                                              read_if<scalar_t>(plain_bias), read_if<scalar_t>(expert_biases),
                                              write<scalar_t>(y), allow_tf32(), device, current_stream()));
  });
  return y;
}

Tensor grad_x_fused(const Sizes& sizes, const Tensor& grad, const Tensor& weight, const Tensor& task_vectors,
                    const Tensor& routing_weights, const Device& device) {
  const auto rows = in_pieces(grad), base = in_pieces(weight), experts = in_pieces(task_vectors);
  const auto lambda = routing_weights.to(at::kFloat).contiguous();
  const auto grad_x = at::empty({sizes.R, sizes.M, sizes.D}, grad.options());
  WEMOE_DISPATCH_FUSED(grad.scalar_type(), "routed_linear_backward", [&] {
    C10_CUDA_CHECK(wemoe::cuda::grad_x(sizes, read<scalar_t>(rows), read<scalar_t>(base),
                                       read<scalar_t>(experts), lambda.const_data_ptr<float>(),
                                       write<scalar_t>(grad_x), allow_tf32(), device, current_stream()));
  });
  return grad_x;
}

Tensor routing_gradient_fused(const Sizes& sizes, const Tensor& grad, const Tensor& x,
                              const Tensor& task_vectors, const Device& device) {
  const auto gradients = in_pieces(grad), rows = in_pieces(x), experts = in_pieces(task_vectors);
  const auto options = x.options().dtype(at::kFloat);
  const auto workspace = at::empty({routing_gradient_workspace(sizes)}, options);
  const auto grad_lambda = at::empty({sizes.R, sizes.T}, options);
  WEMOE_DISPATCH_FUSED(x.scalar_type(), "routed_linear_backward", [&] {
    C10_CUDA_CHECK(routing_gradient(sizes, read<scalar_t>(gradients), read<scalar_t>(rows),
                                    read<scalar_t>(experts), workspace.mutable_data_ptr<float>(),
                                    grad_lambda.mutable_data_ptr<float>(), allow_tf32(), device,
                                    current_stream()));
  });
  return grad_lambda;
}

Tensor routed_linear_op(const Tensor& x, const Tensor& weight, const Tensor& task_vectors,
                        const Tensor& routing_weights, const std::optional<Tensor>& bias,
                        const std::optional<Tensor>& task_biases) {
  check_routed_linear_forward(x, weight, task_vectors, routing_weights, bias, task_biases);
  const OpScope scope(x);
  if (is_packed(weight)) {
    return routed_linear_op(x, unpack_weight(weight), unpack_task_vectors(task_vectors), routing_weights,
                            bias, task_biases);
  }
  const auto device = current_device();
  const auto sizes = sizes_of(x, weight, task_vectors);
  if (sizes.R * sizes.M * sizes.F == 0) return at::empty({sizes.R, sizes.M, sizes.F}, x.options());
  const auto path = sizes.D == 0
                        ? Path::CHUNKED
                        : find_path(routed_linear_fits, sizes, sizes, x, {weight, task_vectors}, device);
  return path == Path::FUSED
             ? routed_linear_fused(sizes, x, weight, task_vectors, routing_weights, bias, task_biases, device)
             : routed_linear_chunked(x, weight, task_vectors, routing_weights, bias, task_biases, device);
}

Tensor grad_of_x(const Sizes& sizes, const Tensor& grad, const Tensor& weight, const Tensor& task_vectors,
                 const Tensor& routing_weights, const Device& device) {
  const auto path = find_path(routed_linear_fits, sizes, turned(sizes), grad, {weight, task_vectors}, device);
  return path == Path::FUSED ? grad_x_fused(sizes, grad, weight, task_vectors, routing_weights, device)
                             : grad_x_chunked(grad, weight, task_vectors, routing_weights, device);
}

Tensor grad_of_routing_weights(const Sizes& sizes, const Tensor& grad, const Tensor& x,
                               const Tensor& task_vectors, const Device& device) {
  const auto path = find_path(routing_gradient_fits, sizes, sizes, x, {task_vectors}, device);
  return path == Path::FUSED ? routing_gradient_fused(sizes, grad, x, task_vectors, device)
                             : routing_gradient_chunked(grad, x, task_vectors, device);
}

std::tuple<Tensor, Tensor> routed_linear_backward_op(const Tensor& grad, const Tensor& x,
                                                     const Tensor& weight, const Tensor& task_vectors,
                                                     const Tensor& routing_weights,
                                                     const std::optional<Tensor>& task_biases,
                                                     std::array<bool, 2> output_mask) {
  check_routed_linear_backward(grad, x, weight, task_vectors, routing_weights, task_biases);
  const OpScope scope(x);
  if (is_packed(weight)) {
    return routed_linear_backward_op(grad, x, unpack_weight(weight), unpack_task_vectors(task_vectors),
                                     routing_weights, task_biases, output_mask);
  }
  const auto device = current_device();
  const auto sizes = sizes_of(x, weight, task_vectors);
  const bool nothing = sizes.R * sizes.M * sizes.D * sizes.F == 0;  // to multiply
  const auto gradients = grad.to(x.scalar_type());
  auto grad_x = at::empty({0}, x.options()), grad_lambda = at::empty({0}, routing_weights.options());
  if (output_mask[0]) {
    grad_x = nothing ? at::zeros(x.sizes(), x.options())
                     : grad_of_x(sizes, gradients, weight, task_vectors, routing_weights, device);
  }
  if (output_mask[1]) {
    const auto type = compute_type(x);
    auto sums = nothing ? at::zeros({sizes.R, sizes.T}, x.options().dtype(type))
                        : grad_of_routing_weights(sizes, gradients, x, task_vectors, device);
    if (task_biases) sums.add_(merge_backward_on_device(grad.sum(1, false, type), *task_biases));
    grad_lambda = sums.to(routing_weights.scalar_type());
  }
  return {grad_x, grad_lambda};
}

}  // namespace

TORCH_LIBRARY_IMPL(wemoe, CUDA, m) {
  m.impl("routed_linear", &routed_linear_op);
  m.impl("routed_linear_backward", &routed_linear_backward_op);
}

}  // namespace wemoe::cuda

#undef WEMOE_DISPATCH_FUSED
