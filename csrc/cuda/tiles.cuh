// Tiles in shared memory: rows of pieces of 16 bytes, what one asynchronous copy moves and one row of
// ldmatrix reads.

#pragma once

#include <cstdint>

#include "cuda/ptx.cuh"

namespace wemoe::cuda {

template <typename Element>
constexpr int PIECE = 16 / static_cast<int>(sizeof(Element));  // numbers of a piece

// Where a piece of a row lies among the PIECES of its row, so that eight pieces that are read together, of
// one column in eight rows or of one row, never share a bank: shared memory answers 128 bytes at a time.
template <int PIECES>
__device__ __forceinline__ int swizzle(int row, int piece) {
  static_assert(PIECES == 2 || PIECES == 4 || PIECES == 8 || PIECES == 16);
  if constexpr (PIECES == 2) return piece ^ (row >> 2 & 1);  // four rows in 128 bytes
  if constexpr (PIECES == 4) return piece ^ (row >> 1 & 3);  // two
  if constexpr (PIECES == 8) return piece ^ (row & 7);       // one
  return piece ^
         ((row & 1) << 2 | (row & 2));  // half a row; pairs of pieces, of which four rows are read together
}

// A tile of rows of COLUMNS numbers.
template <typename Element, int COLUMNS>
struct Tile {
  static constexpr int PIECES = COLUMNS / PIECE<Element>;

  Element* numbers;

  static __device__ __forceinline__ int offset(int row, int piece) {
    return row * COLUMNS + swizzle<PIECES>(row, piece) * PIECE<Element>;
  }
  __device__ __forceinline__ Element* piece(int row, int piece) const { return numbers + offset(row, piece); }
  __device__ __forceinline__ Element* number(int row, int column) const {
    return piece(row, column / PIECE<Element>) + column % PIECE<Element>;
  }
};

}  // namespace wemoe::cuda
