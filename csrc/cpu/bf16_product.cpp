#include "cpu/bf16_product.h"

#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <array>
#include <exception>

namespace wemoe::cpu {

#ifdef WEMOE_IMITATE_AVX512  // the same product in plain loops, to be tested on any machine

namespace {
float widen(uint16_t bits) { return c10::detail::f32_from_bits(bits); }
}  // namespace

void multiply_bf16(int64_t rows, int64_t columns, int64_t depth, const uint16_t* left, int64_t left_stride,
                   const uint16_t* pairs, float* c, int64_t c_stride) {
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t k = 0; k < depth; k++) {
      for (int64_t j = 0; j < columns; j++) {
        c[i * c_stride + j] +=
            widen(left[i * left_stride + k]) * widen(pairs[(k / 2 * columns + j) * 2 + k % 2]);
      }
    }
  }
}

void release_bf16_product() {}

#else

void multiply_bf16(int64_t rows, int64_t columns, int64_t depth, const uint16_t* left, int64_t left_stride,
                   const uint16_t* pairs, float* c, int64_t c_stride) {
  at::native::cpublas::brgemm(rows, columns, depth, left_stride, columns, c_stride, /*add_C=*/true,
                              reinterpret_cast<const at::BFloat16*>(left),
                              reinterpret_cast<const at::BFloat16*>(pairs), c, /*is_vnni=*/true);
}

void release_bf16_product() { at::native::cpublas::brgemm_release(/*is_vnni=*/true); }

#endif

bool probe_bf16_product() {
  // Rows, columns and depth that fill no tile; numbers whose products and sums are exact.
  constexpr int64_t rows = 5, columns = 32, depth = 38;
  std::array<uint16_t, rows * depth> left;
  std::array<uint16_t, depth * columns> pairs;
  std::array<float, rows * columns> found, expected;
  const auto left_at = [](int64_t i, int64_t k) { return static_cast<float>((3 * i + k) % 7 - 3); };
  const auto right_at = [](int64_t k, int64_t j) { return static_cast<float>((k + 5 * j) % 9 - 4); };
  const auto bits = [](float number) { return c10::detail::round_to_nearest_even(number); };
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t k = 0; k < depth; k++) left[i * depth + k] = bits(left_at(i, k));
  }
  for (int64_t k = 0; k < depth; k++) {
    for (int64_t j = 0; j < columns; j++) pairs[(k / 2 * columns + j) * 2 + k % 2] = bits(right_at(k, j));
  }
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t j = 0; j < columns; j++) {
      found[i * columns + j] = expected[i * columns + j] = 1.0f;
      for (int64_t k = 0; k < depth; k++) expected[i * columns + j] += left_at(i, k) * right_at(k, j);
    }
  }
  try {
    multiply_bf16(rows, columns, depth, left.data(), depth, pairs.data(), found.data(), columns);
    release_bf16_product();
  } catch (const std::exception&) {  // torch's own error, or that of the library underneath
    return false;                    // there is no such product for this processor
  }
  return found == expected;
}

}  // namespace wemoe::cpu
