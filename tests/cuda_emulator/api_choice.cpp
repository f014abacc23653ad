// choice.h for ctypes: sizes are R, M, D, F, T; device is capability, multiprocessors, shared bytes, L2
// bytes.

#include <cstring>

#include "cuda/choice.h"

namespace {

using namespace wemoe::cuda;

Sizes read_sizes(const int64_t* sizes) { return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]}; }

Device read_device(const int64_t* device) {
  return {static_cast<int>(device[0]), static_cast<int>(device[1]), device[2], device[3]};
}

}  // namespace

extern "C" {

// 0 for fused, 1 for chunked, -1 where the word says nothing; factors are 0 for half, 1 for TF32, 2 for
// float.
int chosen_path(const char* word, bool fits, const int64_t* sizes, int factors, const int64_t* device) {
  const auto wanted = parse_wanted(word);
  if (!wanted) return -1;
  return static_cast<int>(
      choose_path(*wanted, fits, read_sizes(sizes), static_cast<Factors>(factors), read_device(device)));
}

double predicted_cycles(bool fused, const int64_t* sizes, int factors, const int64_t* device) {
  const auto predict = fused ? predict_fused_cycles : predict_chunked_cycles;
  return predict(read_sizes(sizes), static_cast<Factors>(factors), read_device(device));
}

void name_broken_rule(bool fits, const int64_t* sizes, int element_bytes, const int64_t* device, char* text,
                      int64_t room) {
  std::strncpy(text, broken_rule(fits, read_sizes(sizes), element_bytes, read_device(device)).c_str(), room);
}
}
