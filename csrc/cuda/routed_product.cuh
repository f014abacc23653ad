// y[r] = x[r] (base + sum_t routing_weights[r, t] experts[t])^T + bias of route r: routed_linear, and with
// the planes turned the gradient of its input. No assembled weight leaves the registers of the warp that
// multiplies it.
//
// The base is plane 0, with the coefficient 1, and expert t is plane t + 1. Blocks are numbered along the
// rows first: those that run at a time share their outputs, so that a plane comes from device memory once and
// from L2 after that.

#pragma once

#include "cuda/products.cuh"
#include "cuda/routed_plan.h"

namespace wemoe::cuda {

constexpr int WARP_COLUMNS = COLUMNS / RoutedPlan::GROUP_WARPS;
static_assert(WARP_COLUMNS == 16 && COLUMNS == RoutedPlan::COLUMNS && STEP == RoutedPlan::STEP);

// Threads, units and rows of a block of GROUPS groups whose units have TILES tiles.
template <int GROUPS_, int TILES_>
struct Block {
  static constexpr int GROUPS = GROUPS_, TILES = TILES_;
  static constexpr int THREADS = 32 * RoutedPlan::GROUP_WARPS * GROUPS;
  static constexpr int UNIT_ROWS = TILES * RoutedPlan::TILE_ROWS;
  static constexpr int GROUP_UNITS = RoutedPlan::GROUP_ROWS / UNIT_ROWS;  // which each of its warps has
  static constexpr int UNITS = GROUPS * GROUP_UNITS, ROWS = GROUPS * RoutedPlan::GROUP_ROWS;
};

template <typename Element>
struct RoutedProduct {
  const Element* x;              // [R, M, K]
  const Element* base;           // [N, K], or turned [K, N]
  const Element* experts;        // [T, N, K], or turned [T, K, N]
  const float* routing_weights;  // [R, T]
  const Element* bias;           // [N] or null
  const Element* expert_biases;  // [T, N] or null
  Element* y;                    // [R, M, N]
  int64_t R, M, K, N, T;
  RoutedPlan plan;
};

// Rows of one route, 16 TILES of them at most.
struct alignas(16) Unit {
  int64_t x_start;  // of its first row in x and in y, in numbers
  int rows;         // 0 if the unit is not there
  int64_t y_start;
};

// What a block keeps in shared memory.
template <typename Block>
struct RoutedShared {
  static constexpr int UNITS = Block::UNITS;

  Unit* units;           // [UNITS]
  float* biases;         // [UNITS, COLUMNS]
  float* coefficients;   // [T + 1, UNITS]
  float* scratch;        // [WARPS, SCRATCH]
  unsigned char* slots;  // [slots, slot_bytes], in the end rows of y

  __device__ __forceinline__ RoutedShared(int64_t T, int scratch_floats) {
    static_assert(sizeof(Unit) == RoutedPlan::UNIT_BYTES);
    unsigned char* next = ptx::dynamic_shared();
    units = reinterpret_cast<Unit*>(next);
    biases = reinterpret_cast<float*>(units + UNITS);
    coefficients = biases + UNITS * COLUMNS;
    scratch = coefficients + (UNITS * (T + 1) + 31) / 32 * 32;
    slots = reinterpret_cast<unsigned char*>(scratch + scratch_floats);
  }
};

// Finds the block's units, and the coefficients of their planes.
template <typename Block, typename Element>
__device__ __forceinline__ void find_units(const RoutedProduct<Element>& p, RoutedShared<Block> shared) {
  constexpr int UNITS = Block::UNITS;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * UNITS, units = p.R * p.plan.route_units;
  if (threadIdx.x < UNITS) {
    const int64_t unit = first + threadIdx.x, row = unit % p.plan.route_units * p.plan.unit_rows;
    const int64_t rows = p.M - row < p.plan.unit_rows ? p.M - row : p.plan.unit_rows;
    const int64_t first_row = unit / p.plan.route_units * p.M + row;
    shared.units[threadIdx.x] = {first_row * p.K, unit < units ? static_cast<int>(rows) : 0, first_row * p.N};
  }
  for (int64_t i = threadIdx.x; i < (p.T + 1) * UNITS; i += Block::THREADS) {
    const int64_t plane = i / UNITS, unit = first + i % UNITS;
    const float* weights = p.routing_weights + unit / p.plan.route_units * p.T;
    shared.coefficients[i] = plane == 0 ? 1.0f : unit < units ? weights[plane - 1] : 0.0f;
  }
}

// Every unit's bias; the coefficients are there.
template <typename Block, typename Element>
__device__ __forceinline__ void merge_biases(const RoutedProduct<Element>& p, int64_t first_column,
                                             RoutedShared<Block> shared) {
  for (int i = threadIdx.x; i < Block::UNITS * COLUMNS; i += Block::THREADS) {
    const int64_t column = first_column + i % COLUMNS;
    float bias = 0.0f;
    if (p.bias != nullptr && column < p.N) {
      bias = widen(p.bias[column]);
      if (p.expert_biases != nullptr) {
        for (int64_t t = 0; t < p.T; t++) {
          bias += shared.coefficients[(t + 1) * Block::UNITS + i / COLUMNS] *
                  widen(p.expert_biases[t * p.N + column]);
        }
      }
    }
    shared.biases[i] = bias;
  }
}

// The pieces of the units' rows that a thread copies: the same inputs of several rows.
template <typename Element, typename Block>
struct RowPieces {
  static constexpr int PIECES = STEP / PIECE<Element>;
  static constexpr int OWN = Block::ROWS * PIECES / Block::THREADS;
  static constexpr int ROWS =
      Block::THREADS / PIECES;  // from one own row to the next: whole periods of the swizzle

  int input;              // of the step
  int target;             // of the first one in the tile
  uint32_t sources[OWN];  // in x from the first input of the step, in pieces: an x of 64 GB can be told
  uint32_t there = 0;     // a bit for each: the row is

  __device__ __forceinline__ RowPieces(const RoutedProduct<Element>& p, RoutedShared<Block> shared) {
    const int first_row = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
    input = piece * PIECE<Element>;
    target = Tile<Element, STEP>::offset(first_row, piece);
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      const int row = first_row + i * ROWS, unit_row = row % Block::UNIT_ROWS;
      const Unit& unit = shared.units[row / Block::UNIT_ROWS];
      sources[i] = static_cast<uint32_t>((unit.x_start + unit_row * p.K + input) / PIECE<Element>);
      there |= static_cast<uint32_t>(unit_row < unit.rows) << i;
    }
  }

  __device__ __forceinline__ void copy(const RoutedProduct<Element>& p, int64_t first_input,
                                       Element* slot) const {
    const uint32_t valid = first_input + input < p.K ? there : 0;
    const Element* first = p.x + first_input;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      const Element* source = first + static_cast<int64_t>(sources[i]) * PIECE<Element>;
      ptx::copy_async_16(slot + target + i * ROWS * STEP, source, valid >> i & 1);
    }
  }
};

// The pieces of a plane's tile that a thread copies: one of every TOGETHER-th plane, or several of every
// plane.
template <typename Element, typename Block, bool TURNED>
struct PlanePieces {
  using PlaneTile = Tile<Element, TURNED ? COLUMNS : STEP>;
  static constexpr int PIECES = STEP * COLUMNS / PIECE<Element>;
  static constexpr int TOGETHER = Block::THREADS > PIECES ? Block::THREADS / PIECES : 1;
  static constexpr int OWN = Block::THREADS < PIECES ? PIECES / Block::THREADS : 1;
  // from one own piece to the next, whole periods of the swizzle further on
  static constexpr int ROWS = Block::THREADS / PlaneTile::PIECES;

  int first_plane;  // of the first TOGETHER
  int row, along;   // of the first piece, in numbers
  int target;       // in the tile
  int64_t source;   // in the plane, from the first input of the step
  int64_t first_column, stride;

  __device__ __forceinline__ PlanePieces(const RoutedProduct<Element>& p, int64_t first_column)
      : first_column(first_column), stride(p.N * p.K) {
    const int index = threadIdx.x % PIECES, piece = index % PlaneTile::PIECES;
    first_plane = threadIdx.x / PIECES;
    row = index / PlaneTile::PIECES;
    along = piece * PIECE<Element>;
    target = PlaneTile::offset(row, piece) + first_plane * STEP * COLUMNS;
    source = TURNED ? row * p.N + first_column + along : (first_column + row) * p.K + along;
  }

  // Starts copying planes first to last - 1 of the inputs from first_input on.
  __device__ __forceinline__ void copy(const RoutedProduct<Element>& p, int64_t first_input, int first,
                                       int last, Element* slot) const {
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      const int64_t input = first_input + (TURNED ? row + i * ROWS : along);
      const int64_t column = first_column + (TURNED ? along : row + i * ROWS);
      const bool valid = input < p.K && column < p.N;
      const int64_t start = source + first_input * (TURNED ? p.N : 1) + i * ROWS * (TURNED ? p.N : p.K);
      Element* tile = slot + target + i * ROWS * PlaneTile::PIECES * PIECE<Element>;
      int plane = first + first_plane;
      const Element* expert = p.experts + (start + (plane - 1) * stride);
      for (; plane < last; plane += TOGETHER) {
        ptx::copy_async_16(tile, plane == 0 ? p.base + start : expert, valid);
        expert += TOGETHER * stride;
        tile += TOGETHER * STEP * COLUMNS;
      }
    }
  }
};

__device__ __forceinline__ void wait_for_slot(int slots) {
  if (slots == 2) ptx::wait_for_copies<0>();
  if (slots == 3) ptx::wait_for_copies<1>();
  if (slots == 4) ptx::wait_for_copies<2>();
}

// The rows of one group, on their way from registers to y.
template <typename Block, typename Element>
__device__ __forceinline__ void stage_sums(const float (&sums)[Block::GROUP_UNITS][Block::TILES][8],
                                           int first_unit, int column, RoutedShared<Block> shared,
                                           Tile<Element, COLUMNS> stage) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int unit = 0; unit < Block::GROUP_UNITS; unit++) {
#pragma unroll
    for (int tile = 0; tile < Block::TILES; tile++) {
#pragma unroll
      for (int pair = 0; pair < 4; pair++) {
        const int row = (unit * Block::TILES + tile) * 16 + lane / 4 + 8 * (pair % 2);
        const int output = column + 8 * (pair / 2) + lane % 4 * 2;
        const float* bias = shared.biases + (first_unit + unit) * COLUMNS + output;
        store_pair(stage.number(row, output), sums[unit][tile][2 * pair] + bias[0],
                   sums[unit][tile][2 * pair + 1] + bias[1]);
      }
    }
  }
}

template <typename Block, typename Element>
__device__ __forceinline__ void store_rows(const RoutedProduct<Element>& p, int first_unit,
                                           int64_t first_column, RoutedShared<Block> shared,
                                           Tile<Element, COLUMNS> stage) {
  constexpr int PIECES = COLUMNS / PIECE<Element>;
  for (int index = threadIdx.x; index < RoutedPlan::GROUP_ROWS * PIECES; index += Block::THREADS) {
    const int row = index / PIECES, piece = index % PIECES, unit_row = row % Block::UNIT_ROWS;
    const Unit& unit = shared.units[first_unit + row / Block::UNIT_ROWS];
    const int64_t column = first_column + piece * PIECE<Element>;
    if (unit_row < unit.rows && column < p.N) {
      Element* target = p.y + unit.y_start + (unit_row * p.N + column);
      *reinterpret_cast<uint4*>(target) = *reinterpret_cast<const uint4*>(stage.piece(row, piece));
    }
  }
}

// Grid: groups of the block's units, by 64 outputs.
template <typename Product, typename Block, bool TURNED>
__global__ void __launch_bounds__(Block::THREADS, 2 / Block::GROUPS)
    routed_product(const RoutedProduct<typename Product::Element> p) {
  using Element = typename Product::Element;
  constexpr int GROUP_UNITS = Block::GROUP_UNITS, TILES = Block::TILES, X = Block::ROWS * STEP;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / RoutedPlan::GROUP_WARPS;
  const int column = warp % RoutedPlan::GROUP_WARPS * WARP_COLUMNS, first_unit = group * GROUP_UNITS;
  const int64_t first_column = static_cast<int64_t>(blockIdx.y) * COLUMNS;
  const RoutedShared<Block> shared(p.T, RoutedPlan::GROUP_WARPS * Block::GROUPS * Product::SCRATCH);
  float* scratch = shared.scratch + warp * Product::SCRATCH;
  find_units(p, shared);
  __syncthreads();
  merge_biases(p, first_column, shared);

  // What is copied next; a slot holds the last planes of its inputs together with the rows.
  const RowPieces<Element, Block> row_pieces(p, shared);
  const PlanePieces<Element, Block, TURNED> plane_pieces(p, first_column);
  const int planes = static_cast<int>(p.T) + 1;
  int64_t next_input = 0;
  int next_plane = 0, next_slot = 0;
  const auto slot_at = [&](int slot) {
    return reinterpret_cast<Element*>(shared.slots + slot * p.plan.slot_bytes);
  };
  const auto copy_slot = [&] {
    if (next_input < p.K) {
      Element* slot = slot_at(next_slot);
      const int last = min(next_plane + p.plan.planes, planes);
      plane_pieces.copy(p, next_input, next_plane, last, slot + X);
      next_plane = last;
      if (next_plane == planes) {
        row_pieces.copy(p, next_input, slot);
        next_plane = 0;
        next_input += STEP;
      }
      next_slot = next_slot + 1 == p.plan.slots ? 0 : next_slot + 1;
    }
    ptx::commit_copies();  // also an empty group, so that groups and slots go together
  };
  for (int slot = 0; slot + 1 < p.plan.slots; slot++) {
    copy_slot();
  }

  int tiles[GROUP_UNITS];
  float sums[GROUP_UNITS][TILES][8] = {}, weights[GROUP_UNITS][8] = {};
#pragma unroll
  for (int unit = 0; unit < GROUP_UNITS; unit++) {
    tiles[unit] = (shared.units[first_unit + unit].rows + 15) / 16;
  }
  int slot_index = 0;
  for (int64_t input = 0; input < p.K; input += STEP) {
    Element* slot = nullptr;
    for (int first_plane = 0; first_plane < planes; first_plane += p.plan.planes) {
      wait_for_slot(p.plan.slots);
      __syncthreads();  // the slot is there for all, and the one that is filled next has been used by all
      copy_slot();
      slot = slot_at(slot_index);
      slot_index = slot_index + 1 == p.plan.slots ? 0 : slot_index + 1;
      Element* plane = slot + X;
      const float* coefficients = shared.coefficients + first_plane * Block::UNITS + first_unit;
#pragma unroll 3
      for (int left = min(p.plan.planes, planes - first_plane); left > 0; left--) {
        float numbers[8];
        Product::template load<TURNED>(numbers, {plane}, column, lane);
#pragma unroll
        for (int unit = 0; unit < GROUP_UNITS; unit++) {
#pragma unroll
          for (int k = 0; k < 8; k++) {
            weights[unit][k] += coefficients[unit] * numbers[k];
          }
        }
        plane += STEP * COLUMNS;
        coefficients += Block::UNITS;
      }
    }
#pragma unroll
    for (int unit = 0; unit < GROUP_UNITS; unit++) {
      const Tile<Element, STEP> x{slot + (first_unit + unit) * Block::UNIT_ROWS * STEP};
      Product::multiply(sums[unit], weights[unit], x, tiles[unit], scratch, lane);
#pragma unroll
      for (int k = 0; k < 8; k++) {
        weights[unit][k] = 0.0f;
      }
    }
  }

  ptx::wait_for_copies<0>();
  for (int stored = 0; stored < Block::GROUPS; stored++) {
    const Tile<Element, COLUMNS> stage{slot_at(0)};
    __syncthreads();  // the slots, and then the rows that were stored before, have been used by all
    if (group == stored) stage_sums<Block>(sums, first_unit, column, shared, stage);
    __syncthreads();
    store_rows(p, stored * GROUP_UNITS, first_column, shared, stage);
  }
}

}  // namespace wemoe::cuda
