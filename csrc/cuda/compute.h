// The type that sums are taken in: fp64 for fp64, fp32 for everything else.

#pragma once

namespace wemoe::cuda {

template <typename Element>
struct ComputeType {
  using Type = float;
};
template <>
struct ComputeType<double> {
  using Type = double;
};
template <typename Element>
using Compute = typename ComputeType<Element>::Type;

}  // namespace wemoe::cuda
