// What the warp-wide instructions of csrc/cuda/ptx.cuh do with registers, asked of whatever runs them. A
// register, or half of one, is a place: numbers that tell places apart go in, and all lanes' registers come
// out. One warp runs each; tools/gpu_check/fragments.py reads the answers.

#include <cstdint>

#include "cuda/elements.cuh"
#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"

namespace wemoe::cuda {
namespace {

constexpr int LANES = 32, MATRIX_BYTES = 4 * 8 * 8 * 2;
constexpr float SUMS_STEP = 1024;  // more than the number of places of A, so that sum and place come apart

// Four matrices of 8 x 8 distinct numbers, by way of shared memory: [32 lanes, 4 registers].
template <bool TRANSPOSED>
__global__ void load_matrices_kernel(const uint4* matrices, uint4* loaded) {
  auto* rows = reinterpret_cast<uint4*>(ptx::dynamic_shared());
  rows[threadIdx.x] = matrices[threadIdx.x];
  __syncthreads();
  uint32_t registers[4];
  if constexpr (TRANSPOSED) {
    ptx::load_matrices_transposed(registers, rows + threadIdx.x);
  } else {
    ptx::load_matrices(registers, rows + threadIdx.x);
  }
  loaded[threadIdx.x] = make_uint4(registers[0], registers[1], registers[2], registers[3]);
}

// Registers of A whose places are numbered from 1, and of B with a one in a single place.
template <typename Element>
struct Halves {
  static constexpr int PLACES_OF_B = LANES * 4;

  static __device__ void number(uint32_t (&a)[4], int lane) {
    for (int i = 0; i < 4; i++) {
      const float first = static_cast<float>(8 * lane + 2 * i + 1);
      a[i] = narrow_pair<Element>(first, first + 1);
    }
  }
  static __device__ void choose(uint32_t (&b)[2], int lane, int chosen) {
    for (int i = 0; i < 2; i++) {
      const int place = 4 * lane + 2 * i;
      b[i] = narrow_pair<Element>(place == chosen ? 1.0f : 0.0f, place + 1 == chosen ? 1.0f : 0.0f);
    }
  }
  static __device__ void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::multiply<Element>(sums, a, b);
  }
};

struct Tf32 {
  static constexpr int PLACES_OF_B = LANES * 2;

  static __device__ void number(uint32_t (&a)[4], int lane) {
    for (int i = 0; i < 4; i++) {
      a[i] = ptx::round_to_tf32(static_cast<float>(4 * lane + i + 1));
    }
  }
  static __device__ void choose(uint32_t (&b)[2], int lane, int chosen) {
    for (int i = 0; i < 2; i++) {
      b[i] = ptx::round_to_tf32(2 * lane + i == chosen ? 1.0f : 0.0f);
    }
  }
  static __device__ void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::multiply_tf32(sums, a, b);
  }
};

// One product for each place of B: [places of B, 32 lanes, 4 sums], each sum having started at SUMS_STEP
// times its place, numbered from 1.
template <typename Operands>
__global__ void multiply_kernel(float4* products) {
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t a[4], b[2];
  Operands::number(a, lane);
  for (int chosen = 0; chosen < Operands::PLACES_OF_B; chosen++) {
    float sums[4];
    for (int i = 0; i < 4; i++) {
      sums[i] = SUMS_STEP * static_cast<float>(4 * lane + i + 1);
    }
    Operands::choose(b, lane, chosen);
    Operands::multiply(sums, a, b);
    products[LANES * chosen + lane] = make_float4(sums[0], sums[1], sums[2], sums[3]);
  }
}

__global__ void round_to_tf32_kernel(int count, const float* numbers, uint32_t* rounded) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += LANES) {
    rounded[i] = ptx::round_to_tf32(numbers[i]);
  }
}

}  // namespace

extern "C" {

int fragments_load_matrices(const void* matrices, void* loaded) {
  return launch(load_matrices_kernel<false>, dim3(1), LANES, MATRIX_BYTES, nullptr,
                static_cast<const uint4*>(matrices), static_cast<uint4*>(loaded));
}

int fragments_load_matrices_transposed(const void* matrices, void* loaded) {
  return launch(load_matrices_kernel<true>, dim3(1), LANES, MATRIX_BYTES, nullptr,
                static_cast<const uint4*>(matrices), static_cast<uint4*>(loaded));
}

int fragments_multiply_bfloat16(void* products) {
  return launch(multiply_kernel<Halves<__nv_bfloat16>>, dim3(1), LANES, 0, nullptr,
                static_cast<float4*>(products));
}

int fragments_multiply_float16(void* products) {
  return launch(multiply_kernel<Halves<__half>>, dim3(1), LANES, 0, nullptr, static_cast<float4*>(products));
}

int fragments_multiply_tf32(void* products) {
  return launch(multiply_kernel<Tf32>, dim3(1), LANES, 0, nullptr, static_cast<float4*>(products));
}

int fragments_round_to_tf32(int count, const void* numbers, void* rounded) {
  return launch(round_to_tf32_kernel, dim3(1), LANES, 0, nullptr, count, static_cast<const float*>(numbers),
                static_cast<uint32_t*>(rounded));
}

}  // extern "C"

}  // namespace wemoe::cuda
