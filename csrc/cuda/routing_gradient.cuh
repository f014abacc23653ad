// grad_routing_weights[r, t] = sum over f, d of weight_gradient[r, f, d] * task_vectors[t, f, d], where
// weight_gradient[r] = grad[r]^T x[r] is what a plain linear map of route r alone would have.
//
// A block has a tile of 64 outputs and 64 inputs of up to ROUTES routes. First its warps make the weight
// gradients of these routes, which stay in registers; then every expert's tile comes by once for all of them.
// Both kinds of tiles come through one ring of slots in shared memory, so that the first experts are on their
// way while the last rows are multiplied. A second kernel adds up what the blocks found, in a fixed order.
//
// Blocks are numbered along the groups of routes first: those that run at a time share their tile of the
// experts, so that it comes from device memory once and from L2 after that.

#pragma once

#include "cuda/weight_gradient.cuh"

namespace wemoe::cuda {

template <typename Element>
struct RoutingGradient {
  static constexpr int ROUTES = 8;  // of a block: as many as registers hold
  static constexpr int WARPS = 8;   // 4 along the outputs, 2 along the inputs
  static constexpr int TASKS = 8;   // whose sums leave a block together
  static constexpr int THREADS = 32 * WARPS;

  // A slot holds a slab, or the tiles of as many experts as have room in its place. The bytes on their way,
  // 48 KB, cover the latency of device memory; every GPU of Ampere or later has room for the ring.
  static constexpr int SLOTS = 4, SLOT = 2 * SLAB_ROWS<Element> * GRADIENT_TILE;  // numbers
  static constexpr int TILE = GRADIENT_TILE * GRADIENT_TILE, EXPERTS = SLOT / TILE;
  static_assert(SLOT % TILE == 0 && TASKS % EXPERTS == 0);

  // Sums of each warp, [WARPS, 2 TASKS, ROUTES]: half of them are filled while the others leave.
  static constexpr int SUMS = WARPS * 2 * TASKS * ROUTES;
  static constexpr int SHARED_BYTES =
      SLOTS * SLOT * static_cast<int>(sizeof(Element)) + SUMS * static_cast<int>(sizeof(float));

  const Element* grad;          // [R, M, F]
  const Element* x;             // [R, M, D]
  const Element* task_vectors;  // [T, F, D]
  float* partial;               // [tiles, groups, T, ROUTES]
  int64_t D, F;
  int R, M, T;
  int groups, tiles_across;  // groups of routes; tiles along D
};

// What a block copies, in the order in which it uses it: the slabs of its routes, then its experts' tiles. A
// thread copies the same piece of every few rows, whole periods of the swizzle apart.
template <typename Element>
class GradientFeed {
  using Gradient = RoutingGradient<Element>;
  using Tile = GradientTile<Element>;
  static constexpr int ROWS = Gradient::THREADS / Tile::PIECES;  // that all threads copy at once
  static constexpr int SLAB = SLAB_ROWS<Element>;
  static_assert(SLAB % ROWS == 0 && ROWS % 8 == 0);

 public:
  __device__ __forceinline__ GradientFeed(const Gradient& p, int64_t first_route, int routes,
                                          int64_t first_output, int64_t first_input)
      : row_(threadIdx.x / Tile::PIECES), routes_(p.M > 0 ? routes : 0), tasks_(p.T) {
    const int piece = threadIdx.x % Tile::PIECES;
    const int64_t output = first_output + piece * PIECE<Element>, outputs = p.F - first_output;
    const int64_t input = first_input + piece * PIECE<Element>;
    target_ = Tile::offset(row_, piece);
    last_rows_ = p.M - (p.M - 1) / SLAB * SLAB;
    grad_rows_ = output < p.F ? p.M : 0;
    x_rows_ = input < p.D ? p.M : 0;
    expert_rows_ = input >= p.D ? 0 : outputs < GRADIENT_TILE ? static_cast<int>(outputs) : GRADIENT_TILE;
    grad_ = p.grad + (first_route * p.M + row_) * p.F + output;
    x_ = p.x + (first_route * p.M + row_) * p.D + input;
    expert_ = p.task_vectors + (first_output + row_) * p.D + input;
  }

  // Starts copying what is next, if anything.
  __device__ __forceinline__ void copy(const Gradient& p, Element* slot) {
    if (routes_ > 0) {
      copy_slab(p, slot + target_);
    } else if (tasks_ > 0) {
      copy_experts(p, slot + target_);
    }
    ptx::commit_copies();  // also an empty group, so that groups and slots go together
  }

 private:
  __device__ __forceinline__ void copy_slab(const Gradient& p, Element* target) {
#pragma unroll
    for (int row = 0; row < SLAB; row += ROWS) {
      const int found = first_row_ + row_ + row;
      ptx::copy_async_16(target + row * GRADIENT_TILE, grad_ + row * p.F, found < grad_rows_);
      ptx::copy_async_16(target + (SLAB + row) * GRADIENT_TILE, x_ + row * p.D, found < x_rows_);
    }
    first_row_ += SLAB;
    const bool last = first_row_ >= p.M;  // the next route's rows follow those of this one
    grad_ += last ? last_rows_ * p.F : SLAB * p.F;
    x_ += last ? last_rows_ * p.D : SLAB * p.D;
    if (last) {
      first_row_ = 0;
      routes_--;
    }
  }

  __device__ __forceinline__ void copy_experts(const Gradient& p, Element* target) {
#pragma unroll
    for (int i = 0; i < Gradient::EXPERTS; i++) {
      const int rows = i < tasks_ ? expert_rows_ : 0;
#pragma unroll
      for (int row = 0; row < GRADIENT_TILE; row += ROWS) {
        ptx::copy_async_16(target + row * GRADIENT_TILE, expert_ + row * p.D, row_ + row < rows);
      }
      target += Gradient::TILE;
      expert_ += p.F * p.D;
    }
    tasks_ -= Gradient::EXPERTS;
  }

  int row_, target_;                      // this thread's first row, and where its piece lies in a slot
  int routes_, tasks_;                    // that are not copied to the end
  int first_row_ = 0;                     // of the route's next slab
  int last_rows_;                         // of a route's last slab
  int grad_rows_, x_rows_, expert_rows_;  // that are there, in this thread's column
  const Element *grad_, *x_, *expert_;
};

// Sums of 8 numbers a lane over a warp: lane l returns the sum of number l / 4. Lanes give away half of what
// they have at each step: 9 shuffles in place of 40. All numbers are added in the same order.
__device__ __forceinline__ float sum_over_warp(float (&numbers)[8], int lane) {
#pragma unroll
  for (int half = 4; half > 0; half /= 2) {
    const bool upper = (lane & 4 * half) != 0;
#pragma unroll
    for (int i = 0; i < half; i++) {
      const float kept = upper ? numbers[i + half] : numbers[i];
      const float given = upper ? numbers[i] : numbers[i + half];
      numbers[i] = kept + __shfl_xor_sync(0xffffffffu, given, 4 * half);
    }
  }
  float sum = numbers[0];
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  return sum + __shfl_xor_sync(0xffffffffu, sum, 1);
}

// Lane l returns the sum, over its warp's part, of the weight gradient of route l / 4 times an expert.
template <typename Product>
__device__ __forceinline__ float contract(const Product& part, const float (*weight_gradients)[PART_SUMS],
                                          const typename Product::Element* expert, int lane) {
  constexpr int ROUTES = RoutingGradient<typename Product::Element>::ROUTES;
  float numbers[PART_SUMS], sums[ROUTES] = {};
  part.load(numbers, expert);
#pragma unroll
  for (int i = 0; i < PART_SUMS; i++) {
#pragma unroll
    for (int route = 0; route < ROUTES; route++) {
      sums[route] += weight_gradients[route][i] * numbers[i];
    }
  }
  return sum_over_warp(sums, lane);
}

// Adds up what the warps found for a few tasks, and writes it out: whole sectors of 8 routes.
template <typename Element>
__device__ __forceinline__ void write_sums(const float* sums, int first_task, int tasks, float* partial) {
  using Gradient = RoutingGradient<Element>;
  constexpr int ROUTES = Gradient::ROUTES, TASKS = Gradient::TASKS;
  const int index = threadIdx.x;
  if (index < TASKS * ROUTES && index < tasks * ROUTES) {
    const float* number = sums + first_task % (2 * TASKS) * ROUTES + index;
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < Gradient::WARPS; warp++) {
      sum += number[warp * 2 * TASKS * ROUTES];
    }
    partial[static_cast<int64_t>(first_task) * ROUTES + index] = sum;
  }
}

// Grid: tiles * groups.
template <typename Product>
__global__ void __launch_bounds__(RoutingGradient<typename Product::Element>::THREADS, 1)
    routing_gradient_tiles(const RoutingGradient<typename Product::Element> p) {
  using Element = typename Product::Element;
  using Gradient = RoutingGradient<Element>;
  constexpr int ROUTES = Gradient::ROUTES, TASKS = Gradient::TASKS, SLOTS = Gradient::SLOTS;
  constexpr int EXPERTS = Gradient::EXPERTS;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t tile = blockIdx.x / p.groups;
  const int group = blockIdx.x % p.groups, first_route = group * ROUTES;
  const int64_t first_output = tile / p.tiles_across * GRADIENT_TILE;
  const int64_t first_input = tile % p.tiles_across * GRADIENT_TILE;
  const int routes = min(p.R - first_route, ROUTES);

  Element* ring = reinterpret_cast<Element*>(ptx::dynamic_shared());
  float* sums = reinterpret_cast<float*>(ring + SLOTS * Gradient::SLOT);
  float* partial = p.partial + (tile * p.groups + group) * p.T * ROUTES;
  const auto slot_at = [&](unsigned step) { return ring + step % SLOTS * Gradient::SLOT; };
  GradientFeed<Element> feed(p, first_route, routes, first_output, first_input);
#pragma unroll 1
  for (int slot = 0; slot + 1 < SLOTS; slot++) {
    feed.copy(p, slot_at(slot));
  }
  const Product part(warp / 2 * 16, warp % 2 * 32, lane);
  unsigned step = 0;
  const auto next_slot = [&] {
    ptx::wait_for_copies<SLOTS - 2>();
    __syncthreads();  // the slot is there for all, and the one that is filled next has been used by all
    feed.copy(p, slot_at(step + SLOTS - 1));
    return slot_at(step++);
  };

  float weight_gradients[ROUTES][PART_SUMS] = {};
#pragma unroll
  for (int route = 0; route < ROUTES; route++) {
    if (route < routes) {
      for (int left = p.M; left > 0; left -= SLAB_ROWS<Element>) {
        part.multiply(weight_gradients[route], next_slot(), min(left, SLAB_ROWS<Element>));
      }
    }
  }

  for (int first = 0; first < p.T; first += EXPERTS) {
    const Element* experts = next_slot();
    if (first > 0 && first % TASKS == 0) write_sums<Element>(sums, first - TASKS, TASKS, partial);
#pragma unroll
    for (int i = 0; i < EXPERTS; i++) {
      const int task = first + i;
      if (task < p.T) {
        const float sum = contract(part, weight_gradients, experts + i * Gradient::TILE, lane);
        if (lane % 4 == 0) sums[(warp * 2 * TASKS + task % (2 * TASKS)) * ROUTES + lane / 4] = sum;
      }
    }
  }
  __syncthreads();  // the last sums are there
  const int first_task = (p.T - 1) / TASKS * TASKS;
  write_sums<Element>(sums, first_task, p.T - first_task, partial);
}

// How the second kernel adds up tiles: a thread has every TILE_STRIDE-th tile of one of ROUTES * TASKS sums.
struct TileSums {
  static constexpr int ROUTES = RoutingGradient<float>::ROUTES, TASKS = RoutingGradient<float>::TASKS;
  static constexpr int COLUMNS = ROUTES * TASKS, TILE_STRIDE = 16;
  static constexpr int THREADS = COLUMNS * TILE_STRIDE,
                       SHARED_BYTES = THREADS * static_cast<int>(sizeof(float));

  const float* partial;         // [tiles, groups, T, ROUTES]
  float* grad_routing_weights;  // [R, T]
  int64_t tiles, R, T;
  int groups, task_groups;
};

// Grid: groups * task_groups. A block reads and, where T is a multiple of 8, writes whole sectors.
__global__ void __launch_bounds__(TileSums::THREADS) sum_gradient_tiles(const TileSums p) {
  constexpr int COLUMNS = TileSums::COLUMNS, ROUTES = TileSums::ROUTES, TASKS = TileSums::TASKS;
  float* sums = reinterpret_cast<float*>(ptx::dynamic_shared());  // [TILE_STRIDE, ROUTES, TASKS]
  const int64_t group = blockIdx.x / p.task_groups, first_task = blockIdx.x % p.task_groups * TASKS;
  const int first_tile = threadIdx.x / COLUMNS, column = threadIdx.x % COLUMNS;
  // tasks are turned within their row, so that neither writes nor reads of shared memory meet in a bank
  const auto place = [](int route, int task) { return route * TASKS + (task ^ route); };

  float sum = 0.0f;
  if (first_task + column / ROUTES < p.T) {
    const int64_t stride = p.T * ROUTES * p.groups;  // from one tile to the next
    const float* number = p.partial + first_tile * stride + (group * p.T + first_task) * ROUTES + column;
#pragma unroll 8
    for (int64_t tile = first_tile; tile < p.tiles; tile += TileSums::TILE_STRIDE) {
      sum += *number;
      number += TileSums::TILE_STRIDE * stride;
    }
  }
  sums[first_tile * COLUMNS + place(column % ROUTES, column / ROUTES)] = sum;
  __syncthreads();
  const int route = threadIdx.x / TASKS, task = threadIdx.x % TASKS;
  if (route < ROUTES && group * ROUTES + route < p.R && first_task + task < p.T) {
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < TileSums::TILE_STRIDE; i++) {
      total += sums[i * COLUMNS + place(route, task)];
    }
    p.grad_routing_weights[(group * ROUTES + route) * p.T + first_task + task] = total;
  }
}

}  // namespace wemoe::cuda
