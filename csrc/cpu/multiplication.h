// Products of rows and assembled weights. Part of kernels_impl.h.

#pragma once

#include "cpu/packing.h"

namespace wemoe::cpu {
namespace {

// Rows whose sums stay in registers, two vectors of each, beside what is being loaded.
constexpr int MAX_ROWS = WEMOE_VECTOR_REGISTERS == 32 ? 14 : 6;

// Vectors of a block of so many rows: few rows keep as many sums at work by taking more columns.
template <typename Real>
constexpr int widest_block(int rows) {
  int vectors = 2;
  const auto registers = [&](int v) { return rows * v + (rows > 1 ? v : 0) + 1; };
  while (registers(2 * vectors) <= WEMOE_VECTOR_REGISTERS && 2 * vectors * LANES<Real> <= PANEL) {
    vectors *= 2;
  }
  return vectors;
}

// A few rows of a left operand, by one pointer for every three: x86 adds once or twice the stride for
// nothing, and more pointers would not stay in registers.
template <typename Real, int ROWS>
struct LeftRows {
  const Real* third[(ROWS + 2) / 3];
  int64_t row_stride, depth_stride;

  explicit LeftRows(Left<Real> left) : row_stride(left.row_stride), depth_stride(left.depth_stride) {
#pragma GCC unroll 5
    for (int i = 0; i < (ROWS + 2) / 3; i++) {
      third[i] = left.data + 3 * i * row_stride;
      asm("" : "+r"(third[i]));  // or GCC makes one pointer for each row
    }
  }
  Real operator[](int row) const { return third[row / 3][row % 3 * row_stride]; }
  void step() {
#pragma GCC unroll 5
    for (int i = 0; i < (ROWS + 2) / 3; i++) {
      third[i] += depth_stride;
    }
  }
};

// Where vector v of a block lies, for strips so far apart.
template <typename Real>
constexpr int64_t place(int v, int64_t strip_step) {
  return v * LANES<Real> / LINE * strip_step + v * LANES<Real> % LINE;
}

// c[ROWS, VECTORS] (+)= left @ right, every sum in a register of its own, in the order of k.
template <typename Real, int ROWS, int VECTORS, bool ADD>
void multiply_block(int64_t depth, Left<Real> left, Strips<const Real*> right, Real* c, int64_t c_row_stride,
                    Strips<const char*> ahead, int64_t ahead_step) {
  using V = Vector<Real, LANES<Real>>;
  V sum[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) {
      sum[i][v] = ADD ? read<V>(c + i * c_row_stride + v * LANES<Real>) : V{};
    }
  }
  LeftRows<Real, ROWS> rows(left);
  for (int64_t k = 0; k < depth; k++) {
    V column[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) {
      column[v] = read<V>(right.data + place<Real>(v, right.step));
      if (ADD && v * LANES<Real> % LINE == 0) {
        __builtin_prefetch(ahead.data + v * LANES<Real> / LINE * ahead.step, 0, 2);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) {
      const Real value = rows[i];
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; v++) {
        sum[i][v] += value * column[v];
      }
    }
    right.data += LINE;
    ahead.data += ahead_step;
    rows.step();
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) {
      write(c + i * c_row_stride + v * LANES<Real>, sum[i][v]);
    }
  }
}

// Calls f(block, first, size) for every block of rows; their sizes differ by one row at most.
template <typename F>
inline void for_row_blocks(int64_t rows, F f) {
  const int64_t blocks = (rows + MAX_ROWS - 1) / MAX_ROWS;
  for (int64_t b = 0, first = 0; b < blocks; b++) {
    const int64_t size = rows / blocks + (b < rows % blocks);
    f(b, first, size);
    first += size;
  }
}

template <typename Real>
using Block = decltype(&multiply_block<Real, 1, 2, true>);

// The kernel of a block, null where a narrower one has to do.
template <typename Real, int ROWS, int VECTORS, bool ADD>
constexpr Block<Real> block_kernel() {
  if constexpr (VECTORS <= widest_block<Real>(ROWS)) {
    return &multiply_block<Real, ROWS, VECTORS, ADD>;
  } else {
    return nullptr;
  }
}

template <typename Real, bool ADD, int... I>
constexpr auto multiplication_table(Indices<I...>) {
  struct Table {
    Block<Real> by_rows[sizeof...(I)][4];
  };
  return Table{{{block_kernel<Real, I + 1, 1, ADD>(), block_kernel<Real, I + 1, 2, ADD>(),
                 block_kernel<Real, I + 1, 4, ADD>(), block_kernel<Real, I + 1, 8, ADD>()}...}};
}

template <typename Real>
void multiply(int64_t rows, int64_t strips, int64_t depth, Left<Real> left, Strips<const Real*> right,
              Real* c, Ahead ahead) {
  static constexpr auto table = multiplication_table<Real, true>(IndicesUpTo<MAX_ROWS>::type{});
  const int64_t vectors = strips * LINE / LANES<Real>, blocks = (rows + MAX_ROWS - 1) / MAX_ROWS;
  const int64_t step = (ahead.bytes + blocks * depth - 1) / max(1, blocks * depth);
  for_row_blocks(rows, [&](int64_t block, int64_t first, int64_t size) {
    const Left<Real> block_left = {left.data + first * left.row_stride, left.row_stride, left.depth_stride};
    for (int64_t v = 0; v < vectors;) {
      int width = 3;  // 1 << 3 vectors
      while (table.by_rows[size - 1][width] == nullptr || v + (1 << width) > vectors) width--;
      const int64_t column = v * LANES<Real>, strip = column / LINE;
      table.by_rows[size - 1][width](
          depth, block_left, {right.data + strip * right.step + column % LINE, right.step},
          c + first * PANEL + column, PANEL,
          {ahead.strips.data + strip * ahead.strips.step + block * depth * step, ahead.strips.step}, step);
      v += 1 << width;
    }
  });
}

template <typename Real>
void multiply_strip(int64_t rows, int64_t depth, Left<Real> left, const Real* right, Real* c) {
  constexpr int VECTORS = LANES<Real> == LINE ? 1 : 2;
  static constexpr auto table = multiplication_table<Real, false>(IndicesUpTo<MAX_ROWS>::type{});
  for_row_blocks(rows, [&](int64_t, int64_t first, int64_t size) {
    for (int64_t column = 0; column < LINE; column += VECTORS * LANES<Real>) {
      table.by_rows[size - 1][VECTORS - 1](
          depth, {left.data + first * left.row_stride, left.row_stride, left.depth_stride},
          {right + column, 0}, c + first * LINE + column, LINE, {nullptr, 0}, 0);
    }
  });
}

}  // namespace
}  // namespace wemoe::cpu
