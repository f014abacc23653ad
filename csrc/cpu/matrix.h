// Tensors as the kernels see them.

#pragma once

#include <ATen/ATen.h>

#include "cpu/kernels.h"

namespace wemoe::cpu {

inline Dtype dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
      return Dtype::fp64;
    case at::kBFloat16:
      return Dtype::bf16;
    case at::kHalf:
      return Dtype::fp16;
    default:
      return Dtype::fp32;
  }
}

template <typename Real>
constexpr Dtype real_dtype() {
  return sizeof(Real) == sizeof(double) ? Dtype::fp64 : Dtype::fp32;
}

inline Matrix matrix_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr(), dtype_of(tensor), tensor.size(0),
          tensor.size(1),          tensor.stride(0), tensor.stride(1)};
}

inline int64_t bytes_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::fp64:
      return 8;
    case Dtype::fp32:
      return 4;
    default:
      return 2;
  }
}

// The address of an element, so many elements after the first.
inline const void* offset(const void* data, const at::Tensor& tensor, int64_t elements) {
  return static_cast<const char*>(data) + elements * tensor.element_size();
}
inline void* offset(void* data, const at::Tensor& tensor, int64_t elements) {
  return static_cast<char*>(data) + elements * tensor.element_size();
}

inline Matrix block(const Matrix& m, int64_t row, int64_t column, int64_t rows, int64_t columns) {
  const int64_t elements = row * m.row_stride + column * m.column_stride;
  const void* corner = static_cast<const char*>(m.data) + elements * bytes_of(m.dtype);
  return {corner, m.dtype, rows, columns, m.row_stride, m.column_stride};
}

inline Matrix transposed(const Matrix& m) {
  return {m.data, m.dtype, m.columns, m.rows, m.column_stride, m.row_stride};
}

// Uninitialised memory for packed tiles, which the kernels may use from any thread.
template <typename Real>
at::Tensor scratch(int64_t size) {
  return at::empty({size}, at::dtype(c10::CppTypeToScalarType<Real>::value));
}

// The sum over the first dimension, in order: the same bits whatever the other sizes are.
inline at::Tensor add_partials(const at::Tensor& partials) {
  const auto total = partials[0].clone();
  for (int64_t i = 1; i < partials.size(0); i++) {
    total.add_(partials[i]);
  }
  return total;
}

}  // namespace wemoe::cpu
