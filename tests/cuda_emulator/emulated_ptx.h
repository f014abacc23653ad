// Stands in for csrc/cuda/ptx.cuh: the same functions, each with the place of its call for messages.

#pragma once

#include <cstdint>

#include "runtime.h"

namespace wemoe::emulator {

struct MatrixRow {
  uint16_t numbers[8];
  uint32_t registers[4];  // what the lane receives
};
void combine_matrices(void* const* operands, uint32_t mask);
void combine_matrices_transposed(void* const* operands, uint32_t mask);

struct Product {
  float* sums;
  const uint32_t *a, *b;
};
template <typename Element>
void combine_products(void* const* operands, uint32_t mask);
void combine_tf32_products(void* const* operands, uint32_t mask);

uint32_t nearest_tf32(float number);

inline void load_matrices(const char* name, uint32_t (&registers)[4], const void* row, Combine combine,
                          Location location) {
  MatrixRow operand;
  read_row(operand.numbers, row, location);
  collective(name, ~0u, &operand, combine, false, location);
  for (int i = 0; i < 4; i++) {
    registers[i] = operand.registers[i];
  }
}

}  // namespace wemoe::emulator

namespace wemoe::cuda::ptx {

using emulator::Location;

inline unsigned char* dynamic_shared() { return emulator::dynamic_shared(); }

inline void copy_async_16(void* shared, const void* global, bool valid,
                          Location location = Location::current()) {
  emulator::copy_16(shared, global, valid, location);
}

inline void commit_copies() { emulator::commit_copies(); }

template <int N>
void wait_for_copies() {
  emulator::wait_for_copies(N);
}

inline void load_matrices(uint32_t (&registers)[4], const void* row,
                          Location location = Location::current()) {
  emulator::load_matrices("ldmatrix", registers, row, emulator::combine_matrices, location);
}

inline void load_matrices_transposed(uint32_t (&registers)[4], const void* row,
                                     Location location = Location::current()) {
  emulator::load_matrices("ldmatrix.trans", registers, row, emulator::combine_matrices_transposed, location);
}

template <typename Element>
void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
              Location location = Location::current()) {
  emulator::Product operand{sums, a, b};
  emulator::collective("mma.m16n8k16", ~0u, &operand, emulator::combine_products<Element>, false, location);
}

inline void multiply_tf32(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                          Location location = Location::current()) {
  emulator::Product operand{sums, a, b};
  emulator::collective("mma.m16n8k8.tf32", ~0u, &operand, emulator::combine_tf32_products, false, location);
}

inline uint32_t round_to_tf32(float number) { return emulator::nearest_tf32(number); }

}  // namespace wemoe::cuda::ptx
