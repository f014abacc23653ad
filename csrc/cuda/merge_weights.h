// merge_weights and its gradient on CUDA, without torch. Arrays are contiguous; Base, Expert and Merged are
// float, double, __half or __nv_bfloat16; R, T and P are not zero. Enqueued on the stream; the same numbers
// come out to the bit whenever they run, and those of a route whatever other routes are there.

#pragma once

#include <driver_types.h>

#include "cuda/compute.h"
#include "cuda/device.h"

namespace wemoe::cuda {

struct MergeSizes {
  int64_t R, T, P;  // routes, tasks, numbers of a parameter
};

// merged[r] = base + sum_t routing_weights[r, t] * task_vectors[t]. Merged is Base, or half precision of a
// float base.
template <typename Base, typename Expert, typename Merged>
cudaError_t merge_weights(const MergeSizes& sizes,
                          const Base* base,                      // [P]
                          const Expert* task_vectors,            // [T, P]
                          const Compute<Base>* routing_weights,  // [R, T]
                          Merged* merged,                        // [R, P]
                          const Device& device, cudaStream_t stream);

// grad_routing_weights[r, t] = sum over p of grad[r, p] * task_vectors[t, p].
template <typename Grad, typename Expert>
cudaError_t merge_weights_backward(const MergeSizes& sizes,
                                   const Grad* grad,                     // [R, P]
                                   const Expert* task_vectors,           // [T, P]
                                   Compute<Grad>* workspace,             // not initialised
                                   Compute<Grad>* grad_routing_weights,  // [R, T]
                                   const Device& device, cudaStream_t stream);

// Numbers of the workspace.
int64_t merge_weights_backward_workspace(const MergeSizes& sizes, const Device& device);

}  // namespace wemoe::cuda
