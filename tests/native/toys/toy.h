// Small kernels that each show one thing about the emulator, of one block unless they need two.

#pragma once

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"

namespace wemoe::cuda {

constexpr int TOY_SHARED_BYTES = 16 * 1024;

__device__ __forceinline__ int thread_index() { return static_cast<int>(threadIdx.x); }

template <typename Number>
__device__ __forceinline__ Number* toy_shared() {
  return reinterpret_cast<Number*>(ptx::dynamic_shared());
}

template <typename... Parameters>
int launch_toy(void (*kernel)(Parameters...), int blocks, int threads,
               std::type_identity_t<Parameters>... arguments) {
  return launch(kernel, dim3(static_cast<unsigned>(blocks)), threads, TOY_SHARED_BYTES, nullptr,
                arguments...);
}

}  // namespace wemoe::cuda
