// Kernels with one fault each that a run may or may not show, and the same ones without it.

#include "toy.h"

namespace wemoe::cuda {
namespace {

constexpr int THREADS = 64, TURNS = 4;

// Turn by turn, a block copies 64 quadruples of x, and each thread doubles what its neighbour's copy brought.
template <bool WAIT, bool FILLED, bool USED>
__global__ void double_by_turns(const float* x, float* y) {
  float* held = toy_shared<float>();
  const int i = thread_index(), other = (i + 33) % THREADS;
  for (int turn = 0; turn < TURNS; turn++) {
    ptx::copy_async_16(held + 4 * i, x + 4 * (turn * THREADS + i), true);
    ptx::commit_copies();
    if (WAIT) ptx::wait_for_copies<0>();
    if (FILLED) __syncthreads();
    for (int k = 0; k < 4; k++) {
      y[4 * (turn * THREADS + other) + k] = 2 * held[4 * other + k];
    }
    if (!WAIT) ptx::wait_for_copies<0>();
    if (USED) __syncthreads();
  }
}

// Sums over a warp by way of shared memory.
template <bool SYNC>
__global__ void sum_pairs(float* y) {
  float* held = toy_shared<float>();
  held[thread_index()] = 1;
  if (SYNC) __syncwarp();
  y[thread_index()] = held[thread_index()] + held[thread_index() ^ 1];
}

__global__ void read_what_nobody_wrote(float* y) {
  __shared__ float fixed[2];
  if (thread_index() == 0) fixed[0] = toy_shared<float>()[0];
  if (thread_index() == 0) y[0] = fixed[0] + fixed[1];
}

__global__ void store_past_the_end(float* y) {
  toy_shared<float>()[TOY_SHARED_BYTES / 4] = 1;
  y[0] = 1;
}

__global__ void read_at(int offset, const float* x, float* y) { y[0] = x[offset]; }
__global__ void write_at(int offset, float* y) { y[offset] = 1; }

__global__ void read_misaligned(const float* x, float* y) {
  y[0] = *reinterpret_cast<const float*>(reinterpret_cast<const char*>(x) + 2);
}

__global__ void write_by_all(float* y) { y[0] = 1; }

__global__ void write_to_input(const float* x, float* y) { const_cast<float*>(x)[0] = y[0] = x[0] + 1; }

// Each block writes its own number and reads or overwrites another's.
__global__ void read_the_block_before(float* y) {
  const int index = static_cast<int>(blockIdx.x);
  y[index] = 1;
  y[index + 2] = y[index == 0 ? 0 : index - 1];
}
__global__ void overwrite_what_was_read(float* y) {
  if (blockIdx.x == 0) {
    y[0] = 1;
    y[1] = y[0];
  } else {
    y[0] = 2;
  }
}

__global__ void write_one(float* y) { y[0] = 1; }
__global__ void add_one(float* y) { y[1] = y[0] + 1; }

}  // namespace
}  // namespace wemoe::cuda

extern "C" {

using namespace wemoe::cuda;

int toy_double(const float* x, float* y) {
  return launch_toy(double_by_turns<true, true, true>, 1, THREADS, x, y);
}
int toy_double_without_wait(const float* x, float* y) {
  return launch_toy(double_by_turns<false, true, true>, 1, THREADS, x, y);
}
int toy_double_without_barrier(const float* x, float* y) {
  return launch_toy(double_by_turns<true, false, true>, 1, THREADS, x, y);
}
int toy_double_without_barrier_before_reuse(const float* x, float* y) {
  return launch_toy(double_by_turns<true, true, false>, 1, THREADS, x, y);
}
int toy_sum_pairs(float* y) { return launch_toy(sum_pairs<true>, 1, 64, y); }
int toy_sum_pairs_without_sync(float* y) { return launch_toy(sum_pairs<false>, 1, 64, y); }
int toy_read_what_nobody_wrote(float* y) { return launch_toy(read_what_nobody_wrote, 1, 32, y); }
int toy_store_past_the_end(float* y) { return launch_toy(store_past_the_end, 1, 1, y); }
int toy_read_at(int offset, const float* x, float* y) { return launch_toy(read_at, 1, 1, offset, x, y); }
int toy_write_one_at(int offset, float* y) { return launch_toy(write_at, 1, 1, offset, y); }
int toy_read_misaligned(const float* x, float* y) { return launch_toy(read_misaligned, 1, 1, x, y); }
int toy_two_blocks_write(float* y) { return launch_toy(write_by_all, 2, 1, y); }
int toy_two_warps_write(float* y) { return launch_toy(write_by_all, 1, 64, y); }
int toy_write_to_input(const float* x, float* y) { return launch_toy(write_to_input, 1, 1, x, y); }
int toy_read_the_block_before(float* y) { return launch_toy(read_the_block_before, 2, 1, y); }
int toy_overwrite_what_was_read(float* y) { return launch_toy(overwrite_what_was_read, 2, 1, y); }
// A launch may read what the one before it wrote.
int toy_two_launches(float* y) {
  const int error = launch_toy(write_one, 1, 1, y);
  return error != 0 ? error : launch_toy(add_one, 1, 1, y);
}
int toy_read_unwritten_output(float* y) { return launch_toy(add_one, 1, 1, y); }
}
