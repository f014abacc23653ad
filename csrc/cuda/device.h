// What the host has to know of a GPU before it launches: no torch, no CUDA runtime, so that tests can name
// any.

#pragma once

#include <cstdint>

namespace wemoe::cuda {

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Device {
  int capability;        // 80 for compute capability 8.0
  int multiprocessors;   // of the whole device
  int64_t shared_bytes;  // that one block may ask for
  int64_t l2_bytes;
};

// R routes of M rows, D inputs, F outputs, T tasks.
struct Sizes {
  int64_t R, M, D, F, T;
};

}  // namespace wemoe::cuda
