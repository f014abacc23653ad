// How the composite ops bound their memory.

#pragma once

#include <ATen/ATen.h>

#include <algorithm>

namespace wemoe::composite {

constexpr int64_t WORKSPACE_BYTES = 256 << 20;

// Calls f(first, count) for slices of `size` slots, each of which needs so many numbers of this type.
template <typename F>
void for_slices(int64_t size, int64_t numbers_per_slot, at::ScalarType type, F f) {
  const int64_t bytes = std::max<int64_t>(1, numbers_per_slot) * static_cast<int64_t>(c10::elementSize(type));
  const int64_t step = std::max<int64_t>(1, WORKSPACE_BYTES / bytes);
  for (int64_t first = 0; first < size; first += step) {
    f(first, std::min(step, size - first));
  }
}

}  // namespace wemoe::composite
