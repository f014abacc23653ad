// Vectors of numbers, and how they are read from and written to memory of any dtype. Part of kernels_impl.h.

#pragma once

#include "cpu/kernels.h"

// Vectors wider than a register pass between inlined functions only.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace wemoe::cpu {
namespace {

template <typename Scalar, int LANES>
struct VectorOf {
  typedef Scalar type __attribute__((vector_size(sizeof(Scalar) * LANES)));
};
template <typename Scalar, int LANES>
using Vector = typename VectorOf<Scalar, LANES>::type;

template <typename Real>
constexpr int LANES = WEMOE_VECTOR_BYTES / sizeof(Real);

constexpr int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

// Numbers in memory. Half precision is converted with integer arithmetic, which every CPU has.

struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

template <typename To, typename From>
inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

// Unaligned access to any memory.
template <typename V>
struct Unaligned {
  typedef V type __attribute__((aligned(1), may_alias));
};

template <typename V>
inline V read(const void* source) {
  return *static_cast<const typename Unaligned<V>::type*>(source);
}

template <typename V>
inline void write(void* target, const V& v) {
  *static_cast<typename Unaligned<V>::type*>(target) = v;
}

template <int N>
inline Vector<float, N> widen(Bf16, Vector<uint32_t, N> bits) {
  return bit_cast<Vector<float, N>>(bits << 16);
}

template <int N>
inline Vector<float, N> widen(Fp16, Vector<uint32_t, N> bits) {
  [[maybe_unused]] const auto halves = __builtin_convertvector(bits, Vector<short, N>);
#ifdef WEMOE_F16C
  if constexpr (N == 8) return __builtin_ia32_vcvtph2ps256(halves);
#endif
#ifdef WEMOE_AVX512
  if constexpr (N == 16) return __builtin_ia32_vcvtph2ps512_mask(halves, Vector<float, N>{}, -1, 4);
#endif
  const Vector<uint32_t, N> magnitude = (bits & 0x7fff) << 13;
  // The exponent's bias differs by 112; scaling by 2^112 also normalises what was subnormal.
  const auto scaled = bit_cast<Vector<uint32_t, N>>(bit_cast<Vector<float, N>>(magnitude) * 0x1p112f);
  const auto finite = magnitude < 0x0f800000u;  // otherwise infinite or not a number
  return bit_cast<Vector<float, N>>((finite ? scaled : magnitude | 0x7f800000u) | (bits & 0x8000) << 16);
}

// To the nearest, ties to even.
template <int N>
inline Vector<uint32_t, N> narrow(Bf16, Vector<float, N> v) {
  const auto bits = bit_cast<Vector<uint32_t, N>>(v);
  const Vector<uint32_t, N> rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return (bits & 0x7fffffff) > 0x7f800000u ? (bits >> 16) | 0x40 : rounded;
}

template <int N>
inline Vector<uint32_t, N> narrow(Fp16, Vector<float, N> v) {
  using Bits = Vector<uint32_t, N>;
  const auto bits = bit_cast<Bits>(v);
  const Bits magnitude = bits & 0x7fffffff;
  const Bits normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - (112u << 23)) >> 13;
  // Adding 0.5 leaves a subnormal half, rounded, in the lowest bits of the sum.
  const Bits subnormal = bit_cast<Bits>(bit_cast<Vector<float, N>>(magnitude) + 0.5f) - 0x3f000000u;
  const Bits finite = magnitude < 0x38800000u ? subnormal : normal;
  const Bits special = magnitude > 0x7f800000u ? Bits{} + 0x7e00 : Bits{} + 0x7c00;
  return (magnitude < 0x477ff000u ? finite : special) | (bits >> 16 & 0x8000);
}

template <typename Real, int N, typename Source>
inline Vector<Real, N> load(const Source* source) {
  if constexpr (sizeof(Source) == sizeof(uint16_t)) {
    const auto bits = __builtin_convertvector(read<Vector<uint16_t, N>>(source), Vector<uint32_t, N>);
    return __builtin_convertvector(widen<N>(Source{}, bits), Vector<Real, N>);
  } else {
    return __builtin_convertvector(read<Vector<Source, N>>(source), Vector<Real, N>);
  }
}

template <typename Real, int N, typename Target>
inline void store(Vector<Real, N> v, Target* target) {
  if constexpr (sizeof(Target) == sizeof(uint16_t)) {
    const auto bits = narrow<N>(Target{}, __builtin_convertvector(v, Vector<float, N>));
    write(target, __builtin_convertvector(bits, Vector<uint16_t, N>));
  } else {
    write(target, __builtin_convertvector(v, Vector<Target, N>));
  }
}

template <typename Real, typename Source>
inline Real load_one(const Source* source) {
  return load<Real, 1>(source)[0];
}

// target = source, by way of Real.
template <typename Real, typename Source, typename Target>
void convert(const Source* source, int64_t size, Target* target) {
  int64_t i = 0;
  for (; i + LANES<Real> <= size; i += LANES<Real>) {
    store<Real, LANES<Real>>(load<Real, LANES<Real>>(source + i), target + i);
  }
  for (; i < size; i++) {
    store<Real, 1>(load<Real, 1>(source + i), target + i);
  }
}

// Calls f with a pointer of the matrix's own type.
template <typename F>
inline void with_type(const void* data, Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::fp32:
      return f(static_cast<const float*>(data));
    case Dtype::fp64:
      return f(static_cast<const double*>(data));
    case Dtype::bf16:
      return f(static_cast<const Bf16*>(data));
    case Dtype::fp16:
      return f(static_cast<const Fp16*>(data));
  }
}

// The same for experts, whose types are Real and, for floats, the two of half precision.
template <typename Real, typename F>
inline void with_expert_type(const void* data, Dtype dtype, F f) {
  if constexpr (sizeof(Real) == sizeof(double)) {
    return f(static_cast<const double*>(data));
  } else if (dtype == Dtype::bf16) {
    return f(static_cast<const Bf16*>(data));
  } else if (dtype == Dtype::fp16) {
    return f(static_cast<const Fp16*>(data));
  } else {
    return f(static_cast<const float*>(data));
  }
}

}  // namespace
}  // namespace wemoe::cpu
