#include "ready.h"

#include <bit>
#include <utility>

namespace wemoe::emulator {

void Random::seed(uint64_t seed, uint64_t block) {
  state_ = (seed + 1) * 0x9E3779B97F4A7C15u ^ (block + 1) * 0xD1B54A32D192ED03u;
  if (state_ == 0) state_ = 1;
  for (int i = 0; i < 4; i++) {
    next();
  }
}

uint64_t Random::next() {
  state_ ^= state_ << 13;
  state_ ^= state_ >> 7;
  state_ ^= state_ << 17;
  return state_ * 0x2545F4914F6CDD1Du >> 32;
}

void ReadyThreads::reset(Order order, int warps, Random& random) {
  order_ = order;
  warps_ = warps;
  ranks_ = 0;
  for (int warp = 0; warp < MAX_WARPS; warp++) {
    lanes_[warp] = 0;
    rank_of_[warp] = warp_at_[warp] = order == Order::DESCENDING ? MAX_WARPS - 1 - warp : warp;
  }
  if (order != Order::WARP_PRIORITIES) return;
  for (int warp = warps - 1; warp > 0; warp--) {
    swap_ranks(warp, static_cast<int>(random.below(warp + 1)));
  }
}

void ReadyThreads::add(int thread) {
  lanes_[thread / WARP] |= 1u << thread % WARP;
  ranks_ |= 1u << rank_of_[thread / WARP];
}

int ReadyThreads::take(Random& random) {
  // The first warp runs on as long as it can, and now and then two warps change places.
  if (order_ == Order::WARP_PRIORITIES && warps_ > 1 && random.below(1024) == 0) {
    swap_ranks(static_cast<int>(random.below(warps_)), static_cast<int>(random.below(warps_)));
  }
  const int warp = warp_at_[std::countr_zero(ranks_)], lane = take_lane(warp, random);
  lanes_[warp] &= ~(1u << lane);
  if (lanes_[warp] == 0) ranks_ &= ranks_ - 1;
  return warp * WARP + lane;
}

int ReadyThreads::take_lane(int warp, Random& random) {
  const uint32_t lanes = lanes_[warp];
  if (order_ == Order::ASCENDING) return std::countr_zero(lanes);
  if (order_ == Order::DESCENDING) return WARP - 1 - std::countl_zero(lanes);
  const int first = static_cast<int>(random.below(WARP));
  return (first + std::countr_zero(std::rotr(lanes, first))) % WARP;
}

void ReadyThreads::swap_ranks(int one, int other) {
  std::swap(rank_of_[one], rank_of_[other]);
  ranks_ &= ~(1u << rank_of_[one] | 1u << rank_of_[other]);
  for (const int warp : {one, other}) {
    warp_at_[rank_of_[warp]] = warp;
    if (lanes_[warp] != 0) ranks_ |= 1u << rank_of_[warp];
  }
}

}  // namespace wemoe::emulator
