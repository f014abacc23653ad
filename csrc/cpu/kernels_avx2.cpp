// The kernels compiled for AVX2 and FMA.

#include "cpu/kernels.h"

#ifdef WEMOE_X86_KERNELS

#pragma GCC target("avx2,fma")
#define WEMOE_VECTOR_BYTES 32
#define WEMOE_VECTOR_REGISTERS 16
#include "cpu/kernels_impl.h"

namespace wemoe::cpu {

extern const Isa avx2_isa = {"avx2", make_kernels<float>(), make_kernels<double>()};

}  // namespace wemoe::cpu

#endif
