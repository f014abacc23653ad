// What the arguments of the ops must be, once for all devices and for tracing (hence symbolic sizes).
// Every message names the argument, the rule and what was found.

#pragma once

#include <ATen/ATen.h>

#include <initializer_list>
#include <optional>

#include "packed.h"

namespace wemoe {

// One dimension of a rule: its letter, and its size where another argument has fixed it.
struct Dimension {
  const char* letter;
  std::optional<c10::SymInt> size = std::nullopt;
};

inline void check_dtype(const char* op, const char* name, const at::Tensor& tensor) {
  const auto dtype = tensor.scalar_type();
  TORCH_CHECK_TYPE(
      dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf, op, ": `",
      name, "` must be float32, float64, bfloat16 or float16. Found ", dtype, ".");
}

inline std::string describe(std::initializer_list<Dimension> shape) {
  std::ostringstream text;
  const char* separator = "[";
  for (const auto& dimension : shape) {
    text << std::exchange(separator, ", ") << dimension.letter;
    if (dimension.size) text << " = " << *dimension.size;
  }
  text << "]";
  return text.str();
}

inline void check_sizes(const char* op, const char* name, const at::Tensor& tensor,
                        std::initializer_list<Dimension> shape) {
  bool fits = tensor.dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; fits && i < shape.size(); i++) {
    const auto& size = shape.begin()[i].size;
    fits = !size || tensor.sym_size(i) == *size;
  }
  TORCH_CHECK_VALUE(fits, op, ": `", name, "` must have shape ", describe(shape), ". Found ",
                    tensor.sym_sizes(), ".");
}

inline void check_shape(const char* op, const char* name, const at::Tensor& tensor,
                        std::initializer_list<Dimension> shape) {
  check_dtype(op, name, tensor);
  check_sizes(op, name, tensor, shape);
}

inline void check_integers(const char* op, const char* name, const at::Tensor& tensor, at::ScalarType dtype) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == dtype, op, ": `", name, "` must be ", dtype, ". Found ",
                   tensor.scalar_type(), ".");
}

inline void check_device(const char* op, const char* name, const at::Tensor& tensor, const char* first_name,
                         const at::Tensor& first) {
  TORCH_CHECK_VALUE(tensor.device() == first.device(), op, ": `", name, "` must be on the device of `",
                    first_name, "`, ", first.device(), ". Found ", tensor.device(), ".");
}

inline void check_tasks(const char* op, const c10::SymInt& T) {
  TORCH_CHECK_VALUE(T >= 1, op, ": `task_vectors` must hold at least one task. Found T = 0.");
}

struct WeightSizes {
  c10::SymInt F, D, T;
};

// Weight and task vectors, packed or not.
inline WeightSizes check_weights(const char* op, const at::Tensor& weight, const at::Tensor& task_vectors) {
  if (!is_packed(weight)) {
    check_shape(op, "weight", weight, {{"F"}, {"D"}});
    const auto F = weight.sym_size(0), D = weight.sym_size(1);
    check_shape(op, "task_vectors", task_vectors, {{"T"}, {"F", F}, {"D", D}});
    check_tasks(op, task_vectors.sym_size(0));
    return {F, D, task_vectors.sym_size(0)};
  }
  check_shape(op, "weight", weight, {{"F / 16"}, {"D"}, {"16", LINE}});
  const auto strips = weight.sym_size(0), D = weight.sym_size(1);
  check_shape(op, "task_vectors", task_vectors, {{"F / 16", strips}, {"D", D}, {"T"}, {"16", LINE}});
  check_tasks(op, task_vectors.sym_size(2));
  return {strips * LINE, D, task_vectors.sym_size(2)};
}

inline void check_routes(const char* op, const WeightSizes& sizes, const at::Tensor& x,
                         const at::Tensor& routing_weights, const std::optional<at::Tensor>& bias,
                         const std::optional<at::Tensor>& task_biases) {
  check_shape(op, "x", x, {{"R"}, {"M"}, {"D", sizes.D}});
  check_shape(op, "routing_weights", routing_weights, {{"R", x.sym_size(0)}, {"T", sizes.T}});
  check_device(op, "routing_weights", routing_weights, "x", x);
  if (bias) {
    check_shape(op, "bias", *bias, {{"F", sizes.F}});
    check_device(op, "bias", *bias, "x", x);
  }
  if (task_biases) {
    check_shape(op, "task_biases", *task_biases, {{"T", sizes.T}, {"F", sizes.F}});
    check_device(op, "task_biases", *task_biases, "x", x);
  }
}

inline WeightSizes check_routed_linear(const char* op, const at::Tensor& x, const at::Tensor& weight,
                                       const at::Tensor& task_vectors, const at::Tensor& routing_weights,
                                       const std::optional<at::Tensor>& bias,
                                       const std::optional<at::Tensor>& task_biases) {
  const auto sizes = check_weights(op, weight, task_vectors);
  check_device(op, "weight", weight, "x", x);
  check_device(op, "task_vectors", task_vectors, "x", x);
  check_routes(op, sizes, x, routing_weights, bias, task_biases);
  return sizes;
}

inline WeightSizes check_sparse_weights(const char* op, const at::Tensor& weight, const at::Tensor& masks,
                                        const at::Tensor& values, const at::Tensor& offsets) {
  check_shape(op, "weight", weight, {{"F / 16"}, {"D"}, {"16", LINE}});
  const auto strips = weight.sym_size(0), D = weight.sym_size(1);
  check_integers(op, "masks", masks, at::kShort);
  check_sizes(op, "masks", masks, {{"F / 16", strips}, {"D", D}, {"T"}});
  check_tasks(op, masks.sym_size(2));
  check_shape(op, "values", values, {{"V"}});
  TORCH_CHECK_VALUE(values.sym_size(0) >= LINE, op, ": `values` must end with ", LINE,
                    " numbers more than the masks have bits. Found V = ", values.sym_size(0), ".");
  check_integers(op, "offsets", offsets, at::kLong);
  check_sizes(op, "offsets", offsets,
              {{"F / 16", strips}, {"D / 32 rounded up", (D + INPUT_BLOCK - 1) / INPUT_BLOCK}});
  return {strips * LINE, D, masks.sym_size(2)};
}

inline WeightSizes check_routed_linear_sparse(const char* op, const at::Tensor& x, const at::Tensor& weight,
                                              const at::Tensor& masks, const at::Tensor& values,
                                              const at::Tensor& offsets, const at::Tensor& routing_weights,
                                              const std::optional<at::Tensor>& bias,
                                              const std::optional<at::Tensor>& task_biases) {
  const auto sizes = check_sparse_weights(op, weight, masks, values, offsets);
  check_device(op, "weight", weight, "x", x);
  check_device(op, "masks", masks, "x", x);
  check_device(op, "values", values, "x", x);
  check_device(op, "offsets", offsets, "x", x);
  check_routes(op, sizes, x, routing_weights, bias, task_biases);
  return sizes;
}

inline void check_biases(const char* op, const std::optional<at::Tensor>& bias,
                         const std::optional<at::Tensor>& task_biases) {
  TORCH_CHECK_VALUE(bias || !task_biases, op, ": `task_biases` need a `bias` that they add to. Found None.");
}

inline WeightSizes check_routed_linear_forward(const at::Tensor& x, const at::Tensor& weight,
                                               const at::Tensor& task_vectors,
                                               const at::Tensor& routing_weights,
                                               const std::optional<at::Tensor>& bias,
                                               const std::optional<at::Tensor>& task_biases) {
  const char* op = "routed_linear";
  const auto sizes = check_routed_linear(op, x, weight, task_vectors, routing_weights, bias, task_biases);
  check_biases(op, bias, task_biases);
  return sizes;
}

inline void check_grad(const char* op, const WeightSizes& sizes, const at::Tensor& grad,
                       const at::Tensor& x) {
  check_shape(op, "grad", grad, {{"R", x.sym_size(0)}, {"M", x.sym_size(1)}, {"F", sizes.F}});
  check_device(op, "grad", grad, "x", x);
}

inline void check_routed_linear_backward(const at::Tensor& grad, const at::Tensor& x,
                                         const at::Tensor& weight, const at::Tensor& task_vectors,
                                         const at::Tensor& routing_weights,
                                         const std::optional<at::Tensor>& task_biases) {
  const char* op = "routed_linear_backward";
  const auto sizes =
      check_routed_linear(op, x, weight, task_vectors, routing_weights, std::nullopt, task_biases);
  check_grad(op, sizes, grad, x);
}

inline WeightSizes check_routed_linear_sparse_forward(const at::Tensor& x, const at::Tensor& weight,
                                                      const at::Tensor& masks, const at::Tensor& values,
                                                      const at::Tensor& offsets,
                                                      const at::Tensor& routing_weights,
                                                      const std::optional<at::Tensor>& bias,
                                                      const std::optional<at::Tensor>& task_biases) {
  const char* op = "routed_linear_sparse";
  const auto sizes =
      check_routed_linear_sparse(op, x, weight, masks, values, offsets, routing_weights, bias, task_biases);
  check_biases(op, bias, task_biases);
  return sizes;
}

inline void check_routed_linear_sparse_backward(const at::Tensor& grad, const at::Tensor& x,
                                                const at::Tensor& weight, const at::Tensor& masks,
                                                const at::Tensor& values, const at::Tensor& offsets,
                                                const at::Tensor& routing_weights,
                                                const std::optional<at::Tensor>& task_biases) {
  const char* op = "routed_linear_sparse_backward";
  const auto sizes = check_routed_linear_sparse(op, x, weight, masks, values, offsets, routing_weights,
                                                std::nullopt, task_biases);
  check_grad(op, sizes, grad, x);
}

inline void check_merge_weights(const at::Tensor& base, const at::Tensor& task_vectors,
                                const at::Tensor& routing_weights) {
  const char* op = "merge_weights";
  check_dtype(op, "base", base);
  check_dtype(op, "task_vectors", task_vectors);
  TORCH_CHECK_VALUE(
      task_vectors.dim() == base.dim() + 1 && task_vectors.sym_sizes().slice(1) == base.sym_sizes(), op,
      ": `task_vectors` must have shape [T, ...] over the shape of `base`, ", base.sym_sizes(), ". Found ",
      task_vectors.sym_sizes(), ".");
  check_tasks(op, task_vectors.sym_size(0));
  check_shape(op, "routing_weights", routing_weights, {{"R"}, {"T", task_vectors.sym_size(0)}});
  check_device(op, "task_vectors", task_vectors, "base", base);
  check_device(op, "routing_weights", routing_weights, "base", base);
}

inline void check_merge_weights_backward(const at::Tensor& grad, const at::Tensor& task_vectors) {
  const char* op = "merge_weights_backward";
  check_dtype(op, "grad", grad);
  check_dtype(op, "task_vectors", task_vectors);
  TORCH_CHECK_VALUE(grad.dim() >= 1 && task_vectors.dim() == grad.dim() &&
                        grad.sym_sizes().slice(1) == task_vectors.sym_sizes().slice(1),
                    op, ": `grad` must have shape [R, ...] over the shape of one task vector. Found ",
                    grad.sym_sizes(), " and `task_vectors` ", task_vectors.sym_sizes(), ".");
  check_tasks(op, task_vectors.sym_size(0));
  check_device(op, "task_vectors", task_vectors, "grad", grad);
}

// The type that sums are taken in, for data of this type.
inline at::ScalarType compute_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace wemoe
