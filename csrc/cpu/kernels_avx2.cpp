// The kernels compiled for AVX2, FMA and F16C.

#include "cpu/kernels.h"

#ifdef WEMOE_X86_KERNELS

#pragma GCC target("avx2,fma,f16c,popcnt")
#define WEMOE_F16C
#ifdef WEMOE_IMITATE_AVX512  // the kernels' shapes for AVX-512, to be tested on a machine without it
#define WEMOE_VECTOR_BYTES 64
#define WEMOE_VECTOR_REGISTERS 32
#else
#define WEMOE_VECTOR_BYTES 32
#define WEMOE_VECTOR_REGISTERS 16
#endif
#include "cpu/kernels_impl.h"

namespace wemoe::cpu {

#ifdef WEMOE_IMITATE_AVX512
extern const Isa avx2_isa = {"avx2", make_kernels<float>(), make_kernels<double>(), true};
#else
extern const Isa avx2_isa = {"avx2", make_kernels<float>(), make_kernels<double>()};
#endif

}  // namespace wemoe::cpu

#endif
