// The launchers of merge_weights.h for ctypes: types are 0 for float, 1 for half, 2 for bfloat16, 3 for
// double; sizes are R, T, P; device is capability, multiprocessors, shared bytes, L2 bytes. The arrays of P
// numbers begin after `skipped` others.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "api.h"
#include "cuda/merge_weights.h"

namespace {

using namespace wemoe::cuda;

MergeSizes read_merge_sizes(const int64_t* sizes) { return {sizes[0], sizes[1], sizes[2]}; }

// Calls f with a null pointer of the type.
template <typename F>
int with_type(int code, F f) {
  switch (code) {
    case 0:
      return f(static_cast<float*>(nullptr));
    case 1:
      return f(static_cast<__half*>(nullptr));
    case 2:
      return f(static_cast<__nv_bfloat16*>(nullptr));
    default:
      return f(static_cast<double*>(nullptr));
  }
}

template <typename Base, typename Expert, typename Merged>
int merge(const int64_t* sizes, int64_t skipped, const void* base, const void* task_vectors,
          const void* routing_weights, void* merged, const int64_t* device) {
  return merge_weights(read_merge_sizes(sizes), static_cast<const Base*>(base) + skipped,
                       static_cast<const Expert*>(task_vectors) + skipped,
                       static_cast<const Compute<Base>*>(routing_weights),
                       static_cast<Merged*>(merged) + skipped, read_device(device), nullptr);
}

}  // namespace

extern "C" {

// A merged type other than the base's is half or bfloat16, of a base of float.
int emulated_merge_weights(int base_type, int expert_type, int merged_type, const int64_t* sizes,
                           int64_t skipped, const void* base, const void* task_vectors,
                           const void* routing_weights, void* merged, const int64_t* device) {
  return with_type(expert_type, [&]<typename Expert>(Expert*) {
    if (base_type != merged_type) {
      const auto run = merged_type == 1 ? merge<float, Expert, __half> : merge<float, Expert, __nv_bfloat16>;
      return run(sizes, skipped, base, task_vectors, routing_weights, merged, device);
    }
    return with_type(base_type, [&]<typename Base>(Base*) {
      return merge<Base, Expert, Base>(sizes, skipped, base, task_vectors, routing_weights, merged, device);
    });
  });
}

int64_t emulated_merge_weights_workspace(const int64_t* sizes, const int64_t* device) {
  return merge_weights_backward_workspace(read_merge_sizes(sizes), read_device(device));
}

int emulated_merge_weights_backward(int grad_type, int expert_type, const int64_t* sizes, int64_t skipped,
                                    const void* grad, const void* task_vectors, void* workspace,
                                    void* grad_routing_weights, const int64_t* device) {
  return with_type(grad_type, [&]<typename Grad>(Grad*) {
    return with_type(expert_type, [&]<typename Expert>(Expert*) -> int {
      return merge_weights_backward(
          read_merge_sizes(sizes), static_cast<const Grad*>(grad) + skipped,
          static_cast<const Expert*>(task_vectors) + skipped, static_cast<Compute<Grad>*>(workspace),
          static_cast<Compute<Grad>*>(grad_routing_weights), read_device(device), nullptr);
    });
  });
}
}
