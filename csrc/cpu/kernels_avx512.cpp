// The kernels compiled for AVX-512.

#include "cpu/kernels.h"

#ifdef WEMOE_X86_KERNELS

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,popcnt,prefer-vector-width=512")
#define WEMOE_F16C
#define WEMOE_AVX512
#define WEMOE_VECTOR_BYTES 64
#define WEMOE_VECTOR_REGISTERS 32
#include "cpu/kernels_impl.h"

namespace wemoe::cpu {

extern const Isa avx512_isa = {"avx512", make_kernels<float>(), make_kernels<double>()};

}  // namespace wemoe::cpu

#endif
