// The kernels that the CPU ops are made of: raw pointers and sizes, one table for each instruction set.
//
// Sums are taken in Real (float or double). Weights are worked on in lines: the LINE outputs that one input
// reaches, side by side, for base and experts in turn.
//
//   strip     LINE outputs with all their inputs, an input a line: base [D][LINE], experts [D][T][LINE]
//   assembled [strip][input][LINE], the right operand of a product

#pragma once

#include <cstdint>

#include "lines.h"

namespace wemoe::cpu {

constexpr int64_t PANEL = 64;  // columns of the widest product

enum class Dtype { fp32, fp64, bf16, fp16 };

// A matrix in memory; strides count elements.
struct Matrix {
  const void* data;
  Dtype dtype;
  int64_t rows, columns;
  int64_t row_stride, column_stride;
};

// The left operand of a product: rows and depth steps lie any number of elements apart.
template <typename Real>
struct Left {
  const Real* data;
  int64_t row_stride, depth_stride;
};

// Rows so many elements apart; none for the same row again and again.
template <typename Pointer>
struct Rows {
  Pointer data;
  int64_t stride;
};

// A place in memory for each strip of a product, so many elements from strip to strip.
template <typename Pointer>
struct Strips {
  Pointer data;
  int64_t step;
};

// What is fetched into the second-level cache while a product goes on: so many bytes for each of its strips.
struct Ahead {
  Strips<const char*> strips;
  int64_t bytes;
};

template <typename Real>
struct Kernels {
  int64_t lanes;   // numbers in a vector
  int64_t routes;  // assembled at a time

  // out[row * row_step + column] = matrix[row, column], of up to LINE columns; zero up to LINE.
  void (*pack_strip)(Matrix matrix, int64_t row_step, Real* out);

  // Fetches a matrix into the second-level cache, ahead of packing it.
  void (*prefetch)(Matrix matrix);

  // out[r] = base + sum_t routing_weights[r, t] * expert t, over so many lines; up to `routes` routes.
  void (*assemble)(int64_t routes, int64_t tasks, int64_t lines, const Real* base, const void* experts,
                   Dtype dtype, const Real* routing_weights, Real* out, int64_t out_stride);

  // The same for experts that lie expert_stride apart, each of `size` numbers, and for any number of routes.
  void (*merge)(int64_t routes, int64_t tasks, int64_t size, const Real* base, const Real* experts,
                int64_t expert_stride, const Real* routing_weights, Real* out, int64_t out_stride);

  // out = addend + left [rows, depth] @ right, of up to PANEL columns: right[strip][depth][LINE].
  void (*multiply)(int64_t rows, int64_t strips, int64_t depth, Left<Real> left, Strips<const Real*> right,
                   Rows<const Real*> addend, Rows<Real*> out, Ahead ahead);

  // Turns assembled [strip][input][LINE] into [strip of inputs][output][LINE], zero beyond the inputs.
  void (*transpose)(int64_t inputs, int64_t strips, const Real* assembled, Real* out);

  // out[input / 2][strip][LINE][input % 2] in bfloat16, of assembled lines and an even number of inputs.
  void (*pack_pairs)(int64_t inputs, int64_t strips, const Real* assembled, uint16_t* out);

  // sums[r, t, lane] += the part of <g[r], expert t> that falls to the lane, over so many lines.
  void (*contract)(int64_t routes, int64_t tasks, int64_t lines, const Real* g, int64_t g_stride,
                   const void* experts, Dtype dtype, Real* sums);

  // The same for experts that lie expert_stride apart, each of `size` numbers.
  void (*inner_products)(int64_t routes, int64_t tasks, int64_t size, const Real* g, int64_t g_stride,
                         const Real* experts, int64_t expert_stride, Real* sums);

  // The bits that are set in some masks, of LINE bits each.
  int64_t (*count_bits)(int64_t size, const uint16_t* masks);

  // out[i] = the next value where bit i of the masks is set, otherwise zero; may read LINE values beyond.
  void (*expand)(int64_t size, const uint16_t* masks, const void* values, Dtype dtype, Real* out);

  // Conversion alone.
  void (*load)(const void* source, Dtype dtype, int64_t size, Real* out);
  void (*store)(const Real* source, int64_t size, void* out, Dtype dtype);
};

struct Isa {
  const char* name;
  Kernels<float> single;
  Kernels<double> twice;
  bool multiplies_bf16 = false;  // see bf16_product.h
};

extern const Isa baseline_isa;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WEMOE_X86_KERNELS
extern const Isa avx2_isa;
extern const Isa avx512_isa;
#endif

// What is in use (see isa.h).
const Isa& active();
template <typename Real>
const Kernels<Real>& kernels();

}  // namespace wemoe::cpu
