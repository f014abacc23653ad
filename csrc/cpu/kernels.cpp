// Which instruction set runs: the best that the machine has, unless WEMOE_CPU_ISA names another.

#include "cpu/kernels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/isa.h"

namespace wemoe::cpu {

namespace {

struct Candidate {
  const Isa* isa;
  bool supported;
};

const Isa& choose() {
  const Candidate candidates[] = {
  // best first
#ifdef WEMOE_X86_KERNELS
      {&avx512_isa, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")},
      {&avx2_isa,
       __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")},
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

const Isa& active() {
  static const Isa& isa = choose();
  return isa;
}

}  // namespace

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
