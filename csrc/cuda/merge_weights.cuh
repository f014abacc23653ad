// merged[r] = base + sum_t routing_weights[r, t] * task_vectors[t], over P flat numbers.
//
// Bound by memory: a thread holds one number of ROUTES routes in registers, so that each expert is read once
// for every ROUTES routes, and neighbouring threads read neighbouring numbers.

#pragma once

#include <cstdint>

namespace wemoe::cuda {

constexpr int MERGE_THREADS = 256;  // of a block
constexpr int MERGE_ROUTES = 8;

// Sums are taken in Real, whatever base and experts are stored in.
template <typename Real, typename Base, typename Expert>
__global__ void merge_weights_kernel(int64_t P, int64_t R, int64_t T, const Base* base, const Expert* experts,
                                     const Real* routing_weights, Base* merged) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < P; i += threads) {
    for (int64_t first = 0; first < R; first += MERGE_ROUTES) {
      Real sum[MERGE_ROUTES];
      for (int r = 0; r < MERGE_ROUTES; r++) {
        sum[r] = static_cast<Real>(base[i]);
      }
      for (int64_t t = 0; t < T; t++) {
        const Real expert = static_cast<Real>(experts[t * P + i]);
        for (int r = 0; r < MERGE_ROUTES; r++) {
          if (first + r < R) sum[r] += routing_weights[(first + r) * T + t] * expert;
        }
      }
      for (int r = 0; r < MERGE_ROUTES; r++) {
        if (first + r < R) merged[(first + r) * P + i] = static_cast<Base>(sum[r]);
      }
    }
  }
}

}  // namespace wemoe::cuda
