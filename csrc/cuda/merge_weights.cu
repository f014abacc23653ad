// merge_weights on CUDA, forward; backward is the composite one, a single matrix product.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>

#include "checks.h"
#include "cuda/merge_weights.cuh"

namespace wemoe::cuda {
namespace {

using at::Tensor;

template <typename Base, typename Expert>
void launch(const Tensor& base, const Tensor& experts, const Tensor& lambda, const Tensor& merged) {
  const int64_t P = base.numel(),
                blocks = std::min<int64_t>((P + MERGE_THREADS - 1) / MERGE_THREADS, 1 << 20);
  merge_weights_kernel<<<blocks, MERGE_THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(
      P, lambda.size(0), experts.size(0), base.const_data_ptr<Base>(), experts.const_data_ptr<Expert>(),
      lambda.const_data_ptr<at::opmath_type<Base>>(), merged.mutable_data_ptr<Base>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor merge_weights(const Tensor& base, const Tensor& task_vectors, const Tensor& routing_weights) {
  check_merge_weights(base, task_vectors, routing_weights);
  const c10::cuda::CUDAGuard guard(base.device());
  auto shape = base.sizes().vec();
  shape.insert(shape.begin(), routing_weights.size(0));
  const auto merged = at::empty(shape, base.options());
  if (merged.numel() == 0) return merged;
  const auto flat = base.contiguous(), experts = task_vectors.contiguous();
  const auto lambda = routing_weights.to(compute_type(base)).contiguous();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, base.scalar_type(), "merge_weights", [&] {
    using Base = scalar_t;
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, experts.scalar_type(), "merge_weights",
                                    [&] { launch<Base, scalar_t>(flat, experts, lambda, merged); });
  });
  return merged;
}

}  // namespace

TORCH_LIBRARY_IMPL(wemoe, CUDA, m) { m.impl("merge_weights", &merge_weights); }

}  // namespace wemoe::cuda
