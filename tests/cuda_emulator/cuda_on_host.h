// CUDA C++ for a host's compiler, included before everything else: what nvcc knows without any header, as far
// as kernels of csrc/cuda use it.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <driver_types.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "runtime.h"

#undef __launch_bounds__
#define __launch_bounds__(...)

// The only variables of their kind in the library, so that the emulator finds them all to fill and to check.
#undef __shared__
#define __shared__ thread_local

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = wemoe::emulator::WARP;

inline void __syncthreads(wemoe::emulator::Location location = wemoe::emulator::Location::current()) {
  wemoe::emulator::barrier(location);
}

inline void __syncwarp(uint32_t mask = ~0u,
                       wemoe::emulator::Location location = wemoe::emulator::Location::current()) {
  using namespace wemoe::emulator;
  collective("__syncwarp", mask, nullptr, combine_nothing, true, location);
}

namespace wemoe::emulator {

template <typename Number>
Number shuffle(const char* name, uint32_t mask, Number number, int source, Location location) {
  static_assert(sizeof(Number) <= sizeof(uint64_t));
  Shuffle shuffle{0, 0, source};
  std::memcpy(&shuffle.value, &number, sizeof(Number));
  collective(name, mask, &shuffle, combine_shuffles, false, location);
  std::memcpy(&number, &shuffle.result, sizeof(Number));
  return number;
}

inline uint32_t vote(const char* name, uint32_t mask, bool value, Location location) {
  Vote vote{value, 0};
  collective(name, mask, &vote, combine_votes, false, location);
  return vote.result;
}

// Of the lanes that shuffle with this one, the first and the one after the last.
inline int first_lane(int width) { return lane_index() & ~(width - 1); }
inline int last_lane(int width) { return first_lane(width) + width; }

}  // namespace wemoe::emulator

// A lane whose source lies outside its width keeps its own number.
template <typename Number>
Number __shfl_sync(uint32_t mask, Number number, int source, int width = warpSize,
                   wemoe::emulator::Location location = wemoe::emulator::Location::current()) {
  using namespace wemoe::emulator;
  return shuffle("__shfl_sync", mask, number, first_lane(width) + (source & (width - 1)), location);
}

template <typename Number>
Number __shfl_xor_sync(uint32_t mask, Number number, int distance, int width = warpSize,
                       wemoe::emulator::Location location = wemoe::emulator::Location::current()) {
  using namespace wemoe::emulator;
  const int source = lane_index() ^ distance;
  return shuffle("__shfl_xor_sync", mask, number, source < last_lane(width) ? source : lane_index(),
                 location);
}

template <typename Number>
Number __shfl_down_sync(uint32_t mask, Number number, unsigned distance, int width = warpSize,
                        wemoe::emulator::Location location = wemoe::emulator::Location::current()) {
  using namespace wemoe::emulator;
  const int source = lane_index() + static_cast<int>(distance);
  return shuffle("__shfl_down_sync", mask, number, source < last_lane(width) ? source : lane_index(),
                 location);
}

template <typename Number>
Number __shfl_up_sync(uint32_t mask, Number number, unsigned distance, int width = warpSize,
                      wemoe::emulator::Location location = wemoe::emulator::Location::current()) {
  using namespace wemoe::emulator;
  const int source = lane_index() - static_cast<int>(distance);
  return shuffle("__shfl_up_sync", mask, number, source >= first_lane(width) ? source : lane_index(),
                 location);
}

inline uint32_t __ballot_sync(uint32_t mask, int value,
                              wemoe::emulator::Location location = wemoe::emulator::Location::current()) {
  return wemoe::emulator::vote("__ballot_sync", mask, value != 0, location);
}
inline int __any_sync(uint32_t mask, int value,
                      wemoe::emulator::Location location = wemoe::emulator::Location::current()) {
  return wemoe::emulator::vote("__any_sync", mask, value != 0, location) != 0;
}
inline int __all_sync(uint32_t mask, int value,
                      wemoe::emulator::Location location = wemoe::emulator::Location::current()) {
  return wemoe::emulator::vote("__all_sync", mask, value == 0, location) == 0;
}

template <typename A, typename B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  return a < b ? a : b;
}
template <typename A, typename B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  return a > b ? a : b;
}

template <typename Number>
__attribute__((always_inline)) inline Number __ldg(const Number* pointer) {
  return *pointer;
}

template <typename Number>
__attribute__((always_inline)) inline void __stwb(Number* pointer, Number number) {
  *pointer = number;
}

inline float __uint_as_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t __float_as_uint(float number) { return std::bit_cast<uint32_t>(number); }
inline int __float_as_int(float number) { return std::bit_cast<int>(number); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline int __popc(uint32_t bits) { return std::popcount(bits); }
inline int __clz(int bits) { return std::countl_zero(static_cast<uint32_t>(bits)); }
inline int __ffs(int bits) { return bits == 0 ? 0 : std::countr_zero(static_cast<uint32_t>(bits)) + 1; }
