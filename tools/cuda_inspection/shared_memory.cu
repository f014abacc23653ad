// Prints the dynamic shared memory that launchers ask for, from their own functions: lines of "capability
// bytes kernel". Where it depends on sizes, these are a ViT's with eight tasks.

#include <cxxabi.h>

#include <cstdio>
#include <string>
#include <typeinfo>

#include "cuda/routed_product.cuh"
#include "cuda/routing_gradient.cuh"
#include "devices.h"

using namespace wemoe::cuda;

template <typename Type>
static std::string name_of() {
  int status = 0;
  char* name = abi::__cxa_demangle(typeid(Type).name(), nullptr, nullptr, &status);
  const std::string copy(name);
  std::free(name);
  return copy;
}

static void print(const Device& device, int64_t bytes, const std::string& kernel) {
  std::printf("%d %lld %s\n", device.capability, static_cast<long long>(bytes), kernel.c_str());
}

// Rows of a route that are divided into units of so many tiles: ViT-B/32, a text of 128 tokens, ViT-B/16.
constexpr int64_t rows_of(int tiles) { return tiles == 4 ? 50 : tiles == 8 ? 128 : 197; }

template <typename Product, int GROUPS, int TILES>
static void print_routed_product(const Device& device) {
  constexpr int element_bytes = sizeof(typename Product::Element);
  const RoutedWork work{16, rows_of(TILES), 3072, 8, element_bytes, 4 * Product::SCRATCH};
  const auto plan = plan_groups(work, GROUPS, device);
  const std::string arguments = name_of<Product>() + ", " + name_of<Block<GROUPS, TILES>>();
  if (plan.tiles != TILES || !plan.fits(device)) return;
  for (const char* turned : {"false", "true"}) {
    print(device, plan.shared_bytes, "routed_product<" + arguments + ", " + turned + ">");
  }
}

template <typename Product>
static void print_routed_products(const Device& device) {
  print_routed_product<Product, 1, 4>(device);
  print_routed_product<Product, 1, 8>(device);
  print_routed_product<Product, 1, 16>(device);
  print_routed_product<Product, 2, 4>(device);
  print_routed_product<Product, 2, 8>(device);
  print_routed_product<Product, 2, 16>(device);
}

template <typename Product>
static void print_routing_gradient(const Device& device) {
  print(device, RoutingGradient<typename Product::Element>::SHARED_BYTES,
        "routing_gradient_tiles<" + name_of<Product>() + ">");
}

int main() {
  for (const auto& [device, threads, shared_bytes] : INSPECTED) {
    print_routed_products<HalfProduct<__half>>(device);
    print_routed_products<HalfProduct<__nv_bfloat16>>(device);
    print_routed_products<FloatProduct>(device);
    print_routed_products<Tf32Product>(device);
    print_routing_gradient<HalfWeightGradient<__half>>(device);
    print_routing_gradient<HalfWeightGradient<__nv_bfloat16>>(device);
    print_routing_gradient<FloatWeightGradient>(device);
    print_routing_gradient<Tf32WeightGradient>(device);
    print(device, TileSums::SHARED_BYTES, "sum_gradient_tiles");
  }
}
