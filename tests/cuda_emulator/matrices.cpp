// What ldmatrix, mma and cvt.rna.tf32 compute, as the PTX ISA says. With g = lane / 4 and t = lane % 4:

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cmath>

#include "emulated_ptx.h"

namespace wemoe::emulator {
namespace {

// Lane 8 j + i names row i of matrix j. A lane receives, of each matrix, the pair 2 t, 2 t + 1 of row g, or
// transposed, of column g.
template <bool TRANSPOSED>
void load(void* const* operands) {
  for (int lane = 0; lane < WARP; lane++) {
    const int g = lane / 4, t = lane % 4;
    for (int matrix = 0; matrix < 4; matrix++) {
      const auto number = [&](int row, int column) -> uint32_t {
        return static_cast<const MatrixRow*>(operands[8 * matrix + row])->numbers[column];
      };
      const uint32_t low = TRANSPOSED ? number(2 * t, g) : number(g, 2 * t);
      const uint32_t high = TRANSPOSED ? number(2 * t + 1, g) : number(g, 2 * t + 1);
      static_cast<MatrixRow*>(operands[lane])->registers[matrix] = low | high << 16;
    }
  }
}

// Half of a register as a number.
template <typename Element>
float widen(uint32_t pair, int half);
template <>
float widen<__nv_bfloat16>(uint32_t pair, int half) {
  return std::bit_cast<float>(half == 0 ? pair << 16 : pair & 0xffff0000u);
}
template <>
float widen<__half>(uint32_t pair, int half) {
  const auto bits = static_cast<uint16_t>(pair >> 16 * half);
  // The exponent moves to where float has it, with float's bias; infinities and NaN keep all of theirs.
  const float magnitude = std::bit_cast<float>((bits & 0x7fffu) << 13) * 0x1p112f;
  const uint32_t special = (bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | special | (bits & 0x8000u) << 16);
}

// The hardware reads the sign, the exponent and 10 bits of a register: a number that was not rounded shows as
// a truncated one.
float widen_tf32(uint32_t bits) { return std::bit_cast<float>(bits & ~0x1fffu); }

// Sums of exact products in fp32, added to what the lanes hold.
template <int K>
void add_products(void* const* operands, const float (&a)[16][K], const float (&b)[K][8]) {
  float sums[16][8] = {};
  for (int row = 0; row < 16; row++) {
    for (int k = 0; k < K; k++) {
      for (int column = 0; column < 8; column++) {
        sums[row][column] += a[row][k] * b[k][column];
      }
    }
  }
  for (int lane = 0; lane < WARP; lane++) {
    const int g = lane / 4, t = lane % 4;
    float* held = static_cast<Product*>(operands[lane])->sums;
    for (int i = 0; i < 4; i++) {
      held[i] += sums[g + 8 * (i / 2)][2 * t + i % 2];
    }
  }
}

}  // namespace

void combine_matrices(void* const* operands, uint32_t) { load<false>(operands); }
void combine_matrices_transposed(void* const* operands, uint32_t) { load<true>(operands); }

template <typename Element>
void combine_products(void* const* operands, uint32_t) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < WARP; lane++) {
    const auto* product = static_cast<const Product*>(operands[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; half++) {
      for (int i = 0; i < 4; i++) {
        a[g + 8 * (i % 2)][2 * t + half + 8 * (i / 2)] = widen<Element>(product->a[i], half);
      }
      for (int i = 0; i < 2; i++) {
        b[2 * t + half + 8 * i][g] = widen<Element>(product->b[i], half);
      }
    }
  }
  add_products(operands, a, b);
}
template void combine_products<__half>(void* const*, uint32_t);
template void combine_products<__nv_bfloat16>(void* const*, uint32_t);

void combine_tf32_products(void* const* operands, uint32_t) {
  float a[16][8], b[8][8];
  for (int lane = 0; lane < WARP; lane++) {
    const auto* product = static_cast<const Product*>(operands[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
      a[g + 8 * (i % 2)][t + 4 * (i / 2)] = widen_tf32(product->a[i]);
    }
    for (int i = 0; i < 2; i++) {
      b[t + 4 * i][g] = widen_tf32(product->b[i]);
    }
  }
  add_products(operands, a, b);
}

uint32_t nearest_tf32(float number) {
  const auto bits = std::bit_cast<uint32_t>(number);
  return std::isfinite(number) ? (bits + 0x1000u) & ~0x1fffu : bits;  // ties away from zero
}

}  // namespace wemoe::emulator
