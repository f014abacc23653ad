// Kernels that a GPU would not run to their end, or not to a good one.

#include "toy.h"

namespace wemoe::cuda {
namespace {

__global__ void wait_apart(int* y) {
  if (thread_index() == 0) {
    __syncwarp();
  } else {
    __syncthreads();
  }
  y[thread_index()] = 0;
}

__global__ void diverge(int* y) {
  if (thread_index() < 16) {
    y[thread_index()] = __shfl_sync(~0u, 1, 0);
  } else {
    y[thread_index()] = static_cast<int>(__ballot_sync(~0u, 1));
  }
}

__global__ void leave_early(int* y) {
  if (thread_index() < 16) return;
  y[thread_index()] = __shfl_xor_sync(~0u, 1, 1);
}

__global__ void stand_outside(int* y) { y[thread_index()] = static_cast<int>(__ballot_sync(0xffff0000u, 1)); }

__global__ void reach_outside(int* y) {
  if (thread_index() < 16) y[thread_index()] = __shfl_sync(0xffffu, 1, 20);
}

__global__ void meet_elsewhere(int* y) {
  if (thread_index() < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[thread_index()] = 0;
}

__global__ void forget_copies(const float* x) {
  ptx::copy_async_16(toy_shared<float>() + 4 * thread_index(), x, true);
  ptx::commit_copies();
}

__global__ void copy_from_odd_places(int offset, const float* x) {
  ptx::copy_async_16(ptx::dynamic_shared(), reinterpret_cast<const char*>(x) + offset, true);
  ptx::wait_for_copies<0>();
}

__global__ void copy_past_the_end(const float* x) {
  ptx::copy_async_16(ptx::dynamic_shared() + TOY_SHARED_BYTES, x, true);
  ptx::wait_for_copies<0>();
}

__global__ void read_nowhere(const float* x, float* y) { y[0] = x[1ll << 45]; }

__global__ void overflow(int depth, volatile int* y) {
  volatile int numbers[1024] = {depth};
  if (depth > 0) overflow(depth - 1, y);
  y[0] = numbers[0];
}

__global__ void divide(int number, int by, int* y) { y[0] = number / by; }

__global__ void write_at(int offset, float* y) { y[offset] = 1; }

__global__ void do_nothing() {}

}  // namespace
}  // namespace wemoe::cuda

extern "C" {

using namespace wemoe::cuda;

int toy_wait_apart(int* y) { return launch_toy(wait_apart, 1, 32, y); }
int toy_diverge(int* y) { return launch_toy(diverge, 1, 32, y); }
int toy_leave_early(int* y) { return launch_toy(leave_early, 1, 32, y); }
int toy_stand_outside(int* y) { return launch_toy(stand_outside, 1, 32, y); }
int toy_reach_outside(int* y) { return launch_toy(reach_outside, 1, 32, y); }
int toy_meet_elsewhere(int* y) { return launch_toy(meet_elsewhere, 1, 64, y); }
int toy_forget_copies(const float* x) { return launch_toy(forget_copies, 1, 1, x); }
int toy_copy_from_odd_places(int offset, const float* x) {
  return launch_toy(copy_from_odd_places, 1, 1, offset, x);
}
int toy_copy_past_the_end(const float* x) { return launch_toy(copy_past_the_end, 1, 1, x); }
int toy_read_nowhere(const float* x, float* y) { return launch_toy(read_nowhere, 1, 1, x, y); }
int toy_overflow(int* y) { return launch_toy(overflow, 1, 1, 1 << 20, y); }
int toy_divide(int by, int* y) { return launch_toy(divide, 1, 1, 7, by, y); }
int toy_write_at(int offset, float* y) { return launch_toy(write_at, 1, 1, offset, y); }
int toy_launch(int64_t x, int64_t y, int64_t z, int threads, int64_t shared_bytes) {
  const dim3 grid(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
  return launch(do_nothing, grid, threads, static_cast<size_t>(shared_bytes), nullptr);
}
}
