// How a routed product is divided among blocks. On the host, without CUDA.
//
// A unit is up to 16 TILES rows of one route: what one set of assembled weights is used for. A warp takes
// four units of four tiles, two of eight or one of sixteen, always 256 rows, and 16 outputs; four warps
// beside each other share these rows, and one or two such groups are a block. A block reads each plane of
// weights (the base, the experts) once for all its units. Inputs come in steps of 16, in each step a few
// planes at a time into one of several slots of shared memory, while those of earlier slots are added up and
// multiplied. How a unit's numbers are summed depends neither on the number of groups nor on other units.

#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/device.h"

namespace wemoe::cuda {

struct RoutedPlan {
  static constexpr int GROUP_ROWS = 256, GROUP_WARPS = 4, TILE_ROWS = 16, COLUMNS = 64, STEP = 16;
  static constexpr int MOST_SLOTS = 4, UNIT_BYTES = 32;
  static constexpr int64_t MOST_BLOCKS_ALONG = 0x7fffffff, MOST_BLOCKS_ACROSS = 0xffff;

  int groups;           // of warps, 1 or 2
  int tiles;            // of a unit: 4, 8 or 16
  int64_t unit_rows;    // at most 16 * tiles, a multiple of 16
  int64_t route_units;  // of each route
  int64_t blocks_along, blocks_across;
  int planes;  // of a slot
  int slots;   // of shared memory; fewer than 2 where they do not fit
  int64_t slot_bytes;
  int64_t shared_bytes;  // of a block

  int units() const { return groups * GROUP_ROWS / (TILE_ROWS * tiles); }
  bool fits(const Device& device) const {
    return slots >= 2 && shared_bytes <= device.shared_bytes && blocks_along <= MOST_BLOCKS_ALONG &&
           blocks_across <= MOST_BLOCKS_ACROSS;
  }
};

// What a product asks of its plan: R routes of M rows, N outputs, T experts.
struct RoutedWork {
  int64_t R, M, N, T;
  int element_bytes;
  int warp_scratch_bytes;  // of shared memory, for its way of multiplying
};

// A plan for one or two groups a block.
inline RoutedPlan plan_groups(const RoutedWork& work, int groups, const Device& device) {
  RoutedPlan plan{};
  plan.groups = groups;
  const int64_t tiles = std::max<int64_t>(divide_up(work.M, RoutedPlan::TILE_ROWS), 1);
  plan.tiles = tiles <= 4 ? 4 : tiles <= 8 ? 8 : 16;
  plan.route_units = divide_up(tiles, plan.tiles);
  plan.unit_rows = divide_up(tiles, plan.route_units) * RoutedPlan::TILE_ROWS;
  plan.blocks_along = divide_up(work.R * plan.route_units, plan.units());
  plan.blocks_across = divide_up(work.N, RoutedPlan::COLUMNS);

  // kept through all steps: the units, their merged biases, their planes' coefficients
  const int64_t units = plan.units(), coefficients = divide_up(4 * units * (work.T + 1), 128) * 128;
  const int64_t kept = units * (RoutedPlan::UNIT_BYTES + 4 * RoutedPlan::COLUMNS) + coefficients +
                       groups * RoutedPlan::GROUP_WARPS * work.warp_scratch_bytes;
  // a block of one group leaves room for another on its multiprocessor, where there is more than 100 KB; the
  // driver keeps 1 KB of each
  const int64_t room = (groups == 1 ? device.shared_bytes / 2 - 1024 : device.shared_bytes) - kept;
  const int64_t x_bytes = groups * RoutedPlan::GROUP_ROWS * RoutedPlan::STEP * work.element_bytes;
  const int64_t plane_bytes = RoutedPlan::COLUMNS * RoutedPlan::STEP * work.element_bytes;
  const int64_t most_planes = std::clamp<int64_t>((room / 2 - x_bytes) / plane_bytes, 0, work.T + 1);
  if (most_planes == 0) return plan;
  plan.planes = static_cast<int>(divide_up(work.T + 1, divide_up(work.T + 1, most_planes)));
  plan.slot_bytes = x_bytes + plan.planes * plane_bytes;
  plan.slots = static_cast<int>(std::min<int64_t>(room / plan.slot_bytes, RoutedPlan::MOST_SLOTS));
  // in the end the rows of one group at a time pass through the slots on their way out
  const int64_t staged = RoutedPlan::GROUP_ROWS * RoutedPlan::COLUMNS * work.element_bytes;
  plan.shared_bytes = kept + std::max(plan.slots * plan.slot_bytes, staged);
  return plan;
}

// Two groups share planes, so that experts are read half as often; but one where two would leave
// multiprocessors without work.
inline RoutedPlan plan_routed_product(const RoutedWork& work, const Device& device) {
  const auto two = plan_groups(work, 2, device), one = plan_groups(work, 1, device);
  const bool few = two.blocks_along * two.blocks_across < device.multiprocessors;
  return one.fits(device) && (few || !two.fits(device)) ? one : two;
}

}  // namespace wemoe::cuda
