// How ctypes names sizes and devices to the launchers: numbers in the order of their members in device.h.

#pragma once

#include "cuda/device.h"

namespace wemoe::cuda {

inline Sizes read_sizes(const int64_t* sizes) { return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]}; }

inline Device read_device(const int64_t* device) {
  return {static_cast<int>(device[0]), static_cast<int>(device[1]), device[2], device[3]};
}

}  // namespace wemoe::cuda
