#pragma once

namespace wemoe::cpu {

// The instruction set that the kernels run on: the best of this machine, or the one WEMOE_CPU_ISA names.
// Throws std::runtime_error if WEMOE_CPU_ISA names none, or one that this machine or build lacks.
const char* active_isa();

}  // namespace wemoe::cpu
