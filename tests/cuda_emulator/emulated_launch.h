// Stands in for csrc/cuda/launch.cuh: runs every block before it returns.

#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <type_traits>

namespace wemoe::emulator {

// Of threads of one dimension; body is called once for each of them.
cudaError_t run(dim3 grid, int threads, size_t shared_bytes, void (*body)(void*), void* context);

}  // namespace wemoe::emulator

namespace wemoe::cuda {

template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes, cudaStream_t,
                   std::type_identity_t<Parameters>... arguments) {
  auto body = [&] { kernel(arguments...); };
  return emulator::run(
      grid, threads, shared_bytes, [](void* context) { (*static_cast<decltype(body)*>(context))(); }, &body);
}

}  // namespace wemoe::cuda
