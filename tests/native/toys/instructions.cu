// What instructions of a warp compute from given registers.

#include "toy.h"

namespace wemoe::cuda {
namespace {

template <bool TRANSPOSED>
__global__ void load_matrices(const uint4* rows, uint4* loaded) {
  uint4* held = toy_shared<uint4>();
  held[thread_index()] = rows[thread_index()];
  __syncthreads();
  uint32_t registers[4];
  if constexpr (TRANSPOSED) {
    ptx::load_matrices_transposed(registers, held + thread_index());
  } else {
    ptx::load_matrices(registers, held + thread_index());
  }
  loaded[thread_index()] = make_uint4(registers[0], registers[1], registers[2], registers[3]);
}

using Multiply = void (*)(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2]);

template <typename Element>
__device__ void multiply_halves(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  ptx::multiply<Element>(sums, a, b);
}
__device__ void multiply_tf32(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  ptx::multiply_tf32(sums, a, b);
}

template <Multiply MULTIPLY>
__global__ void multiply(const uint4* a, const uint2* b, const float4* sums, float4* results) {
  const int lane = thread_index();
  float held[4] = {sums[lane].x, sums[lane].y, sums[lane].z, sums[lane].w};
  MULTIPLY(held, {a[lane].x, a[lane].y, a[lane].z, a[lane].w}, {b[lane].x, b[lane].y});
  results[lane] = make_float4(held[0], held[1], held[2], held[3]);
}

__global__ void round_to_tf32(int count, const float* numbers, uint32_t* rounded) {
  for (int i = thread_index(); i < count; i += warpSize) {
    rounded[i] = ptx::round_to_tf32(numbers[i]);
  }
}

// Each lane's number and what the shuffles make of it, one row of 32 each.
__global__ void shuffles(float* results) {
  const int lane = thread_index();
  const float number = static_cast<float>(lane);
  const float row[] = {__shfl_sync(~0u, number, 5),         __shfl_xor_sync(~0u, number, 3),
                       __shfl_down_sync(~0u, number, 4),    __shfl_up_sync(~0u, number, 4),
                       __shfl_sync(~0u, number, 5, 8),      __shfl_xor_sync(~0u, number, 12, 8),
                       __shfl_down_sync(~0u, number, 4, 8), __shfl_up_sync(~0u, number, 4, 8)};
  for (int i = 0; i < 8; i++) {
    results[warpSize * i + lane] = row[i];
  }
}

// Of lanes by halves of the warp, each half on its own.
__global__ void votes(uint32_t* results) {
  const int lane = thread_index();
  const uint32_t mask = lane < 16 ? 0xffffu : 0xffff0000u;
  results[lane] = __ballot_sync(mask, lane % 3 == 0);
  results[warpSize + lane] = static_cast<uint32_t>(__any_sync(mask, lane == 20));
  results[2 * warpSize + lane] = static_cast<uint32_t>(__all_sync(mask, lane >= 16));
}

}  // namespace
}  // namespace wemoe::cuda

extern "C" {

using namespace wemoe::cuda;

int toy_load_matrices(bool transposed, const uint4* rows, uint4* loaded) {
  return launch_toy(transposed ? load_matrices<true> : load_matrices<false>, 1, 32, rows, loaded);
}
int toy_multiply_bfloat16(const uint4* a, const uint2* b, const float4* sums, float4* results) {
  return launch_toy(multiply<multiply_halves<__nv_bfloat16>>, 1, 32, a, b, sums, results);
}
int toy_multiply_float16(const uint4* a, const uint2* b, const float4* sums, float4* results) {
  return launch_toy(multiply<multiply_halves<__half>>, 1, 32, a, b, sums, results);
}
int toy_multiply_tf32(const uint4* a, const uint2* b, const float4* sums, float4* results) {
  return launch_toy(multiply<multiply_tf32>, 1, 32, a, b, sums, results);
}
int toy_round_to_tf32(int count, const float* numbers, uint32_t* rounded) {
  return launch_toy(round_to_tf32, 1, 32, count, numbers, rounded);
}
int toy_shuffles(float* results) { return launch_toy(shuffles, 1, 32, results); }
int toy_votes(uint32_t* results) { return launch_toy(votes, 1, 32, results); }
}
