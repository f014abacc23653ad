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

// out = addend + left @ right for ROWS by VECTORS, every sum in a register of its own, in the order of k.
template <typename Real, int ROWS, int VECTORS>
void multiply_block(int64_t depth, Left<Real> left, Strips<const Real*> right, Rows<const Real*> addend,
                    Rows<Real*> out, Strips<const char*> ahead, int64_t ahead_step) {
  constexpr int N = LANES<Real>;
  using V = Vector<Real, N>;
  V sum[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) {
      sum[i][v] = read<V>(addend.data + i * addend.stride + v * N);
    }
  }
  LeftRows<Real, ROWS> rows(left);
  for (int64_t k = 0; k < depth; k++) {
    V column[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) {
      column[v] = read<V>(right.data + place<Real>(v, right.step));
      if (v * N % LINE == 0) __builtin_prefetch(ahead.data + v * N / LINE * ahead.step, 0, 2);
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
      write(out.data + i * out.stride + v * N, sum[i][v]);
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
using Block = decltype(&multiply_block<Real, 1, 2>);

// The kernel of a block, null where a narrower one has to do.
template <typename Real, int ROWS, int VECTORS>
constexpr Block<Real> block_kernel() {
  if constexpr (VECTORS <= widest_block<Real>(ROWS)) {
    return &multiply_block<Real, ROWS, VECTORS>;
  } else {
    return nullptr;
  }
}

template <typename Real, int... I>
constexpr auto multiplication_table(Indices<I...>) {
  struct Table {
    Block<Real> by_rows[sizeof...(I)][4];  // of 1, 2, 4 and 8 vectors
  };
  return Table{{{block_kernel<Real, I + 1, 1>(), block_kernel<Real, I + 1, 2>(),
                 block_kernel<Real, I + 1, 4>(), block_kernel<Real, I + 1, 8>()}...}};
}

template <typename Real>
void multiply(int64_t rows, int64_t strips, int64_t depth, Left<Real> left, Strips<const Real*> right,
              Rows<const Real*> addend, Rows<Real*> out, Ahead ahead) {
  static constexpr auto table = multiplication_table<Real>(IndicesUpTo<MAX_ROWS>::type{});
  const int64_t vectors = strips * LINE / LANES<Real>, blocks = (rows + MAX_ROWS - 1) / MAX_ROWS;
  const int64_t ahead_step = (ahead.bytes + blocks * depth - 1) / max(1, blocks * depth);
  for_row_blocks(rows, [&](int64_t block, int64_t first, int64_t size) {
    const auto& by_width = table.by_rows[size - 1];
    const Left<Real> block_left = {left.data + first * left.row_stride, left.row_stride, left.depth_stride};
    int width = 3;
    for (int64_t v = 0; v < vectors; v += 1 << width) {
      while (by_width[width] == nullptr || v + (1 << width) > vectors) width--;
      const int64_t column = v * LANES<Real>, strip = column / LINE;
      by_width[width](
          depth, block_left, {right.data + strip * right.step + column % LINE, right.step},
          {addend.data + first * addend.stride + column, addend.stride},
          {out.data + first * out.stride + column, out.stride},
          {ahead.strips.data + strip * ahead.strips.step + block * depth * ahead_step, ahead.strips.step},
          ahead_step);
    }
  });
}

}  // namespace
}  // namespace wemoe::cpu
