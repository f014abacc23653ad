// The kernels that the CPU ops are made of: raw pointers and sizes, one table for each instruction set.
//
// Sums are taken in Real (float or double). Matrices of any dtype and strides are first packed into tiles of
// Real; every later kernel works on packed tiles alone.
//
//   right operand: a panel of up to PANEL columns, as strips [strip][row][column of the strip]
//   left operand:  blocks of rows, transposed, [block][column][row of the block]

#pragma once

#include <cstdint>

namespace wemoe::cpu {

constexpr int64_t PANEL = 64;

enum class Dtype { fp32, fp64, bf16, fp16 };

// A matrix in memory; strides count elements.
struct Matrix {
  const void* data;
  Dtype dtype;
  int64_t rows, columns;
  int64_t row_stride, column_stride;
};

template <typename Real>
struct Kernels {
  int64_t lanes;     // numbers in a vector
  int64_t strip;     // columns of a strip; divides PANEL
  int64_t max_rows;  // rows of the largest block

  // out[strip][row][column of the strip]; the last strip is filled up with zeros.
  void (*pack_panel)(Matrix matrix, Real* out);

  // Fetches a matrix into the second-level cache, ahead of packing it.
  void (*prefetch)(Matrix matrix);

  // out[block][column][row of the block]; blocks of equal size, give or take one row.
  void (*pack_rows)(Matrix matrix, Real* out);

  // out[r] = base + sum_t routing_weights[r, t] * experts[t], over `size` numbers each.
  void (*assemble)(int64_t routes, int64_t tasks, int64_t size, const Real* base, const Real* experts,
                   int64_t expert_stride, const Real* routing_weights, Real* out, int64_t out_stride);

  // c[rows, PANEL] += left @ right; left [rows, depth] comes from pack_rows, right [depth, columns] from
  // pack_panel.
  void (*multiply)(int64_t rows, int64_t columns, int64_t depth, const Real* left, const Real* right,
                   Real* c);

  // c[rows, strip] = left^T @ right; left [depth, rows] has rows left_stride apart, right [depth, strip] is
  // packed, and rows <= max_rows.
  void (*multiply_transposed)(int64_t rows, int64_t depth, const Real* left, int64_t left_stride,
                              const Real* right, Real* c);

  // sums[r, t, lane] += the part of <g[r], experts[t]> that falls to the lane.
  void (*contract)(int64_t routes, int64_t tasks, int64_t size, const Real* g, int64_t g_stride,
                   const Real* experts, int64_t expert_stride, Real* sums);

  // out[row, column] = c[row * PANEL + column]; the columns of out lie side by side.
  void (*unpack)(const Real* c, void* out, Dtype dtype, int64_t rows, int64_t columns, int64_t row_stride);

  // Conversion alone.
  void (*load)(const void* source, Dtype dtype, int64_t size, Real* out);
  void (*store)(const Real* source, int64_t size, void* out, Dtype dtype);
};

struct Isa {
  const char* name;
  Kernels<float> single;
  Kernels<double> twice;
};

extern const Isa baseline_isa;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WEMOE_X86_KERNELS
extern const Isa avx2_isa;
extern const Isa avx512_isa;
#endif

// The table in use (see isa.h).
template <typename Real>
const Kernels<Real>& kernels();

}  // namespace wemoe::cpu
