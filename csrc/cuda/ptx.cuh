// Every instruction that CUDA C++ has no name for, one small function each. No other file holds inline
// assembly, and kernels ask for dynamic shared memory here alone: so tests can put an emulation in place of
// this file.

#pragma once

#ifdef WEMOE_EMULATED
#include "emulated_ptx.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define WEMOE_AMPERE(...) __trap()  // compiled for older devices, never launched there
#else
#define WEMOE_AMPERE(...) asm volatile(__VA_ARGS__)
#endif

namespace wemoe::cuda::ptx {

__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char bytes[];
  return bytes;
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts copying 16 bytes from global to shared memory, past L1 and with 128 bytes fetched into L2; zeros if
// not valid, and then nothing is read. Both addresses are multiples of 16.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool valid) {
  WEMOE_AMPERE("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)),
               "l"(global), "r"(valid ? 16 : 0) : "memory");
}

// Closes the group of copies that this thread has started since the last one.
__device__ __forceinline__ void commit_copies() { WEMOE_AMPERE("cp.async.commit_group;\n" :: : "memory"); }

// Waits until all but this thread's newest N groups are there.
template <int N>
__device__ __forceinline__ void wait_for_copies() {
  WEMOE_AMPERE("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
}

// Four 8 x 8 matrices of 16-bit numbers. Lane i names the row i % 8 of matrix i / 8: 16 bytes of shared
// memory. Lane l receives, of matrix j, the numbers 2 (l % 4) and the next one of row l / 4.
__device__ __forceinline__ void load_matrices(uint32_t (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same, transposed: lane l receives, of matrix j, column l / 4 of rows 2 (l % 4) and the next one.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row))
               : "memory");
}

// sums += A B of a warp, A [16, 16], B [16, 8], in fp32. Of lane l, with g = l / 4 and t = l % 4, pairs low
// half first:
//   a: rows g, g + 8, g, g + 8, at columns 2t, 2t, 2t + 8, 2t + 8 and the next one
//   b: rows 2t, 2t + 8 and the next one, at column g
//   sums: rows g, g, g + 8, g + 8, at columns 2t, 2t + 1, 2t, 2t + 1
template <typename Element>
__device__ __forceinline__ void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

#define WEMOE_MULTIPLY(ELEMENT, TYPE)                                                                      \
  template <>                                                                                              \
  __device__ __forceinline__ void multiply<ELEMENT>(float (&sums)[4], const uint32_t (&a)[4],              \
                                                    const uint32_t (&b)[2]) {                              \
    WEMOE_AMPERE("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE                                    \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n" : "+f"(sums[0]), \
                 "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), \
                 "r"(b[0]), "r"(b[1]));                                                                    \
  }
WEMOE_MULTIPLY(__nv_bfloat16, "bf16")
WEMOE_MULTIPLY(__half, "f16")
#undef WEMOE_MULTIPLY

// sums += A B of a warp in TF32, A [16, 8], B [8, 4 * 2]: one number a register.
//   a: rows g, g + 8, g, g + 8, at columns t, t, t + 4, t + 4
//   b: rows t, t + 4, at column g
__device__ __forceinline__ void multiply_tf32(float (&sums)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[2]) {
  WEMOE_AMPERE(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n" : "+f"(sums[0]),
      "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]),
      "r"(b[1]));
}

// The nearest number of TF32 (10 bits after the point), as the bits of a float.
__device__ __forceinline__ uint32_t round_to_tf32(float number) {
  uint32_t bits = 0;
  WEMOE_AMPERE("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(number));
  return bits;
}

}  // namespace wemoe::cuda::ptx

#undef WEMOE_AMPERE

#endif
