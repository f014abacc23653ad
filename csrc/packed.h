// Packed weights: lines of LINE outputs for each input, so that a CPU assembles what it reads in order.
//
//   weight        [F, D]     becomes [F / LINE, D, LINE]
//   task_vectors  [T, F, D]  becomes [F / LINE, D, T, LINE]
//
// wemoe_ext/packing.py makes them; the functions here take them apart again.

#pragma once

#include <ATen/ATen.h>

#include "lines.h"

namespace wemoe {

inline bool is_packed(const at::Tensor& weight) { return weight.dim() == 3; }

inline at::Tensor unpack_weight(const at::Tensor& packed) {
  return packed.transpose(1, 2).reshape({packed.size(0) * LINE, packed.size(1)});
}

inline at::Tensor unpack_task_vectors(const at::Tensor& packed) {
  return packed.permute({2, 0, 3, 1}).reshape({packed.size(2), packed.size(0) * LINE, packed.size(1)});
}

// Sparse task vectors as dense packed ones; see SparseTaskVectors in wemoe_ext/packing.py.
inline at::Tensor expand_task_vectors(const at::Tensor& masks, const at::Tensor& values) {
  const auto bits = at::arange(LINE, masks.options());
  const auto present = masks.unsqueeze(-1).bitwise_right_shift(bits).bitwise_and(1).to(at::kBool);
  return at::zeros(present.sizes(), values.options()).masked_scatter_(present, values);
}

}  // namespace wemoe
