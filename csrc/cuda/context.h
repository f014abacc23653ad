// What the ops need of torch: the device that runs, its stream, and tensors as the kernels want them.

#pragma once

#include <ATen/autocast_mode.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "checks.h"
#include "cuda/device.h"

namespace wemoe::cuda {

// While an op runs: its tensors' device is the current one, and autocast casts nothing that ATen is asked
// for.
struct OpScope {
  explicit OpScope(const at::Tensor& tensor) : device(tensor.device()) {}

  c10::cuda::CUDAGuard device;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

inline Device current_device() {
  const auto* properties = at::cuda::getCurrentDeviceProperties();
  return {10 * properties->major + properties->minor, properties->multiProcessorCount,
          static_cast<int64_t>(properties->sharedMemPerBlockOptin), properties->l2CacheSize};
}

inline cudaStream_t current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

// Contiguous, and beginning at a multiple of 16 bytes: a view may begin anywhere.
inline at::Tensor in_pieces(const at::Tensor& tensor) {
  const auto contiguous = tensor.contiguous();
  return reinterpret_cast<uintptr_t>(contiguous.const_data_ptr()) % 16 == 0 ? contiguous : contiguous.clone();
}

// The kernels' name of a type.
template <typename Scalar>
struct ElementType {
  using Type = Scalar;
};
template <>
struct ElementType<at::Half> {
  using Type = __half;
};
template <>
struct ElementType<at::BFloat16> {
  using Type = __nv_bfloat16;
};
template <typename Scalar>
using ElementOf = typename ElementType<Scalar>::Type;

template <typename Scalar>
const ElementOf<Scalar>* read(const at::Tensor& tensor) {
  return reinterpret_cast<const ElementOf<Scalar>*>(tensor.const_data_ptr<Scalar>());
}

template <typename Scalar>
ElementOf<Scalar>* write(const at::Tensor& tensor) {
  return reinterpret_cast<ElementOf<Scalar>*>(tensor.mutable_data_ptr<Scalar>());
}

}  // namespace wemoe::cuda
