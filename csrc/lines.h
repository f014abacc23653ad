// The measure of packed weights; see packed.h. Free of torch, for kernels.

#pragma once

#include <cstdint>

namespace wemoe {

constexpr int64_t LINE = 16;         // outputs of a line: a cache line of floats
constexpr int64_t INPUT_BLOCK = 32;  // inputs whose sparse values are found by one offset

}  // namespace wemoe
