// Chooses and launches the kernels of routed_linear.h.

#include "cuda/launch.cuh"
#include "cuda/routed_linear.h"
#include "cuda/routed_product.cuh"

namespace wemoe::cuda {
namespace {

template <typename Product, typename Element>
RoutedPlan plan_product(const RoutedProduct<Element>& p, const Device& device) {
  constexpr int element_bytes = sizeof(Element), scratch_bytes = Product::SCRATCH * sizeof(float);
  return plan_routed_product({p.R, p.M, p.N, p.T, element_bytes, scratch_bytes}, device);
}

template <typename Product, typename Block, bool TURNED, typename Element>
cudaError_t launch_blocks(const RoutedProduct<Element>& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.plan.blocks_along), static_cast<unsigned>(p.plan.blocks_across));
  return launch(routed_product<Product, Block, TURNED>, grid, Block::THREADS, p.plan.shared_bytes, stream, p);
}

template <typename Product, int GROUPS, bool TURNED, typename Element>
cudaError_t launch_groups(const RoutedProduct<Element>& p, cudaStream_t stream) {
  if (p.plan.tiles == 4) return launch_blocks<Product, Block<GROUPS, 4>, TURNED>(p, stream);
  if (p.plan.tiles == 8) return launch_blocks<Product, Block<GROUPS, 8>, TURNED>(p, stream);
  return launch_blocks<Product, Block<GROUPS, 16>, TURNED>(p, stream);
}

template <typename Product, bool TURNED, typename Element>
cudaError_t launch_product(RoutedProduct<Element> p, const Device& device, cudaStream_t stream) {
  p.plan = plan_product<Product>(p, device);
  return p.plan.groups == 1 ? launch_groups<Product, 1, TURNED>(p, stream)
                            : launch_groups<Product, 2, TURNED>(p, stream);
}

template <bool TURNED, typename Element>
cudaError_t choose_product(const RoutedProduct<Element>& p, bool, const Device& device, cudaStream_t stream) {
  return launch_product<HalfProduct<Element>, TURNED>(p, device, stream);
}

template <bool TURNED>
cudaError_t choose_product(const RoutedProduct<float>& p, bool tf32, const Device& device,
                           cudaStream_t stream) {
  return tf32 ? launch_product<Tf32Product, TURNED>(p, device, stream)
              : launch_product<FloatProduct, TURNED>(p, device, stream);
}

}  // namespace

bool routed_linear_fits(const Sizes& sizes, int element_bytes, const Device& device) {
  const int64_t piece = 16 / element_bytes, N = std::max(sizes.D, sizes.F);
  const int scratch_bytes = element_bytes == 4 ? FloatProduct::SCRATCH * sizeof(float) : 0;
  const auto plan = plan_routed_product({sizes.R, sizes.M, N, sizes.T, element_bytes, scratch_bytes}, device);
  const int64_t pieces =
      sizes.R * sizes.M * N / piece;  // of x or of its gradient, which kernels count in 32 bits
  return pieces <= 0xffffffff && device.capability >= 80 && sizes.D % piece == 0 && sizes.F % piece == 0 &&
         plan.fits(device);
}

template <typename Element>
cudaError_t routed_linear(const Sizes& sizes, const Element* x, const Element* weight,
                          const Element* task_vectors, const float* routing_weights, const Element* bias,
                          const Element* task_biases, Element* y, bool tf32, const Device& device,
                          cudaStream_t stream) {
  const RoutedProduct<Element> p{x,       weight,  task_vectors, routing_weights, bias,    task_biases, y,
                                 sizes.R, sizes.M, sizes.D,      sizes.F,         sizes.T, {}};
  return choose_product<false>(p, tf32, device, stream);
}

template <typename Element>
cudaError_t grad_x(const Sizes& sizes, const Element* grad, const Element* weight,
                   const Element* task_vectors, const float* routing_weights, Element* grad_x, bool tf32,
                   const Device& device, cudaStream_t stream) {
  const RoutedProduct<Element> p{grad,    weight,  task_vectors, routing_weights, nullptr, nullptr, grad_x,
                                 sizes.R, sizes.M, sizes.F,      sizes.D,         sizes.T, {}};
  return choose_product<true>(p, tf32, device, stream);
}

#define WEMOE_INSTANTIATE(ELEMENT)                                                                        \
  template cudaError_t routed_linear(const Sizes&, const ELEMENT*, const ELEMENT*, const ELEMENT*,        \
                                     const float*, const ELEMENT*, const ELEMENT*, ELEMENT*, bool,        \
                                     const Device&, cudaStream_t);                                        \
  template cudaError_t grad_x(const Sizes&, const ELEMENT*, const ELEMENT*, const ELEMENT*, const float*, \
                              ELEMENT*, bool, const Device&, cudaStream_t);
WEMOE_INSTANTIATE(float)
WEMOE_INSTANTIATE(__half)
WEMOE_INSTANTIATE(__nv_bfloat16)
#undef WEMOE_INSTANTIATE

}  // namespace wemoe::cuda
