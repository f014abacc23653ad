// When copies take effect, what shared memory holds in the beginning, and what accesses cost.

#include "toy.h"

namespace wemoe::cuda {
namespace {

// What shared memory holds before and after the wait for a copy of x over ones: [2, threads, 4].
__global__ void watch_copies(const float* x, float* seen) {
  float* held = toy_shared<float>() + 4 * thread_index();
  float* before = seen + 4 * thread_index();
  float* after = before + 4 * blockDim.x;
  for (int i = 0; i < 4; i++) {
    held[i] = 1;
  }
  ptx::copy_async_16(held, x + 4 * thread_index(), true);
  ptx::commit_copies();
  for (int i = 0; i < 4; i++) {
    before[i] = held[i];
  }
  ptx::wait_for_copies<0>();
  for (int i = 0; i < 4; i++) {
    after[i] = held[i];
  }
}

// Two groups, the first of which is waited for; the second copy is not valid, and is of no memory at all.
__global__ void wait_for_one_group(const float* x, float* seen) {
  float* held = toy_shared<float>();
  held[4] = 1;
  ptx::copy_async_16(held, x, true);
  ptx::commit_copies();
  ptx::copy_async_16(held + 4, nullptr, false);
  ptx::commit_copies();
  ptx::wait_for_copies<1>();
  seen[0] = held[0];
  seen[1] = held[4];
  ptx::wait_for_copies<0>();
  seen[2] = held[4];
}

// What each block finds in shared memory, dynamic and static; it leaves its own numbers there.
__global__ void read_fresh_shared(float* found) {
  __shared__ float fixed[64];
  float* dynamic = toy_shared<float>();
  const int i = thread_index(), row = static_cast<int>(2 * blockIdx.x * blockDim.x);
  found[row + i] = dynamic[i];
  found[row + static_cast<int>(blockDim.x) + i] = fixed[i];
  dynamic[i] = fixed[i] = 7;
}

// Loads and stores of numbers that lie so many numbers apart from lane to lane.
template <typename Number>
__global__ void move_strided(int shared_stride, int global_stride, int start, const Number* x, Number* y) {
  Number* held = toy_shared<Number>();
  const Number number = x[start + thread_index() * global_stride];
  held[thread_index() * shared_stride] = number;
  y[start + thread_index() * global_stride] = held[thread_index() * shared_stride];
}

// All lanes read what one wrote.
__global__ void broadcast(float* y) {
  float* held = toy_shared<float>();
  if (thread_index() == 0) held[0] = 3;
  __syncthreads();
  y[thread_index()] = held[0];
}

__global__ void read_rows(int row_bytes, uint32_t* y) {
  unsigned char* held = ptx::dynamic_shared();
  for (int i = thread_index(); i < TOY_SHARED_BYTES / 4; i += warpSize) {
    reinterpret_cast<uint32_t*>(held)[i] = 1;
  }
  __syncthreads();
  uint32_t registers[4];
  ptx::load_matrices(registers, held + thread_index() * row_bytes);
  y[thread_index()] = registers[0] + registers[1] + registers[2] + registers[3];
}

}  // namespace
}  // namespace wemoe::cuda

extern "C" {

using namespace wemoe::cuda;

int toy_watch_copies(int threads, const float* x, float* seen) {
  return launch_toy(watch_copies, 1, threads, x, seen);
}
int toy_wait_for_one_group(const float* x, float* seen) {
  return launch_toy(wait_for_one_group, 1, 1, x, seen);
}
int toy_read_fresh_shared(float* found) { return launch_toy(read_fresh_shared, 2, 64, found); }
int toy_move_floats(int shared_stride, int global_stride, int start, const float* x, float* y) {
  return launch_toy(move_strided<float>, 1, 32, shared_stride, global_stride, start, x, y);
}
int toy_move_halves(int shared_stride, int global_stride, int start, const uint16_t* x, uint16_t* y) {
  return launch_toy(move_strided<uint16_t>, 1, 32, shared_stride, global_stride, start, x, y);
}
int toy_move_quadruples(int shared_stride, int global_stride, int start, const uint4* x, uint4* y) {
  return launch_toy(move_strided<uint4>, 1, 32, shared_stride, global_stride, start, x, y);
}
int toy_broadcast(float* y) { return launch_toy(broadcast, 1, 32, y); }
int toy_read_rows(int row_bytes, uint32_t* y) { return launch_toy(read_rows, 1, 32, row_bytes, y); }
}
