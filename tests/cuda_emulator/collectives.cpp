// What lanes of a warp tell one another.

#include "block.h"

namespace wemoe::emulator {

void combine_nothing(void* const*, uint32_t) {}

void combine_shuffles(void* const* operands, uint32_t mask) {
  for (int lane = 0; lane < WARP; lane++) {
    if (!(mask >> lane & 1)) continue;
    auto* shuffle = static_cast<Shuffle*>(operands[lane]);
    if (!(mask >> shuffle->source & 1)) {
      fail("a shuffle reads lane " + std::to_string(shuffle->source) + ", which is not in its mask",
           block.running().location);
    }
    shuffle->result = static_cast<Shuffle*>(operands[shuffle->source])->value;
  }
}

void combine_votes(void* const* operands, uint32_t mask) {
  uint32_t result = 0;
  for (int lane = 0; lane < WARP; lane++) {
    if ((mask >> lane & 1) && static_cast<Vote*>(operands[lane])->value) result |= 1u << lane;
  }
  for (int lane = 0; lane < WARP; lane++) {
    if (mask >> lane & 1) static_cast<Vote*>(operands[lane])->result = result;
  }
}

}  // namespace wemoe::emulator
