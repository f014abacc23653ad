// Where routed_linear finds its weights on the CPU: a tile of lines at a time, whatever they are stored as.

#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "checks.h"
#include "cpu/kernels.h"
#include "cpu/matrix.h"
#include "packed.h"

namespace wemoe::cpu {

// Some strips of base and experts, for some of the inputs.
template <typename Real>
struct Tile {
  Strips<const Real*> base;     // [strip][input][LINE]
  Strips<const char*> experts;  // [strip][input][tasks][LINE]; the step counts bytes
  Dtype dtype;                  // of the experts
  int64_t tasks;

  const void* experts_of(int64_t strip) const { return experts.data + strip * experts.step; }
};

template <typename Real>
class Weights {
 public:
  virtual ~Weights() = default;

  // Numbers that a tile needs in scratch memory.
  virtual int64_t scratch_size(int64_t strips, int64_t inputs) const = 0;

  // Inputs start at a multiple of INPUT_BLOCK.
  virtual Tile<Real> tile(int64_t strip, int64_t strips, int64_t input, int64_t inputs,
                          Real* scratch) const = 0;

  // What a tile will read, so that it may be fetched ahead; nothing where that is not one piece a strip.
  virtual Ahead ahead(int64_t /* strip */, int64_t /* input */, int64_t /* inputs */) const {
    return {{nullptr, 0}, 0};
  }
};

// Weights in lines, base and experts each: what pack_task_vectors makes.
template <typename Real>
class PackedWeights : public Weights<Real> {
 public:
  PackedWeights(const at::Tensor& base, const at::Tensor& experts)
      : base_(base.contiguous()), experts_(experts.contiguous()) {}

  int64_t scratch_size(int64_t strips, int64_t inputs) const override {
    return in_place() ? 0 : strips * inputs * LINE;
  }

  Tile<Real> tile(int64_t strip, int64_t strips, int64_t input, int64_t inputs,
                  Real* scratch) const override {
    return {base(strip, strips, input, inputs, scratch), where(strip, input), dtype_of(experts_), T()};
  }

  Ahead ahead(int64_t strip, int64_t input, int64_t inputs) const override {
    if (strip >= base_.size(0)) return {{nullptr, 0}, 0};
    return {where(strip, input), inputs * T() * LINE * experts_.element_size()};
  }

 private:
  bool in_place() const { return base_.scalar_type() == c10::CppTypeToScalarType<Real>::value; }
  int64_t D() const { return base_.size(1); }
  int64_t T() const { return experts_.size(2); }

  Strips<const Real*> base(int64_t strip, int64_t strips, int64_t input, int64_t inputs,
                           Real* scratch) const {
    const int64_t first = (strip * D() + input) * LINE;
    if (in_place()) return {base_.template const_data_ptr<Real>() + first, D() * LINE};
    for (int64_t s = 0; s < strips; s++) {
      kernels<Real>().load(offset(base_.const_data_ptr(), base_, first + s * D() * LINE), dtype_of(base_),
                           inputs * LINE, scratch + s * inputs * LINE);
    }
    return {scratch, inputs * LINE};
  }

  Strips<const char*> where(int64_t strip, int64_t input) const {
    const void* first = offset(experts_.const_data_ptr(), experts_, (strip * D() + input) * T() * LINE);
    return {static_cast<const char*>(first), D() * T() * LINE * experts_.element_size()};
  }

  const at::Tensor base_;     // [F / LINE, D, LINE]
  const at::Tensor experts_;  // [F / LINE, D, T, LINE]
};

// The base in lines, and of the experts only what is not zero: what pack_sparse_task_vectors makes.
template <typename Real>
class SparseWeights : public Weights<Real> {
 public:
  SparseWeights(const at::Tensor& base, const at::Tensor& masks, const at::Tensor& values,
                const at::Tensor& offsets)
      : base_(base, base.new_empty({base.size(0), base.size(1), 0, LINE})),
        masks_(masks.contiguous()),
        values_(values.contiguous()),
        offsets_(offsets.contiguous()) {}

  int64_t scratch_size(int64_t strips, int64_t inputs) const override {
    return base_.scratch_size(strips, inputs) + strips * inputs * T() * LINE;
  }

  Tile<Real> tile(int64_t strip, int64_t strips, int64_t input, int64_t inputs,
                  Real* scratch) const override {
    const int64_t size = inputs * T() * LINE;
    Real* experts = scratch + base_.scratch_size(strips, inputs);
    for (int64_t s = 0; s < strips; s++) {
      expand(strip + s, input, inputs, experts + s * size);
    }
    return {base_.tile(strip, strips, input, inputs, scratch).base,
            {reinterpret_cast<const char*>(experts), size * static_cast<int64_t>(sizeof(Real))},
            real_dtype<Real>(),
            T()};
  }

 private:
  int64_t T() const { return masks_.size(2); }

  void expand(int64_t strip, int64_t input, int64_t inputs, Real* out) const {
    const auto& k = kernels<Real>();
    const int64_t first = strip * masks_.size(1) + input, size = inputs * T();
    const auto* masks = reinterpret_cast<const uint16_t*>(masks_.const_data_ptr<int16_t>()) + first * T();
    const int64_t begin = offset_of(strip, input), end = offset_of(strip, input + inputs);
    TORCH_CHECK_VALUE(
        begin >= 0 && end <= values_.numel() - LINE && k.count_bits(size, masks) == end - begin,
        "routed_linear_sparse: `offsets` must tell where `values` holds the numbers of `masks`, "
        "and after the last are ",
        LINE, " more. Found ", k.count_bits(size, masks), " bits between offsets ", begin, " and ", end,
        " of ", values_.numel(), " values.");
    k.expand(size, masks, offset(values_.const_data_ptr(), values_, begin), dtype_of(values_), out);
  }

  // Where the values of an input start; those beyond the last input are the next strip's.
  int64_t offset_of(int64_t strip, int64_t input) const {
    const int64_t block = strip * offsets_.size(1) + (input + INPUT_BLOCK - 1) / INPUT_BLOCK;
    return block < offsets_.numel() ? offsets_.const_data_ptr<int64_t>()[block] : values_.numel() - LINE;
  }

  const PackedWeights<Real> base_;
  const at::Tensor masks_;    // [F / LINE, D, T], a bit for each output of a line
  const at::Tensor values_;   // in the order of the masks' bits
  const at::Tensor offsets_;  // [F / LINE, D / INPUT_BLOCK], where the values of a block of inputs start
};

// Weights of any dtype and strides, packed a tile at a time.
template <typename Real>
class UnpackedWeights : public Weights<Real> {
 public:
  UnpackedWeights(const at::Tensor& weight, const at::Tensor& task_vectors) : matrices_{as_inputs(weight)} {
    for (const auto& task_vector : task_vectors.unbind()) {
      matrices_.push_back(as_inputs(task_vector));
    }
  }

  int64_t scratch_size(int64_t strips, int64_t inputs) const override {
    return (1 + T()) * strips * inputs * LINE;
  }

  Tile<Real> tile(int64_t strip, int64_t strips, int64_t input, int64_t inputs,
                  Real* scratch) const override {
    Real* experts = scratch + strips * inputs * LINE;
    for (int64_t m = 0; m <= T(); m++) {
      if (m < T()) kernels<Real>().prefetch(part(m + 1, strip, strips, input, inputs));
      for (int64_t s = 0; s < strips; s++) {
        const int64_t lines = s * inputs * LINE;
        Real* out = m == 0 ? scratch + lines : experts + lines * T() + (m - 1) * LINE;
        kernels<Real>().pack_strip(part(m, strip + s, 1, input, inputs), m == 0 ? LINE : T() * LINE, out);
      }
    }
    return {
        {scratch, inputs * LINE},
        {reinterpret_cast<const char*>(experts), inputs * T() * LINE * static_cast<int64_t>(sizeof(Real))},
        real_dtype<Real>(),
        T()};
  }

 private:
  int64_t T() const { return static_cast<int64_t>(matrices_.size()) - 1; }

  static Matrix as_inputs(const at::Tensor& weight) { return transposed(matrix_of(weight)); }

  // Inputs by outputs of some strips.
  Matrix part(int64_t m, int64_t strip, int64_t strips, int64_t input, int64_t inputs) const {
    const int64_t output = strip * LINE;
    return block(matrices_[m], input, output, inputs, std::min(strips * LINE, matrices_[m].columns - output));
  }

  std::vector<Matrix> matrices_;  // base and experts, [D, F] each
};

// The merged weights of one route: summed in their own layout, so that one matrix is packed instead of T + 1.
template <typename Real>
class MergedWeights : public Weights<Real> {
 public:
  MergedWeights(const at::Tensor& weight, const at::Tensor& task_vectors, const at::Tensor& routing_weights)
      : weight_(weight), task_vectors_(task_vectors), routing_weights_(routing_weights.contiguous()) {}

  // Whether the sums can be taken where the weights lie.
  static bool fit(const at::Tensor& weight, const at::Tensor& task_vectors) {
    const auto type = c10::CppTypeToScalarType<Real>::value;
    return weight.scalar_type() == type && task_vectors.scalar_type() == type && weight.is_contiguous() &&
           task_vectors.is_contiguous();
  }

  int64_t scratch_size(int64_t strips, int64_t inputs) const override { return (strips + 1) * inputs * LINE; }

  Tile<Real> tile(int64_t strip, int64_t strips, int64_t input, int64_t inputs,
                  Real* scratch) const override {
    const auto& k = kernels<Real>();
    const int64_t F = weight_.size(0), D = weight_.size(1), T = task_vectors_.size(0);
    const auto* base = weight_.template const_data_ptr<Real>() + input;
    const auto* experts = task_vectors_.template const_data_ptr<Real>() + input;
    Real* rows = scratch + strips * inputs * LINE;  // [output][input]
    for (int64_t s = 0; s < strips; s++) {
      const int64_t output = (strip + s) * LINE, outputs = std::min(LINE, F - output);
      for (int64_t i = 0; i < outputs; i++) {
        k.merge(1, T, inputs, base + (output + i) * D, experts + (output + i) * D, F * D,
                routing_weights_.template const_data_ptr<Real>(), rows + i * inputs, inputs);
      }
      k.pack_strip({rows, real_dtype<Real>(), inputs, outputs, 1, inputs}, LINE, scratch + s * inputs * LINE);
    }
    return {{scratch, inputs * LINE}, {nullptr, 0}, real_dtype<Real>(), 0};
  }

 private:
  const at::Tensor weight_;           // [F, D]
  const at::Tensor task_vectors_;     // [T, F, D]
  const at::Tensor routing_weights_;  // [1, T]
};

// Calls f with the weights as they are stored; what is computed in double is unpacked first.
template <typename F>
auto with_weights(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& task_vectors, F f) {
  const bool twice = compute_type(x) == at::kDouble;
  const auto is_double = [](const at::Tensor& tensor) { return tensor.scalar_type() == at::kDouble; };
  if (is_packed(weight) && !twice && !is_double(weight) && !is_double(task_vectors)) {
    return f(PackedWeights<float>(weight, task_vectors));
  }
  const auto plain_weight = is_packed(weight) ? unpack_weight(weight) : weight;
  const auto plain_task_vectors = is_packed(weight) ? unpack_task_vectors(task_vectors) : task_vectors;
  if (twice) return f(UnpackedWeights<double>(plain_weight, plain_task_vectors));
  return f(UnpackedWeights<float>(plain_weight, plain_task_vectors));
}

template <typename F>
auto with_sparse_weights(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& masks,
                         const at::Tensor& values, const at::Tensor& offsets, F f) {
  if (compute_type(x) != at::kDouble && compute_type(values) != at::kDouble) {
    return f(SparseWeights<float>(weight, masks, values, offsets));
  }
  return with_weights(x, weight, expand_task_vectors(masks, values), f);
}

}  // namespace wemoe::cpu
