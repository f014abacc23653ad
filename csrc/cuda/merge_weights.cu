// Launches the kernels of merge_weights.h.

#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/merge_weights.cuh"

namespace wemoe::cuda {
namespace {

constexpr int64_t BLOCKS_PER_MULTIPROCESSOR = 8;  // as many as 256 threads fill one with

int64_t count_blocks(int64_t P, int64_t count, const Device& device) {
  const int64_t most = BLOCKS_PER_MULTIPROCESSOR * device.multiprocessors;
  return std::clamp<int64_t>(divide_up(P, MERGE_THREADS * count), 1, most);
}

// Numbers that a thread takes at a time: 16 bytes of the widest type.
template <typename... Elements>
constexpr int NUMBERS = 16 / std::max({sizeof(Elements)...});

// Whether rows of P numbers that begin here consist of whole groups of COUNT, each at a multiple of its size.
template <int COUNT, typename... Elements>
bool in_groups(int64_t P, const Elements*... arrays) {
  return P % COUNT == 0 && ((reinterpret_cast<uintptr_t>(arrays) % (COUNT * sizeof(Elements)) == 0) && ...);
}

template <int COUNT, typename Base, typename Expert, typename Merged>
cudaError_t launch_merge(const MergeSizes& sizes, const Base* base, const Expert* task_vectors,
                         const Compute<Base>* routing_weights, Merged* merged, const Device& device,
                         cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(count_blocks(sizes.P, COUNT, device)));
  return launch(merge_weights_kernel<COUNT, Base, Expert, Merged>, grid, MERGE_THREADS, 0, stream, sizes,
                base, task_vectors, routing_weights, merged);
}

// For all types the same, since it is the size of the workspace.
int64_t backward_blocks(const MergeSizes& sizes, const Device& device) {
  return count_blocks(sizes.P, 8, device);
}

template <int COUNT, typename Grad, typename Expert>
cudaError_t launch_backward(const MergeSizes& sizes, const Grad* grad, const Expert* task_vectors,
                            Compute<Grad>* workspace, const Device& device, cudaStream_t stream) {
  const int64_t blocks = backward_blocks(sizes, device);
  const dim3 grid(static_cast<unsigned>(blocks * divide_up(sizes.R, MERGE_ROUTES)),
                  static_cast<unsigned>(divide_up(sizes.T, MERGE_TASKS)));
  return launch(merge_weights_backward_kernel<COUNT, Grad, Expert>, grid, MERGE_THREADS, 0, stream, sizes,
                static_cast<int>(blocks), grad, task_vectors, workspace);
}

}  // namespace

template <typename Base, typename Expert, typename Merged>
cudaError_t merge_weights(const MergeSizes& sizes, const Base* base, const Expert* task_vectors,
                          const Compute<Base>* routing_weights, Merged* merged, const Device& device,
                          cudaStream_t stream) {
  constexpr int COUNT = NUMBERS<Base, Expert, Merged>;
  const auto run = in_groups<COUNT>(sizes.P, base, task_vectors, merged)
                       ? launch_merge<COUNT, Base, Expert, Merged>
                       : launch_merge<1, Base, Expert, Merged>;
  return run(sizes, base, task_vectors, routing_weights, merged, device, stream);
}

int64_t merge_weights_backward_workspace(const MergeSizes& sizes, const Device& device) {
  return backward_blocks(sizes, device) * sizes.R * sizes.T;
}

template <typename Grad, typename Expert>
cudaError_t merge_weights_backward(const MergeSizes& sizes, const Grad* grad, const Expert* task_vectors,
                                   Compute<Grad>* workspace, Compute<Grad>* grad_routing_weights,
                                   const Device& device, cudaStream_t stream) {
  constexpr int COUNT = NUMBERS<Grad, Expert>;
  const auto run = in_groups<COUNT>(sizes.P, grad, task_vectors) ? launch_backward<COUNT, Grad, Expert>
                                                                 : launch_backward<1, Grad, Expert>;
  const auto error = run(sizes, grad, task_vectors, workspace, device, stream);
  if (error != cudaSuccess) return error;
  const int64_t sums = sizes.R * sizes.T;
  const dim3 grid(static_cast<unsigned>(divide_up(sums, MERGE_THREADS)));
  return launch(sum_partial_kernel<Compute<Grad>>, grid, MERGE_THREADS, 0, stream,
                backward_blocks(sizes, device), sums, workspace, grad_routing_weights);
}

#define WEMOE_INSTANTIATE_FORWARD(BASE, EXPERT, MERGED)                                                   \
  template cudaError_t merge_weights(const MergeSizes&, const BASE*, const EXPERT*, const Compute<BASE>*, \
                                     MERGED*, const Device&, cudaStream_t);
#define WEMOE_INSTANTIATE(ELEMENT, EXPERT)                                                         \
  WEMOE_INSTANTIATE_FORWARD(ELEMENT, EXPERT, ELEMENT)                                              \
  template cudaError_t merge_weights_backward(const MergeSizes&, const ELEMENT*, const EXPERT*,    \
                                              Compute<ELEMENT>*, Compute<ELEMENT>*, const Device&, \
                                              cudaStream_t);
#define WEMOE_INSTANTIATE_EXPERTS(ELEMENT) \
  WEMOE_INSTANTIATE(ELEMENT, float)        \
  WEMOE_INSTANTIATE(ELEMENT, double)       \
  WEMOE_INSTANTIATE(ELEMENT, __half)       \
  WEMOE_INSTANTIATE(ELEMENT, __nv_bfloat16)
WEMOE_INSTANTIATE_EXPERTS(float)
WEMOE_INSTANTIATE_EXPERTS(double)
WEMOE_INSTANTIATE_EXPERTS(__half)
WEMOE_INSTANTIATE_EXPERTS(__nv_bfloat16)
#define WEMOE_INSTANTIATE_ROUNDED(MERGED)          \
  WEMOE_INSTANTIATE_FORWARD(float, float, MERGED)  \
  WEMOE_INSTANTIATE_FORWARD(float, double, MERGED) \
  WEMOE_INSTANTIATE_FORWARD(float, __half, MERGED) \
  WEMOE_INSTANTIATE_FORWARD(float, __nv_bfloat16, MERGED)
WEMOE_INSTANTIATE_ROUNDED(__half)
WEMOE_INSTANTIATE_ROUNDED(__nv_bfloat16)
#undef WEMOE_INSTANTIATE_ROUNDED
#undef WEMOE_INSTANTIATE_EXPERTS
#undef WEMOE_INSTANTIATE
#undef WEMOE_INSTANTIATE_FORWARD

}  // namespace wemoe::cuda
