// The limits of a GPU of each architecture that is inspected, as the CUDA programming guide has them in its
// table of compute capabilities.

#pragma once

#include "cuda/device.h"

struct InspectedDevice {
  wemoe::cuda::Device device;
  int threads;       // of a multiprocessor
  int shared_bytes;  // of a multiprocessor
};

constexpr int KB = 1024, MB = 1024 * KB;

// multiprocessors and L2 of A100, RTX 3090, H100 SXM, B200 and RTX 5090
constexpr InspectedDevice INSPECTED[] = {
    {{80, 108, 163 * KB, 40 * MB}, 2048, 164 * KB}, {{86, 82, 99 * KB, 6 * MB}, 1536, 100 * KB},
    {{90, 132, 227 * KB, 50 * MB}, 2048, 228 * KB}, {{100, 148, 227 * KB, 126 * MB}, 2048, 228 * KB},
    {{120, 170, 99 * KB, 96 * MB}, 1536, 100 * KB},
};
