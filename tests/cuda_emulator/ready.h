// Which thread of a block runs next.

#pragma once

#include <cstdint>

#include "runtime.h"

namespace wemoe::emulator {

enum class Order : int { ASCENDING, DESCENDING, WARP_PRIORITIES };
enum class Copies : int { AT_ISSUE, AT_WAIT, TOSSED };  // when an asynchronous copy takes effect

struct Schedule {
  Order order = Order::ASCENDING;
  Copies copies = Copies::AT_ISSUE;
  uint64_t seed = 0;
};

// xorshift64*: the same numbers everywhere.
class Random {
 public:
  void seed(uint64_t seed, uint64_t block);
  uint32_t below(uint32_t limit) { return static_cast<uint32_t>((next() * limit) >> 32); }

 private:
  uint64_t next();  // of 32 bits

  uint64_t state_ = 1;
};

// Choosing one thread is a matter of a few bit operations.
class ReadyThreads {
 public:
  void reset(Order order, int warps, Random& random);
  void add(int thread);
  bool empty() const { return ranks_ == 0; }
  int take(Random& random);

 private:
  int take_lane(int warp, Random& random);
  void swap_ranks(int one, int other);

  Order order_;
  int warps_;
  uint32_t lanes_[MAX_WARPS];  // that are ready
  uint32_t ranks_;             // of the warps that have any: the lowest one runs
  int rank_of_[MAX_WARPS], warp_at_[MAX_WARPS];
};

}  // namespace wemoe::emulator
