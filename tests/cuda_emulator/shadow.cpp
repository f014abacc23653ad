#include "shadow.h"

#include <algorithm>

namespace wemoe::emulator {

Fault Shadow::access(size_t offset, int bytes, bool writes, Moment now, const Clock& clock) {
  Fault first;
  for (size_t i = offset / CELL; i <= (offset + bytes - 1) / CELL; i++) {
    const Fault fault = writes ? write(cells_[i], now, clock) : read(cells_[i], now, clock);
    if (first.what == nullptr) first = fault;
  }
  return first;
}

void Shadow::set_in_flight(size_t offset, int bytes, bool in_flight) {
  for (size_t i = offset / CELL; i <= (offset + bytes - 1) / CELL; i++) {
    cells_[i].in_flight = in_flight;
  }
}

Fault Shadow::read(Cell& cell, Moment now, const Clock& clock) const {
  Fault fault;
  if (cell.in_flight) {
    fault = {"access to the target of a copy in flight", cell.write.thread};
  } else if (cell.write.concurrent(now)) {
    fault = {"read races with write", cell.write.thread};
  } else if (global_ ? cell.write_block == 0 : cell.write_block != clock.block) {
    fault = {"read of what nobody wrote"};
  } else if (global_ && clock.other_block(cell.write_block)) {
    fault = {"read of what another block wrote", cell.write.thread};
  }
  keep_read(cell, now);
  cell.read_block = clock.block;
  return fault;
}

Fault Shadow::write(Cell& cell, Moment now, const Clock& clock) const {
  Fault fault;
  if (cell.in_flight) {
    fault = {"access to the target of a copy in flight", cell.write.thread};
  } else if (cell.write.concurrent(now)) {
    fault = {"write races with write", cell.write.thread};
  } else if (global_ && clock.other_block(cell.write_block)) {
    fault = {"write of what another block wrote", cell.write.thread};
  } else if (global_ && clock.other_block(cell.read_block)) {
    fault = {"write of what another block read", cell.reads[0].thread};
  } else {
    for (const Moment& read : cell.reads) {
      if (read.concurrent(now)) fault = {"write races with read", read.thread};
    }
  }
  cell.write = now;
  cell.write_block = clock.block;
  cell.reads[0] = cell.reads[1] = {};
  return fault;
}

// Two reads are enough to find a collision with any later write, if they are of two warps or, failing that,
// the newest of two lanes.
void Shadow::keep_read(Cell& cell, Moment now) {
  Moment &one = cell.reads[0], &two = cell.reads[1];
  const bool stale = one.epoch != now.epoch;
  if (stale || one.thread == now.thread || one.thread < 0) {
    if (stale) two = {};
    one = now;
    return;
  }
  const bool two_warps = two.thread >= 0 && two.thread / WARP != one.thread / WARP;
  if (two.thread < 0 || two.thread == now.thread || one.thread / WARP != now.thread / WARP) {
    if (!two_warps || two.thread == now.thread) two = now;
  } else if (!two_warps) {
    std::swap(one, two);  // all three of one warp: the oldest goes
    two = now;
  }
}

}  // namespace wemoe::emulator
