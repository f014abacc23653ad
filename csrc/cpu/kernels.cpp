// Which instruction set runs: the best that the machine has, unless WEMOE_CPU_ISA names another.

#include "cpu/kernels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/bf16_product.h"
#include "cpu/isa.h"

namespace wemoe::cpu {

namespace {

struct Candidate {
  const Isa* isa;
  bool supported;
};

#ifdef WEMOE_X86_KERNELS
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

// The kernels of AVX-512, and products of bfloat16.
const Isa& avx512_bf16_isa() {
  static const Isa isa = {"avx512_bf16", avx512_isa.single, avx512_isa.twice, true};
  return isa;
}
#endif

const Isa& choose() {
  const Candidate candidates[] = {
  // best first
#ifdef WEMOE_X86_KERNELS
      {&avx512_bf16_isa(), has_avx512() && probe_bf16_product()},
      {&avx512_isa, has_avx512()},
      {&avx2_isa, has_avx2()},
#endif
      {&baseline_isa, true},
  };
  const char* wanted = std::getenv("WEMOE_CPU_ISA");
  std::string known;
  for (const auto& [isa, supported] : candidates) {
    if (supported && (wanted == nullptr || wanted == std::string(isa->name))) {
      return *isa;
    }
    known += std::string(known.empty() ? "" : ", ") + isa->name + (supported ? "" : " (not on this machine)");
  }
  throw std::runtime_error(
      std::string("WEMOE_CPU_ISA must name an instruction set of this build and machine: ") + known +
      ". Found " + wanted + ".");
}

}  // namespace

const Isa& active() {
  static const Isa& isa = choose();
  return isa;
}

const char* active_isa() { return active().name; }

template <>
const Kernels<float>& kernels<float>() {
  return active().single;
}

template <>
const Kernels<double>& kernels<double>() {
  return active().twice;
}

}  // namespace wemoe::cpu
