// The CUDA kernel of merge_weights, run by a loop over blocks and threads: it needs no order among them.

#define __global__
struct Index {
  unsigned x;
};
static Index gridDim, blockDim, blockIdx, threadIdx;

#include "cuda/merge_weights.cuh"

extern "C" void merge_weights(unsigned blocks, unsigned threads, int64_t P, int64_t R, int64_t T,
                              const float* base, const double* experts, const float* routing_weights,
                              float* merged) {
  gridDim.x = blocks;
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
    for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++) {
      wemoe::cuda::merge_weights_kernel<float>(P, R, T, base, experts, routing_weights, merged);
    }
  }
}
