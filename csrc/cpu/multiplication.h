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

// A product, or a part of one that starts at some row and column.
template <typename Real>
struct Product {
  int64_t depth;
  Left<Real> left;
  Strips<const Real*> right;
  Rows<const Real*> addend;
  Rows<Real*> out;
  Strips<const char*> ahead;
  int64_t ahead_step;  // bytes for each step of depth

  // Columns are those of a vector's start.
  Product part(int64_t row, int64_t column) const {
    Product p = *this;
    p.left.data += row * left.row_stride;
    p.right.data += column / LINE * right.step + column % LINE;
    p.addend.data += row * addend.stride + column;
    p.out.data += row * out.stride + column;
    p.ahead.data += column / LINE * ahead.step;
    return p;
  }
};

// Where vector v of a block lies, for strips so far apart.
template <typename Real>
constexpr int64_t place(int v, int64_t strip_step) {
  return v * LANES<Real> / LINE * strip_step + v * LANES<Real> % LINE;
}

// ROWS by VECTORS of a product, every sum in a register of its own, in the order of k.
template <typename Real, int ROWS, int VECTORS>
[[gnu::always_inline]] inline void multiply_block(Product<Real> p) {
  constexpr int N = LANES<Real>;
  using V = Vector<Real, N>;
  V sum[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) {
      sum[i][v] = read<V>(p.addend.data + i * p.addend.stride + v * N);
    }
  }
  LeftRows<Real, ROWS> rows(p.left);
  for (int64_t k = 0; k < p.depth; k++) {
    V column[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) {
      column[v] = read<V>(p.right.data + place<Real>(v, p.right.step));
      if (v * N % LINE == 0) __builtin_prefetch(p.ahead.data + v * N / LINE * p.ahead.step, 0, 2);
    }
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) {
      const Real value = rows[i];
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; v++) {
        sum[i][v] += value * column[v];
      }
    }
    p.right.data += LINE;
    p.ahead.data += p.ahead_step;
    rows.step();
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) {
      write(p.out.data + i * p.out.stride + v * N, sum[i][v]);
    }
  }
}

// Blocks of equal size: so many below and beside one another.
template <typename Real, int ROWS, int VECTORS>
void multiply_blocks(int64_t row_blocks, int64_t column_blocks, const Product<Real>& product) {
  for (int64_t i = 0; i < row_blocks; i++) {
    for (int64_t j = 0; j < column_blocks; j++) {
      auto block = product.part(i * ROWS, j * VECTORS * LANES<Real>);
      block.ahead.data += i * product.depth * product.ahead_step;
      multiply_block<Real, ROWS, VECTORS>(block);
    }
  }
}

template <typename Real>
using Blocks = decltype(&multiply_blocks<Real, 1, 2>);

// The kernel of such blocks, null where narrower ones have to do.
template <typename Real, int ROWS, int VECTORS>
constexpr Blocks<Real> blocks_kernel() {
  if constexpr (VECTORS <= widest_block<Real>(ROWS)) {
    return &multiply_blocks<Real, ROWS, VECTORS>;
  } else {
    return nullptr;
  }
}

template <typename Real, int... I>
constexpr auto multiplication_table(Indices<I...>) {
  struct Table {
    Blocks<Real> by_rows[sizeof...(I)][4];  // of 8, 4, 2 and 1 vectors
  };
  return Table{{{blocks_kernel<Real, I + 1, 8>(), blocks_kernel<Real, I + 1, 4>(),
                 blocks_kernel<Real, I + 1, 2>(), blocks_kernel<Real, I + 1, 1>()}...}};
}

// Row blocks of one size, in the widest blocks that fit.
template <typename Real>
void multiply_rows(int64_t rows, int64_t row_blocks, int64_t vectors, const Product<Real>& product) {
  static constexpr auto table = multiplication_table<Real>(IndicesUpTo<MAX_ROWS>::type{});
  if (row_blocks == 0) return;
  int64_t done = 0;
  for (int i = 0, width = 8; width > 0; i++, width /= 2) {
    const auto kernel = table.by_rows[rows - 1][i];
    const int64_t column_blocks = kernel == nullptr ? 0 : (vectors - done) / width;
    if (column_blocks == 0) continue;
    kernel(row_blocks, column_blocks, product.part(0, done * LANES<Real>));
    done += column_blocks * width;
  }
}

template <typename Real>
void multiply(int64_t rows, int64_t strips, int64_t depth, Left<Real> left, Strips<const Real*> right,
              Rows<const Real*> addend, Rows<Real*> out, Ahead ahead) {
  const int64_t blocks = (rows + MAX_ROWS - 1) / MAX_ROWS, vectors = strips * LINE / LANES<Real>;
  if (blocks == 0) return;
  // Blocks differ by one row at most.
  const int64_t size = rows / blocks, larger = rows % blocks;
  const int64_t steps = max(1, blocks * depth), ahead_step = (ahead.bytes + steps - 1) / steps;
  const Product<Real> product = {depth, left, right, addend, out, ahead.strips, ahead_step};
  multiply_rows(size + 1, larger, vectors, product);
  auto rest = product.part(larger * (size + 1), 0);
  rest.ahead.data += larger * depth * ahead_step;
  multiply_rows(size, blocks - larger, vectors, rest);
}

}  // namespace
}  // namespace wemoe::cpu
