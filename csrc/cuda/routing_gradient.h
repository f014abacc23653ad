// The gradient of routing weights on CUDA, without torch:
//
//   grad_routing_weights[r, t] = sum over f, d of (grad[r]^T x[r])[f, d] * task_vectors[t, f, d]
//
// in fp32. Arrays are contiguous and start at multiples of 16 bytes; Element is float, __half or
// __nv_bfloat16; tf32 is for float alone. Any size but T may be zero: all of grad_routing_weights is written,
// zeros where nothing is summed. The same numbers come out to the bit whenever it runs, and those of a route
// whatever other routes are there. Enqueued on the stream.

#pragma once

#include <driver_types.h>

#include "cuda/device.h"

namespace wemoe::cuda {

// What the kernels below need: rows of whole pieces of 16 bytes, shared memory, instructions of Ampere, a
// grid within its limits, a task.
bool routing_gradient_fits(const Sizes& sizes, int element_bytes, const Device& device);

// Floats of the workspace, which need not be initialised.
int64_t routing_gradient_workspace(const Sizes& sizes);

template <typename Element>
cudaError_t routing_gradient(const Sizes& sizes,
                             const Element* grad,          // [R, M, F]
                             const Element* x,             // [R, M, D]
                             const Element* task_vectors,  // [T, F, D]
                             float* workspace,
                             float* grad_routing_weights,  // [R, T]
                             bool tf32, const Device& device, cudaStream_t stream);

}  // namespace wemoe::cuda
