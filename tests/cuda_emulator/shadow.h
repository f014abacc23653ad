// Who wrote and who read each place of a memory, so that accesses that no barrier orders are found whatever
// order they happened in.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime.h"

namespace wemoe::emulator {

// When a thread did something. Barriers begin epochs, which differ between blocks too; __syncwarp begins
// those of a warp.
struct Moment {
  int thread = -1;
  uint32_t epoch = 0, warp_epoch = 0;

  // Of two threads of one block, without a barrier in between.
  bool concurrent(const Moment& other) const {
    if (thread < 0 || thread == other.thread || epoch != other.epoch) return false;
    return thread / WARP != other.thread / WARP || warp_epoch == other.warp_epoch;
  }
};

struct Clock {
  uint32_t block = 0;  // counted over all launches, from 1 on
  uint32_t first_block_of_launch = 1;
  uint32_t epoch = 0;
  uint32_t warp_epochs[MAX_WARPS] = {};

  Moment now(int thread) const { return {thread, epoch, warp_epochs[thread / WARP]}; }
  bool other_block(uint32_t other) const { return other >= first_block_of_launch && other != block; }
};

// What is wrong with an access, if anything, and with which thread's access it collides.
struct Fault {
  const char* what = nullptr;
  int other = -1;
};

class Shadow {
 public:
  // Global memory keeps what earlier blocks and launches wrote; shared memory begins anew with each block.
  Shadow(size_t bytes, bool global) : cells_((bytes + CELL - 1) / CELL), global_(global) {}

  Fault access(size_t offset, int bytes, bool write, Moment now, const Clock& clock);
  void set_in_flight(size_t offset, int bytes, bool in_flight);

 private:
  static constexpr size_t CELL = 2;  // bytes; threads that store neighbouring single bytes would collide

  struct Cell {
    Moment write, reads[2];
    uint32_t write_block = 0, read_block = 0;
    bool in_flight = false;
  };

  Fault read(Cell& cell, Moment now, const Clock& clock) const;
  Fault write(Cell& cell, Moment now, const Clock& clock) const;
  static void keep_read(Cell& cell, Moment now);

  std::vector<Cell> cells_;
  bool global_;
};

}  // namespace wemoe::emulator
