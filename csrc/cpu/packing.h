// How weights of any strides become strips of lines. Part of kernels_impl.h.

#pragma once

#include "cpu/vectors.h"

namespace wemoe::cpu {
namespace {

template <int... I>
struct Indices {};
template <int N, int... I>
struct IndicesUpTo : IndicesUpTo<N - 1, N - 1, I...> {};
template <int... I>
struct IndicesUpTo<0, I...> {
  using type = Indices<I...>;
};

// One step of a transposition: in every 2 * H by 2 * H square, swaps the off-diagonal H by H quarters.
template <int H, typename V, int... I>
inline void swap_quarters(V& upper, V& lower, Indices<I...>) {
  constexpr int N = sizeof...(I);
  const V u = upper, l = lower;
  upper = __builtin_shufflevector(u, l, ((I & H) == 0 ? I : N + I - H)...);
  lower = __builtin_shufflevector(u, l, ((I & H) == 0 ? I + H : N + I)...);
}

template <typename V, int N, int H = N / 2>
inline void transpose_square(V (&square)[N]) {
  if constexpr (H > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < N; i++) {
      if ((i & H) == 0) {
        swap_quarters<H>(square[i], square[i + H], typename IndicesUpTo<N>::type{});
      }
    }
    transpose_square<V, N, H / 2>(square);
  }
}

// out[r * row_step + c] = source[r * row_stride + c * column_stride], zero from `columns` to LINE.
template <typename Real, typename Source>
void pack_any(const Source* source, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride,
              int64_t row_step, Real* out) {
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t c = 0; c < LINE; c++) {
      out[r * row_step + c] =
          c < columns ? load_one<Real>(source + r * row_stride + c * column_stride) : Real(0);
    }
  }
}

template <typename Real, typename Source>
void pack_straight(const Source* source, int64_t rows, int64_t columns, int64_t row_stride, int64_t row_step,
                   Real* out) {
  constexpr int N = LANES<Real>;
  if (columns == LINE) {
    for (int64_t r = 0; r < rows; r++) {
#pragma GCC unroll 8
      for (int c = 0; c < LINE; c += N) {
        write(out + r * row_step + c, load<Real, N>(source + r * row_stride + c));
      }
    }
    return;
  }
  for (int64_t r = 0; r < rows; r++) {
    convert<Real>(source + r * row_stride, columns, out + r * row_step);
    for (int64_t c = columns; c < LINE; c++) {
      out[r * row_step + c] = 0;
    }
  }
}

template <typename Real, typename Source>
void pack_transposed(const Source* source, int64_t rows, int64_t columns, int64_t column_stride,
                     int64_t row_step, Real* out) {
  constexpr int N = LANES<Real>;
  int64_t r = 0;
  for (; r + N <= rows; r += N) {
    for (int64_t c = 0; c < LINE; c += N) {
      Vector<Real, N> square[N];
#pragma GCC unroll 16
      for (int i = 0; i < N; i++) {
        square[i] = c + i < columns ? load<Real, N>(source + r + (c + i) * column_stride) : Vector<Real, N>{};
      }
      transpose_square(square);
#pragma GCC unroll 16
      for (int i = 0; i < N; i++) {
        write(out + (r + i) * row_step + c, square[i]);
      }
    }
  }
  pack_any(source + r, rows - r, columns, 1, column_stride, row_step, out + r * row_step);
}

template <typename Real>
void pack_strip(Matrix m, int64_t row_step, Real* out) {
  with_type(m.data, m.dtype, [&](auto* source) {
    if (m.column_stride == 1) {
      pack_straight(source, m.rows, m.columns, m.row_stride, row_step, out);
    } else if (m.row_stride == 1) {
      pack_transposed(source, m.rows, m.columns, m.column_stride, row_step, out);
    } else {
      pack_any(source, m.rows, m.columns, m.row_stride, m.column_stride, row_step, out);
    }
  });
}

template <typename Real>
void transpose(int64_t inputs, int64_t strips, const Real* assembled, Real* out) {
  for (int64_t s = 0; s < strips; s++) {
    for (int64_t i = 0; i < inputs; i += LINE) {
      pack_transposed(assembled + (s * inputs + i) * LINE, LINE, min(LINE, inputs - i), LINE, LINE,
                      out + (i * strips + s * LINE) * LINE);
    }
  }
}

template <typename Real>
void pack_pairs(int64_t inputs, int64_t strips, const Real* assembled, uint16_t* out) {
  constexpr int N = LANES<Real>;
  const auto bits_of = [](const Real* line) { return narrow<N>(Bf16{}, load<float, N>(line)); };
  for (int64_t s = 0; s < strips; s++) {
    for (int64_t i = 0; i < inputs; i += 2) {
      const Real* lines = assembled + (s * inputs + i) * LINE;
      for (int64_t j = 0; j < LINE; j += N) {
        write(out + (i / 2 * strips + s) * 2 * LINE + 2 * j, bits_of(lines + j) | bits_of(lines + LINE + j)
                                                                                      << 16);
      }
    }
  }
}

template <typename Real>
void prefetch(Matrix m) {
  constexpr int64_t BYTES = 64;  // of a cache line
  with_type(m.data, m.dtype, [&]<typename Source>(const Source* source) {
    const bool by_rows = m.column_stride == 1;
    const int64_t lines = by_rows ? m.rows : m.columns, length = by_rows ? m.columns : m.rows;
    const int64_t stride = by_rows ? m.row_stride : m.column_stride;
    for (int64_t i = 0; i < lines; i++) {
      for (int64_t j = 0; j < length; j += BYTES / sizeof(Source)) {
        __builtin_prefetch(source + i * stride + j, 0, 2);
        asm volatile("");  // or GCC finds no effect in this function and removes its calls
      }
    }
  });
}

// Numbers of sparse experts.

#if WEMOE_VECTOR_BYTES >= 32
// For each byte of a mask, which of the next values falls to each lane; negative where none does.
struct ExpandTable {
  int32_t value[256][8];
};

constexpr ExpandTable make_expand_table() {
  ExpandTable table{};
  for (int byte = 0; byte < 256; byte++) {
    for (int lane = 0, next = 0; lane < 8; lane++) {
      table.value[byte][lane] = byte >> lane & 1 ? next++ : -1;
    }
  }
  return table;
}
#endif

// The next values of a byte of a mask, each in its lane.
template <typename Source>
inline void spread_values(int byte, const Source* values, float* out) {
#if WEMOE_VECTOR_BYTES >= 32
  static constexpr ExpandTable table = make_expand_table();
  const auto lanes = read<Vector<int32_t, 8>>(table.value[byte]);
  const auto spread = __builtin_shuffle(load<float, 8>(values), lanes);
  write(out, lanes >= 0 ? spread : Vector<float, 8>{});
#else
  for (int lane = 0; lane < 8; lane++) {
    out[lane] = byte >> lane & 1 ? load_one<float>(values++) : 0.0f;
  }
#endif
}

constexpr int64_t MASKS = 4;  // in a word

// Masks from one on, bit after bit.
inline uint64_t bits_of(const uint16_t* masks, int64_t count) {
  uint64_t bits = 0;
  for (int64_t i = 0; i < count; i++) {
    bits |= static_cast<uint64_t>(masks[i]) << LINE * i;
  }
  return bits;
}

// Calls f(bits, first, count) for the words of some masks.
template <typename F>
inline void for_words(int64_t size, const uint16_t* masks, F f) {
  int64_t i = 0;
  for (; i + MASKS <= size; i += MASKS) {
    f(bits_of(masks + i, MASKS), i, MASKS);
  }
  if (i < size) f(bits_of(masks + i, size - i), i, size - i);
}

// The next values of a mask, each in its place of a line.
template <typename Real, typename Source>
inline void spread_line(uint64_t mask, const Source* values, Real* line) {
#ifdef WEMOE_AVX512
  using Line = Vector<float, LINE>;
  const Line spread = __builtin_ia32_expandsf512_maskz(load<float, LINE>(values), Line{}, mask);
  store<Real, LINE>(__builtin_convertvector(spread, Vector<Real, LINE>), line);
#else
  float spread[LINE];
  const int low = mask & 0xff, high = mask >> 8 & 0xff;
  spread_values(low, values, spread);
  spread_values(high, values + __builtin_popcount(low), spread + 8);
  convert<Real>(spread, LINE, line);
#endif
}

template <typename Real>
void expand(int64_t size, const uint16_t* masks, const void* values, Dtype dtype, Real* out) {
  with_expert_type<float>(values, dtype, [&](auto* next) {
    for_words(size, masks, [&](uint64_t bits, int64_t first, int64_t count) {
#pragma GCC unroll 4
      for (int64_t i = first; i < first + count; i++, bits >>= LINE) {
        spread_line(bits & 0xffff, next, out + i * LINE);
        next += __builtin_popcount(bits & 0xffff);
      }
    });
  });
}

inline int64_t count_bits(int64_t size, const uint16_t* masks) {
  int64_t total = 0;
  for_words(size, masks, [&](uint64_t bits, int64_t, int64_t) { total += __builtin_popcountll(bits); });
  return total;
}

}  // namespace
}  // namespace wemoe::cpu
