// The kernels compiled for plain C++ for any machine: vectors of 16 bytes, which every 64-bit CPU has.

#include "cpu/kernels.h"

#define WEMOE_VECTOR_BYTES 16
#define WEMOE_VECTOR_REGISTERS 16
#include "cpu/kernels_impl.h"

namespace wemoe::cpu {

extern const Isa baseline_isa = {"baseline", make_kernels<float>(), make_kernels<double>()};

}  // namespace wemoe::cpu
