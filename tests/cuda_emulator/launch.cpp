// A launch: every block in turn, until one fails.

#include <cstdlib>
#include <cstring>

#include "block.h"
#include "checker.h"
#include "emulated_launch.h"
#include "faults.h"
#include "static_shared.h"

extern uint3 blockIdx;
extern dim3 blockDim, gridDim;

namespace wemoe::emulator {
namespace {

constexpr size_t GUARD_BYTES = 64 * 1024;  // after the launch's shared memory, for stores past its end
constexpr int NAN_BYTE = 0xff;             // repeated, NaN in every type of element
constexpr unsigned MAX_GRID_YZ = 65535;

std::string check(dim3 grid, int threads, size_t shared_bytes) {
  const auto found = [](const char* rule, uint64_t number) { return rule + std::to_string(number); };
  if (threads < 1 || threads > MAX_THREADS)
    return found("a block must have 1 to 1024 threads, found ", threads);
  if (shared_bytes > MAX_SHARED_BYTES) {
    return found("a block may have 232448 bytes of shared memory, found ", shared_bytes);
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return "a grid must have blocks, found none";
  if (grid.x > INT32_MAX) return found("grid.x must be 2147483647 at most, found ", grid.x);
  if (grid.y > MAX_GRID_YZ) return found("grid.y must be 65535 at most, found ", grid.y);
  if (grid.z > MAX_GRID_YZ) return found("grid.z must be 65535 at most, found ", grid.z);
  return {};
}

// Of an own alignment, so that kernels see the same banks in every launch.
unsigned char* shared_memory() {
  static void* bytes = std::aligned_alloc(1024, MAX_SHARED_BYTES + GUARD_BYTES);
  return static_cast<unsigned char*>(bytes);
}

void run_blocks(dim3 grid) {
  const uint64_t plane = static_cast<uint64_t>(grid.x) * grid.y, blocks = plane * grid.z;
  for (uint64_t index = 0; index < blocks && !block.failed; index++) {
    blockIdx = {static_cast<unsigned>(index % grid.x), static_cast<unsigned>(index % plane / grid.x),
                static_cast<unsigned>(index / plane)};
    std::memset(block.shared, NAN_BYTE, block.shared_bytes + GUARD_BYTES);
    const Span statics = static_shared();
    std::memset(statics.start, NAN_BYTE, statics.bytes);
    if constexpr (CHECKED) check_block();
    run_block(index);
    if constexpr (CHECKED) check_end_of_block();
  }
}

}  // namespace

cudaError_t run(dim3 grid, int threads, size_t shared_bytes, void (*body)(void*), void* context) {
  if (const std::string error = check(grid, threads, shared_bytes); !error.empty()) {
    block.failed = true;
    record_failure("invalid launch: " + error, {});
    return cudaErrorInvalidConfiguration;
  }
  block.size = threads;
  block.shared = shared_memory();
  block.shared_bytes = shared_bytes;
  block.body = body;
  block.context = context;
  block.failed = false;
  gridDim = grid;
  blockDim = dim3(threads);
  if constexpr (CHECKED) check_launch();
  const CatchFaults faults;
  run_blocks(grid);
  return block.failed ? cudaErrorLaunchFailure : cudaSuccess;
}

}  // namespace wemoe::emulator
