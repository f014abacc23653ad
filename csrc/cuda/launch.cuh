// Launching a kernel, in one place, so that tests can put an emulation there.

#pragma once

#include <driver_types.h>

#include <cstddef>
#include <type_traits>

#ifdef WEMOE_EMULATED
#include "emulated_launch.h"
#else

#include <cuda_runtime.h>

namespace wemoe::cuda {

constexpr size_t PLAIN_SHARED_BYTES = 48 * 1024;  // more than that, a kernel has to be allowed

template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes,
                   cudaStream_t stream, std::type_identity_t<Parameters>... arguments) {
  if (shared_bytes > PLAIN_SHARED_BYTES) {
    const auto error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t launched{};
  launched.gridDim = grid;
  launched.blockDim = dim3(threads);
  launched.dynamicSmemBytes = shared_bytes;
  launched.stream = stream;
  return cudaLaunchKernelEx(&launched, kernel, arguments...);
}

}  // namespace wemoe::cuda

#endif
