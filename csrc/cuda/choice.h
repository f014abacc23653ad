// Which of the two implementations of routed_linear runs: the fused kernels, or samples in chunks by cuBLAS.
// On the host, without torch.
//
// Both times are predictions, from published rates and from counts of instructions; no GPU has measured them
// yet. WEMOE_CUDA_ROUTED_LINEAR overrides them.

#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cuda/routed_plan.h"

namespace wemoe::cuda {

enum class Path { FUSED, CHUNKED };

// What a product's factors are rounded to.
enum class Factors { HALF, TF32, FLOAT };

// A path for each of these words, and none for "auto".
struct Wanted {
  std::optional<Path> path;
};

// What WEMOE_CUDA_ROUTED_LINEAR says, or nothing where it says something else.
inline std::optional<Wanted> parse_wanted(std::string_view text) {
  if (text == "auto") return Wanted{};
  if (text == "fused") return Wanted{Path::FUSED};
  if (text == "chunked") return Wanted{Path::CHUNKED};
  return std::nullopt;
}

// The rule of the fused kernels that is broken, with what was found; empty if none is. Whether they fit is
// their launchers' word; here it is said why they do not.
inline std::string broken_rule(bool fits, const Sizes& sizes, int element_bytes, const Device& device) {
  if (fits) return "";
  const auto text = [](int64_t number) { return std::to_string(number); };
  const int64_t piece = 16 / element_bytes;
  if (device.capability < 80) {
    return "a GPU of compute capability 8.0 or later. Found " + text(device.capability / 10) + "." +
           text(device.capability % 10);
  }
  if (sizes.D % piece != 0 || sizes.F % piece != 0) {
    return "D and F that are multiples of " + text(piece) + ", 16 bytes. Found D = " + text(sizes.D) +
           ", F = " + text(sizes.F);
  }
  return "sizes that fit a launch and the shared memory of a block, " + text(device.shared_bytes) +
         " bytes. Found R = " + text(sizes.R) + ", M = " + text(sizes.M) + ", D = " + text(sizes.D) +
         ", F = " + text(sizes.F) + ", T = " + text(sizes.T);
}

// Instructions of a warp in one step of the fused kernels: for its share of the copies, for each plane and
// for each plane and unit. Two warps share a scheduler, which starts one instruction a cycle.
constexpr double PREDICTED_COPY = 190, PREDICTED_PLANE = 12, PREDICTED_PLANE_UNIT = 8;
constexpr double PREDICTED_WARPS = 2;
// The same for a tile of 16 rows, inputs and outputs: twice the products of 16 x 8 in TF32; without tensor
// cores 128 of FFMA and what loads their factors.
constexpr double PREDICTED_TILE_HALF = 9, PREDICTED_TILE_TF32 = 18, PREDICTED_TILE_FLOAT = 160;
// Of a multiprocessor that has a single group: nothing hides its latencies.
constexpr double PREDICTED_ALONE = 0.75;
// Bytes that chunks cost for each byte of an assembled weight: written, and read by the product, past L2 in
// part.
constexpr double PREDICTED_CHUNK_BYTES = 1.5;
// Bytes of device memory a cycle and multiprocessor (A100: 13, H100: 14), and launches, in cycles.
constexpr double PREDICTED_BYTES_PER_CYCLE = 14, PREDICTED_LAUNCH_CYCLES = 6000;
// Multiplications and additions a cycle and multiprocessor of a batched product at these sizes: about half of
// A100's 1024 and 512 on tensor cores, and most of the 128 of fp32.
constexpr double PREDICTED_PRODUCTS_HALF = 512, PREDICTED_PRODUCTS_TF32 = 256, PREDICTED_PRODUCTS_FLOAT = 100;

constexpr double predict_tile(Factors factors) {
  return factors == Factors::HALF   ? PREDICTED_TILE_HALF
         : factors == Factors::TF32 ? PREDICTED_TILE_TF32
                                    : PREDICTED_TILE_FLOAT;
}

constexpr double predict_products(Factors factors) {
  return factors == Factors::HALF   ? PREDICTED_PRODUCTS_HALF
         : factors == Factors::TF32 ? PREDICTED_PRODUCTS_TF32
                                    : PREDICTED_PRODUCTS_FLOAT;
}

constexpr int bytes_of(Factors factors) { return factors == Factors::HALF ? 2 : 4; }

inline double predict_fused_cycles(const Sizes& sizes, Factors factors, const Device& device) {
  const auto plan = plan_routed_product({sizes.R, sizes.M, sizes.F, sizes.T, bytes_of(factors), 0}, device);
  const auto steps = static_cast<double>(divide_up(sizes.D, RoutedPlan::STEP));
  const int units = 16 / plan.tiles;  // of a warp
  const int64_t tiles = divide_up(plan.unit_rows, 4 * RoutedPlan::TILE_ROWS) * 4 * units;
  const auto planes = static_cast<double>(sizes.T + 1);
  const double step = PREDICTED_WARPS * (PREDICTED_COPY + predict_tile(factors) * static_cast<double>(tiles) +
                                         (PREDICTED_PLANE + PREDICTED_PLANE_UNIT * units) * planes);
  const int64_t groups = plan.blocks_along * plan.blocks_across * plan.groups;
  const int64_t rounds = divide_up(groups, 2 * static_cast<int64_t>(device.multiprocessors));
  const double busy = groups <= device.multiprocessors ? PREDICTED_ALONE : static_cast<double>(rounds);
  return steps * step * busy + PREDICTED_LAUNCH_CYCLES;
}

inline double predict_chunked_cycles(const Sizes& sizes, Factors factors, const Device& device) {
  const double weights = static_cast<double>(sizes.F) * static_cast<double>(sizes.D);
  const double bytes = weights * bytes_of(factors), routes = static_cast<double>(sizes.R);
  const auto chunk =
      std::max<int64_t>(static_cast<int64_t>(static_cast<double>(device.l2_bytes) / 2 / bytes), 1);
  const auto chunks = static_cast<double>(divide_up(sizes.R, chunk));
  const double moved =
      chunks * static_cast<double>(sizes.T + 1) * bytes + routes * PREDICTED_CHUNK_BYTES * bytes;
  const double products = routes * static_cast<double>(sizes.M) * weights;
  return (moved / PREDICTED_BYTES_PER_CYCLE + products / predict_products(factors)) / device.multiprocessors +
         2 * chunks * PREDICTED_LAUNCH_CYCLES;
}

// Which implementation runs. For grad_x, D and F of the sizes trade places; no size is zero where fused
// kernels fit.
inline Path choose_path(Wanted wanted, bool fits, const Sizes& sizes, Factors factors, const Device& device) {
  if (!fits) return Path::CHUNKED;
  if (wanted.path) return *wanted.path;
  return predict_fused_cycles(sizes, factors, device) <= predict_chunked_cycles(sizes, factors, device)
             ? Path::FUSED
             : Path::CHUNKED;
}

}  // namespace wemoe::cuda
