// The kernels, written once with the compiler's vector types. An instruction set's file sets its target, its
// vector size and its number of registers, and names what it has besides (WEMOE_F16C, WEMOE_AVX512: GCC 12
// defines no macros for targets that are set in the text), then includes this text.
//
// Everything is in an anonymous namespace and nothing of the standard library is called: an inline function
// compiled here for a newer CPU could otherwise replace, at link time, the copy that older CPUs run.

#pragma once

#include "cpu/assembly.h"
#include "cpu/contraction.h"
#include "cpu/multiplication.h"
#include "cpu/packing.h"
#include "cpu/vectors.h"

namespace wemoe::cpu {
namespace {

template <typename Real>
void load_row(const void* source, Dtype dtype, int64_t size, Real* out) {
  with_type(source, dtype, [&](auto* typed) { convert<Real>(typed, size, out); });
}

template <typename Real>
void store_row(const Real* source, int64_t size, void* out, Dtype dtype) {
  with_type(out, dtype, [&]<typename Target>(const Target* typed) {
    convert<Real>(source, size, const_cast<Target*>(typed));
  });
}

template <typename Real>
constexpr Kernels<Real> make_kernels() {
  return {
      .lanes = LANES<Real>,
      .routes = ROUTES,
      .pack_strip = pack_strip<Real>,
      .prefetch = prefetch<Real>,
      .assemble = assemble<Real>,
      .merge = merge<Real>,
      .multiply = multiply<Real>,
      .transpose = transpose<Real>,
      .pack_pairs = pack_pairs<Real>,
      .contract = contract<Real>,
      .inner_products = inner_products<Real>,
      .count_bits = count_bits,
      .expand = expand<Real>,
      .load = load_row<Real>,
      .store = store_row<Real>,
  };
}

}  // namespace
}  // namespace wemoe::cpu
