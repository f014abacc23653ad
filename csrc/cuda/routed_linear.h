// The fused kernels behind routed_linear on CUDA, without torch. Arrays are contiguous and start at multiples
// of 16 bytes; Element is float, __half or __nv_bfloat16; no size is zero; tf32 is for float alone. Enqueued
// on the stream.

#pragma once

#include <driver_types.h>

#include "cuda/device.h"

namespace wemoe::cuda {

// What the kernels below need: rows of whole pieces of 16 bytes, shared memory, instructions of Ampere.
bool routed_linear_fits(const Sizes& sizes, int element_bytes, const Device& device);

template <typename Element>
cudaError_t routed_linear(const Sizes& sizes,
                          const Element* x,              // [R, M, D]
                          const Element* weight,         // [F, D]
                          const Element* task_vectors,   // [T, F, D]
                          const float* routing_weights,  // [R, T]
                          const Element* bias,           // [F] or null
                          const Element* task_biases,    // [T, F] or null
                          Element* y,                    // [R, M, F]
                          bool tf32, const Device& device, cudaStream_t stream);

template <typename Element>
cudaError_t grad_x(const Sizes& sizes,
                   const Element* grad,           // [R, M, F]
                   const Element* weight,         // [F, D]
                   const Element* task_vectors,   // [T, F, D]
                   const float* routing_weights,  // [R, T]
                   Element* grad_x,               // [R, M, D]
                   bool tf32, const Device& device, cudaStream_t stream);

}  // namespace wemoe::cuda
