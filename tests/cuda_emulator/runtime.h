// What emulated kernels ask of the emulator. Each thread of a block is a fiber; blocks run one after another.

#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>

namespace wemoe::emulator {

using Location = std::source_location;

constexpr int WARP = 32, MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / WARP;
constexpr size_t MAX_SHARED_BYTES = 227 * 1024;  // of a block, on the devices that have most

void barrier(Location location);  // __syncthreads

// Every lane named in mask arrives with its operand; the last one to arrive calls combine for all of them.
using Combine = void (*)(void* const* operands, uint32_t mask);
void collective(const char* name, uint32_t mask, void* operand, Combine combine, bool orders_memory,
                Location location);

struct Shuffle {
  uint64_t value, result;
  int source;  // lane
};
void combine_shuffles(void* const* operands, uint32_t mask);

struct Vote {
  bool value;
  uint32_t result;
};
void combine_votes(void* const* operands, uint32_t mask);

void combine_nothing(void* const* operands, uint32_t mask);

int lane_index();
unsigned char* dynamic_shared();

// Asynchronous copies of the calling thread.
void copy_16(void* shared, const void* global, bool valid, Location location);
void commit_copies();
void wait_for_copies(int newest);  // until all groups but these are there

// The 16 bytes of shared memory that a lane hands to ldmatrix.
void read_row(void* row, const void* shared, Location location);

// Abandons the launch. The calling thread does not go on.
[[noreturn]] void fail(const std::string& message, Location location);

}  // namespace wemoe::emulator
