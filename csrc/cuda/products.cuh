// How a warp multiplies: rows of x by weights that it has just assembled in registers.
//
// A warp takes STEP = 16 inputs and 16 outputs at a time: 256 weights, eight a lane, in fp32. With g = lane /
// 4 and t = lane % 4, the eight sums of a tile of 16 rows are, whichever way they are made,
//
//   sums[4 j + 2 i + h]:  row g + 8 i, output 8 j + 2 t + h
//
// and a way of multiplying says which eight weights a lane reads from a plane (base or expert) and multiplies
// them.

#pragma once

#include "cuda/elements.cuh"
#include "cuda/tiles.cuh"

namespace wemoe::cuda {

constexpr int STEP = 16;     // inputs that are multiplied at a time
constexpr int COLUMNS = 64;  // outputs of a block

// Tiles of rows that are multiplied without a branch between them, so that loads and products overlap. Rows
// that are not there are zeros.
constexpr int TOGETHER = 4;

// Planes hold [output, input], or, TURNED, [input, output].
template <typename Element, bool TURNED>
using PlaneTile = Tile<Element, TURNED ? COLUMNS : STEP>;

// Half precision on tensor cores. A lane's weights are operand b of two products of 8 outputs:
// weights[4 j + 2 i + h] = weight of input 2 t + 8 i + h, output g + 8 j.
template <typename Element_>
struct HalfProduct {
  using Element = Element_;
  static constexpr int SCRATCH = 0;  // floats of shared memory a warp

  template <bool TURNED>
  static __device__ __forceinline__ void load(float (&weights)[8], PlaneTile<Element, TURNED> plane,
                                              int column, int lane) {
    uint32_t pairs[4];
    const int low = lane & 7, middle = lane >> 3 & 1, high = lane >> 4;
    if constexpr (TURNED) {
      ptx::load_matrices_transposed(pairs, plane.piece(low + 8 * middle, column / 8 + high));
    } else {
      ptx::load_matrices(pairs, plane.piece(column + low + 8 * high, middle));
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float2 pair = widen_pair<Element>(pairs[i]);
      weights[2 * i] = pair.x;
      weights[2 * i + 1] = pair.y;
    }
  }

  template <int TILES>
  static __device__ __forceinline__ void multiply(float (&sums)[TILES][8], const float (&weights)[8],
                                                  Tile<Element, STEP> x, int tiles, float*, int lane) {
    const Element* own = x.piece(lane & 15, lane >> 4);  // of the first tile: the swizzle is that of all
    uint32_t b[2][2];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      b[i / 2][i % 2] = narrow_pair<Element>(weights[2 * i], weights[2 * i + 1]);
    }
#pragma unroll
    for (int first = 0; first < TILES; first += TOGETHER) {
      if (first < tiles) {
        uint32_t a[TOGETHER][4];
#pragma unroll
        for (int tile = 0; tile < TOGETHER; tile++) {
          ptx::load_matrices(a[tile], own + 16 * (first + tile) * STEP);
        }
#pragma unroll
        for (int tile = 0; tile < TOGETHER; tile++) {
          multiply_pair(sums[first + tile], a[tile], b);
        }
      }
    }
  }

 private:
  static __device__ __forceinline__ void multiply_pair(float (&sums)[8], const uint32_t (&a)[4],
                                                       const uint32_t (&b)[2][2]) {
    float (&left)[4] = reinterpret_cast<float (&)[4]>(sums[0]);
    float (&right)[4] = reinterpret_cast<float (&)[4]>(sums[4]);
    ptx::multiply<Element>(left, a, b[0]);
    ptx::multiply<Element>(right, a, b[1]);
  }
};

// A lane's weights of fp32 planes: weights[4 j + i] = weight of input t + 4 i, output g + 8 j.
struct FloatWeights {
  using Element = float;

  template <bool TURNED>
  static __device__ __forceinline__ void load(float (&weights)[8], PlaneTile<float, TURNED> plane, int column,
                                              int lane) {
#pragma unroll
    for (int j = 0; j < 2; j++) {
      if constexpr (TURNED) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          weights[4 * j + i] = *plane.number(lane % 4 + 4 * i, column + 8 * j + lane / 4);
        }
      } else {
        uint32_t numbers[4];  // a row of ldmatrix is four floats
        ptx::load_matrices(numbers, plane.piece(column + 8 * j + (lane & 7), lane >> 3));
#pragma unroll
        for (int i = 0; i < 4; i++) {
          weights[4 * j + i] = __uint_as_float(numbers[i]);
        }
      }
    }
  }
};

// fp32 on tensor cores, both operands rounded to TF32.
struct Tf32Product : FloatWeights {
  static constexpr int SCRATCH = 0;

  template <int TILES>
  static __device__ __forceinline__ void multiply(float (&sums)[TILES][8], const float (&weights)[8],
                                                  Tile<float, STEP> x, int tiles, float*, int lane) {
    uint32_t b[2][2][2];  // of eight inputs, of eight outputs
#pragma unroll
    for (int i = 0; i < 8; i++) {
      b[i / 2 % 2][i / 4][i % 2] = ptx::round_to_tf32(weights[i]);
    }
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
      if (tile < tiles) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          uint32_t a[4];
          ptx::load_matrices(a, x.piece(16 * tile + (lane & 15), 2 * half + (lane >> 4)));
#pragma unroll
          for (int i = 0; i < 4; i++) {
            a[i] = ptx::round_to_tf32(__uint_as_float(a[i]));
          }
          ptx::multiply_tf32(reinterpret_cast<float (&)[4]>(sums[tile][0]), a, b[half][0]);
          ptx::multiply_tf32(reinterpret_cast<float (&)[4]>(sums[tile][4]), a, b[half][1]);
        }
      }
    }
  }
};

// fp32 as it is, on ordinary cores: every lane needs weights that other lanes of its warp have assembled, so
// they pass through a patch of shared memory of the warp's own, [input, output].
struct FloatProduct : FloatWeights {
  static constexpr int ROW = 24;  // of the patch: four rows of eight floats never share a bank
  static constexpr int SCRATCH = STEP * ROW;

  template <int TILES>
  static __device__ __forceinline__ void multiply(float (&sums)[TILES][8], const float (&weights)[8],
                                                  Tile<float, STEP> x, int tiles, float* patch, int lane) {
    const int g = lane / 4, t = lane % 4;
    __syncwarp();  // the patch of the last product has been read
#pragma unroll
    for (int i = 0; i < 8; i++) {
      patch[(t + 4 * (i % 4)) * ROW + g + 8 * (i / 4)] = weights[i];
    }
    __syncwarp();
#pragma unroll
    for (int piece = 0; piece < STEP / 4; piece++) {
      float2 columns[4][2];
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const float* row = patch + (4 * piece + k) * ROW + 2 * t;
        columns[k][0] = *reinterpret_cast<const float2*>(row);
        columns[k][1] = *reinterpret_cast<const float2*>(row + 8);
      }
#pragma unroll
      for (int tile = 0; tile < TILES; tile++) {
        if (tile / TOGETHER * TOGETHER < tiles) {
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const float4 row = *reinterpret_cast<const float4*>(x.piece(16 * tile + g + 8 * i, piece));
            const float inputs[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
            for (int k = 0; k < 4; k++) {
#pragma unroll
              for (int j = 0; j < 2; j++) {
                float* pair = sums[tile] + 4 * j + 2 * i;
                pair[0] += inputs[k] * columns[k][j].x;
                pair[1] += inputs[k] * columns[k][j].y;
              }
            }
          }
        }
      }
    }
  }
};

}  // namespace wemoe::cuda
