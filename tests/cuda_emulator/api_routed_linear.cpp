// The launchers of routed_linear.h for ctypes: dtype is 0 for float, 1 for half, 2 for bfloat16; sizes are R,
// M, D, F, T; device is capability, multiprocessors, shared bytes, L2 bytes.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "api.h"
#include "cuda/products.cuh"
#include "cuda/routed_linear.h"
#include "cuda/routed_plan.h"

namespace {

using namespace wemoe::cuda;

template <typename Element>
int run(bool turned, const int64_t* sizes, const void* x, const void* weight, const void* task_vectors,
        const float* routing_weights, const void* bias, const void* task_biases, void* y, bool tf32,
        const int64_t* device) {
  const auto numbers = [](const void* pointer) { return static_cast<const Element*>(pointer); };
  if (turned) {
    return grad_x(read_sizes(sizes), numbers(x), numbers(weight), numbers(task_vectors), routing_weights,
                  static_cast<Element*>(y), tf32, read_device(device), nullptr);
  }
  return routed_linear(read_sizes(sizes), numbers(x), numbers(weight), numbers(task_vectors), routing_weights,
                       numbers(bias), numbers(task_biases), static_cast<Element*>(y), tf32,
                       read_device(device), nullptr);
}

}  // namespace

extern "C" {

int emulated_routed_linear(int dtype, bool turned, const int64_t* sizes, const void* x, const void* weight,
                           const void* task_vectors, const float* routing_weights, const void* bias,
                           const void* task_biases, void* y, bool tf32, const int64_t* device) {
  const auto run_it = dtype == 0 ? run<float> : dtype == 1 ? run<__half> : run<__nv_bfloat16>;
  return run_it(turned, sizes, x, weight, task_vectors, routing_weights, bias, task_biases, y, tf32, device);
}

bool emulated_routed_linear_fits(const int64_t* sizes, int element_bytes, const int64_t* device) {
  return routed_linear_fits(read_sizes(sizes), element_bytes, read_device(device));
}

// groups, tiles, unit rows, units, planes, slots, shared bytes, blocks along and across
void emulated_routed_plan(int64_t R, int64_t M, int64_t N, int64_t T, int element_bytes,
                          const int64_t* device, int64_t* plan) {
  const int scratch_bytes = element_bytes == 4 ? FloatProduct::SCRATCH * sizeof(float) : 0;
  const auto found = plan_routed_product({R, M, N, T, element_bytes, scratch_bytes}, read_device(device));
  const int64_t values[] = {found.groups,       found.tiles,        found.unit_rows,
                            found.units(),      found.planes,       found.slots,
                            found.shared_bytes, found.blocks_along, found.blocks_across};
  for (const int64_t value : values) {
    *plan++ = value;
  }
}
}
