// choice.h for ctypes: sizes are R, M, D, F, T; device is capability, multiprocessors, shared bytes, L2
// bytes.

#include <cstring>

#include "api.h"
#include "cuda/choice.h"

namespace {

using namespace wemoe::cuda;

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
