// Launches the kernels of routing_gradient.h.

#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/routing_gradient.cuh"
#include "cuda/routing_gradient.h"

namespace wemoe::cuda {
namespace {

constexpr int64_t MOST_BLOCKS = 0x7fffffff;
constexpr int64_t MOST = 1 << 30;  // of what kernels count in 32 bits: routes, rows, tasks
constexpr int ROUTES = TileSums::ROUTES;

int64_t route_groups(const Sizes& sizes) { return divide_up(sizes.R, ROUTES); }
int64_t task_groups(const Sizes& sizes) { return divide_up(sizes.T, TileSums::TASKS); }
int64_t tiles_across(const Sizes& sizes) { return divide_up(sizes.D, GRADIENT_TILE); }
int64_t tiles(const Sizes& sizes) { return divide_up(sizes.F, GRADIENT_TILE) * tiles_across(sizes); }

template <typename Product, typename Element>
cudaError_t launch_tiles(const RoutingGradient<Element>& p, int64_t blocks, cudaStream_t stream) {
  return launch(routing_gradient_tiles<Product>, dim3(static_cast<unsigned>(blocks)),
                RoutingGradient<Element>::THREADS, RoutingGradient<Element>::SHARED_BYTES, stream, p);
}

template <typename Element>
cudaError_t choose_product(const RoutingGradient<Element>& p, int64_t blocks, bool, cudaStream_t stream) {
  return launch_tiles<HalfWeightGradient<Element>>(p, blocks, stream);
}

cudaError_t choose_product(const RoutingGradient<float>& p, int64_t blocks, bool tf32, cudaStream_t stream) {
  return tf32 ? launch_tiles<Tf32WeightGradient>(p, blocks, stream)
              : launch_tiles<FloatWeightGradient>(p, blocks, stream);
}

}  // namespace

bool routing_gradient_fits(const Sizes& sizes, int element_bytes, const Device& device) {
  const int64_t piece = 16 / element_bytes;
  const int64_t shared_bytes =
      element_bytes == 4 ? RoutingGradient<float>::SHARED_BYTES : RoutingGradient<__half>::SHARED_BYTES;
  const int64_t blocks = route_groups(sizes) * std::max(tiles(sizes), task_groups(sizes));
  return device.capability >= 80 && shared_bytes <= device.shared_bytes && sizes.D % piece == 0 &&
         sizes.F % piece == 0 && sizes.T >= 1 && std::max({sizes.R, sizes.M, sizes.T}) <= MOST &&
         blocks <= MOST_BLOCKS;
}

int64_t routing_gradient_workspace(const Sizes& sizes) {
  return tiles(sizes) * route_groups(sizes) * sizes.T * ROUTES;
}

template <typename Element>
cudaError_t routing_gradient(const Sizes& sizes, const Element* grad, const Element* x,
                             const Element* task_vectors, float* workspace, float* grad_routing_weights,
                             bool tf32, const Device&, cudaStream_t stream) {
  if (sizes.R == 0) return cudaSuccess;
  const auto count = [](int64_t number) { return static_cast<int>(number); };
  const int groups = count(route_groups(sizes)), tasks = count(task_groups(sizes));
  if (tiles(sizes) > 0) {
    const RoutingGradient<Element> p{grad,
                                     x,
                                     task_vectors,
                                     workspace,
                                     sizes.D,
                                     sizes.F,
                                     count(sizes.R),
                                     count(sizes.M),
                                     count(sizes.T),
                                     groups,
                                     count(tiles_across(sizes))};
    const auto error = choose_product(p, tiles(sizes) * groups, tf32, stream);
    if (error != cudaSuccess) return error;
  }
  const TileSums sums{workspace, grad_routing_weights, tiles(sizes), sizes.R, sizes.T, groups, tasks};
  const dim3 grid(static_cast<unsigned>(static_cast<int64_t>(groups) * tasks));
  return launch(sum_gradient_tiles, grid, TileSums::THREADS, TileSums::SHARED_BYTES, stream, sums);
}

#define WEMOE_INSTANTIATE(ELEMENT)                                                                    \
  template cudaError_t routing_gradient(const Sizes&, const ELEMENT*, const ELEMENT*, const ELEMENT*, \
                                        float*, float*, bool, const Device&, cudaStream_t);
WEMOE_INSTANTIATE(float)
WEMOE_INSTANTIATE(__half)
WEMOE_INSTANTIATE(__nv_bfloat16)
#undef WEMOE_INSTANTIATE

}  // namespace wemoe::cuda
