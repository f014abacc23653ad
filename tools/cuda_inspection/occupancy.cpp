// Reads lines of "capability threads registers shared_bytes", of a block and a thread, and prints for each
// how many blocks fit on a multiprocessor, by the rules that NVIDIA publishes as a header.

#include <cuda_runtime_api.h>
// after the runtime's own types
#include <cuda_occupancy.h>

#include <cstdio>

#include "devices.h"

static cudaOccDeviceProp describe(const InspectedDevice& inspected) {
  cudaOccDeviceProp device{};
  device.computeMajor = inspected.device.capability / 10;
  device.computeMinor = inspected.device.capability % 10;
  device.maxThreadsPerBlock = 1024;
  device.maxThreadsPerMultiprocessor = inspected.threads;
  device.regsPerBlock = device.regsPerMultiprocessor = 64 * KB;
  device.warpSize = 32;
  device.sharedMemPerBlock = 48 * KB;
  device.sharedMemPerMultiprocessor = inspected.shared_bytes;
  device.sharedMemPerBlockOptin = inspected.device.shared_bytes;
  device.reservedSharedMemPerBlock = KB;
  device.numSms = 1;
  return device;
}

static int count_blocks(const InspectedDevice& inspected, int threads, int registers, int shared_bytes) {
  const auto device = describe(inspected);
  cudaOccFuncAttributes kernel{};
  kernel.maxThreadsPerBlock = threads;
  kernel.numRegs = registers;
  kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
  kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
  kernel.maxDynamicSharedSizeBytes = shared_bytes;
  kernel.numBlockBarriers = 1;
  cudaOccDeviceState state{};
  state.cacheConfig = CACHE_PREFER_SHARED;
  state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
  cudaOccResult result{};
  const auto error =
      cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, shared_bytes);
  return error == CUDA_OCC_SUCCESS ? result.activeBlocksPerMultiprocessor : -1;
}

int main() {
  int capability, threads, registers, shared_bytes;
  while (std::scanf("%d %d %d %d", &capability, &threads, &registers, &shared_bytes) == 4) {
    int blocks = -1;
    for (const auto& inspected : INSPECTED) {
      if (inspected.device.capability == capability) {
        blocks = count_blocks(inspected, threads, registers, shared_bytes);
      }
    }
    std::printf("%d\n", blocks);
  }
}
