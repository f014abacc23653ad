// The launcher of routing_gradient.h for ctypes: dtype is 0 for float, 1 for half, 2 for bfloat16; sizes are
// R, M, D, F, T; device is capability, multiprocessors, shared bytes, L2 bytes.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "api.h"
#include "cuda/routing_gradient.h"

namespace {

using namespace wemoe::cuda;

template <typename Element>
int run(const int64_t* sizes, const void* grad, const void* x, const void* task_vectors, float* workspace,
        float* grad_routing_weights, bool tf32, const int64_t* device) {
  const auto numbers = [](const void* pointer) { return static_cast<const Element*>(pointer); };
  return routing_gradient(read_sizes(sizes), numbers(grad), numbers(x), numbers(task_vectors), workspace,
                          grad_routing_weights, tf32, read_device(device), nullptr);
}

}  // namespace

extern "C" {

int emulated_routing_gradient(int dtype, const int64_t* sizes, const void* grad, const void* x,
                              const void* task_vectors, float* workspace, float* grad_routing_weights,
                              bool tf32, const int64_t* device) {
  const auto run_it = dtype == 0 ? run<float> : dtype == 1 ? run<__half> : run<__nv_bfloat16>;
  return run_it(sizes, grad, x, task_vectors, workspace, grad_routing_weights, tf32, device);
}

int64_t emulated_routing_gradient_workspace(const int64_t* sizes) {
  return routing_gradient_workspace(read_sizes(sizes));
}

bool emulated_routing_gradient_fits(const int64_t* sizes, int element_bytes, const int64_t* device) {
  return routing_gradient_fits(read_sizes(sizes), element_bytes, read_device(device));
}
}
