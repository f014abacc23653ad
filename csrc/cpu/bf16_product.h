// Products of bfloat16 matrices by AMX or AVX512_BF16, through the library that torch is built on.

#pragma once

#include <cstdint>

namespace wemoe::cpu {

// Whether processor and library multiply bfloat16, found out by a small product.
bool probe_bf16_product();

// c[rows, columns] += left [rows, depth] @ pairs, for an even depth; pairs[depth / 2][columns][2].
void multiply_bf16(int64_t rows, int64_t columns, int64_t depth, const uint16_t* left, int64_t left_stride,
                   const uint16_t* pairs, float* c, int64_t c_stride);

// Gives the thread's tiles back, where there are some.
void release_bf16_product();

}  // namespace wemoe::cpu
