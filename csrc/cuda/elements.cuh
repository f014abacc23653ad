// Numbers as they are stored, and as sums are taken of them.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/compute.h"

namespace wemoe::cuda {

// torch forbids the implicit conversions of half precision: these are its explicit ones.
__device__ __forceinline__ double widen(double number) { return number; }
__device__ __forceinline__ float widen(float number) { return number; }
__device__ __forceinline__ float widen(__half number) { return __half2float(number); }
__device__ __forceinline__ float widen(__nv_bfloat16 number) { return __bfloat162float(number); }

template <typename Element>
__device__ __forceinline__ Element narrow(Compute<Element> number) {
  return number;
}
template <>
__device__ __forceinline__ __half narrow<__half>(float number) {
  return __float2half_rn(number);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float number) {
  return __float2bfloat16_rn(number);
}

// Two numbers of half precision in one register, the low half first.
template <typename Element>
__device__ __forceinline__ float2 widen_pair(uint32_t pair);
template <>
__device__ __forceinline__ float2 widen_pair<__half>(uint32_t pair) {
  __half2_raw raw;
  raw.x = static_cast<unsigned short>(pair);
  raw.y = static_cast<unsigned short>(pair >> 16);
  return __half22float2(__half2(raw));
}
template <>
__device__ __forceinline__ float2 widen_pair<__nv_bfloat16>(uint32_t pair) {
  return {__uint_as_float(pair << 16),
          __uint_as_float(pair & 0xffff0000u)};  // bf16 is the upper half of fp32
}

template <typename Element>
__device__ __forceinline__ uint32_t narrow_pair(float low, float high);
template <>
__device__ __forceinline__ uint32_t narrow_pair<__half>(float low, float high) {
  const __half2_raw raw(__floats2half2_rn(low, high));
  return raw.x | static_cast<uint32_t>(raw.y) << 16;
}
template <>
__device__ __forceinline__ uint32_t narrow_pair<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162_raw raw(__floats2bfloat162_rn(low, high));
  return raw.x | static_cast<uint32_t>(raw.y) << 16;
}

// Two numbers beside each other, at a multiple of their size.
template <typename Element>
__device__ __forceinline__ void store_pair(Element* target, float low, float high) {
  *reinterpret_cast<uint32_t*>(target) = narrow_pair<Element>(low, high);
}
template <>
__device__ __forceinline__ void store_pair<float>(float* target, float low, float high) {
  const uint64_t pair = __float_as_uint(low) | static_cast<uint64_t>(__float_as_uint(high)) << 32;
  *reinterpret_cast<uint64_t*>(target) = pair;  // one store, whoever compiles it
}

}  // namespace wemoe::cuda
