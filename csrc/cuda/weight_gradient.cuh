// How a warp makes its part of a route's weight gradient, grad^T x, and reads an expert at the same places.
//
// The part has 16 outputs and 32 inputs: 16 sums a lane. A slab is a tile of shared memory with some rows of
// grad, [row, output], and below them as many of x, [row, input]; what lies past the last row is zero. An
// expert's tile is [output, input]. A way of multiplying decides which output and input each of a lane's sums
// has: `multiply` and `load` agree about it, and nobody else has to know. Where a lane reads is found once:
// from one step to the next only whole periods of the swizzle are added.

#pragma once

#include "cuda/elements.cuh"
#include "cuda/tiles.cuh"

namespace wemoe::cuda {

constexpr int GRADIENT_TILE = 64;  // outputs and inputs of a block
constexpr int PART_SUMS = 16;      // of a lane

template <typename Element>
constexpr int SLAB_ROWS = 128 / static_cast<int>(sizeof(Element));  // of grad, and as many of x: 16 KB

template <typename Element>
using GradientTile = Tile<Element, GRADIENT_TILE>;

// Half precision on tensor cores. With g = lane / 4 and t = lane % 4:
//   sums[4 j + 2 i + h]: output g + 8 i, input 8 j + 2 t + h
template <typename Element_>
class HalfWeightGradient {
 public:
  using Element = Element_;

  __device__ __forceinline__ HalfWeightGradient(int output, int input, int lane) {
    using Tile = GradientTile<Element>;
    const int low = lane & 7, middle = lane >> 3 & 1, high = lane >> 4;
    grad_ = Tile::offset(low + 8 * high, output / 8 + middle);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      x_[i] = Tile::offset(SLAB_ROWS<Element> + low + 8 * middle, input / 8 + 2 * i + high);
      expert_[i] = Tile::offset(output + low + 8 * middle, input / 8 + 2 * i + high);
    }
  }

  __device__ __forceinline__ void multiply(float (&sums)[PART_SUMS], const Element* slab, int rows) const {
#pragma unroll
    for (int row = 0; row < SLAB_ROWS<Element>; row += 16 * TOGETHER) {
      if (row < rows) {
        uint32_t a[TOGETHER][4], b[TOGETHER][2][4];  // of 16 rows: [output, row], and twice [row, 16 inputs]
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) {
          const Element* step = slab + (row + 16 * i) * GRADIENT_TILE;
          ptx::load_matrices_transposed(a[i], step + grad_);
          ptx::load_matrices_transposed(b[i][0], step + x_[0]);
          ptx::load_matrices_transposed(b[i][1], step + x_[1]);
        }
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) {
#pragma unroll
          for (int j = 0; j < 4; j++) {
            ptx::multiply<Element>(reinterpret_cast<float (&)[4]>(sums[4 * j]), a[i],
                                   reinterpret_cast<const uint32_t (&)[2]>(b[i][j / 2][j % 2 * 2]));
          }
        }
      }
    }
  }

  __device__ __forceinline__ void load(float (&numbers)[PART_SUMS], const Element* expert) const {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      uint32_t pairs[4];
      ptx::load_matrices(pairs, expert + expert_[i]);
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const float2 pair = widen_pair<Element>(pairs[k]);
        numbers[8 * i + 2 * k] = pair.x;
        numbers[8 * i + 2 * k + 1] = pair.y;
      }
    }
  }

 private:
  static constexpr int TOGETHER = 2;  // steps of 16 rows without a branch between them, so that loads overlap

  int grad_, x_[2], expert_[2];
};

// fp32 on tensor cores, both operands rounded to TF32; the sums lie as those above do.
class Tf32WeightGradient {
 public:
  using Element = float;

  __device__ __forceinline__ Tf32WeightGradient(int output, int input, int lane) {
    using Tile = GradientTile<float>;
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      grad_[i] = Tile::offset(t, (output + 8 * i + g) / 4) + g % 4;
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
      x_[j] = Tile::offset(SLAB_ROWS<float> + t, (input + 8 * j + g) / 4) + g % 4;
      expert_[j] = Tile::offset(output + g, (input + 8 * j + 2 * t) / 4) + 2 * t % 4;
    }
  }

  __device__ __forceinline__ void multiply(float (&sums)[PART_SUMS], const float* slab, int rows) const {
#pragma unroll
    for (int row = 0; row < SLAB_ROWS<float>; row += 8) {
      if (row < rows) {
        const float *step = slab + row * GRADIENT_TILE, *below = step + 4 * GRADIENT_TILE;
        const uint32_t a[4] = {ptx::round_to_tf32(step[grad_[0]]), ptx::round_to_tf32(step[grad_[1]]),
                               ptx::round_to_tf32(below[grad_[0]]), ptx::round_to_tf32(below[grad_[1]])};
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const uint32_t b[2] = {ptx::round_to_tf32(step[x_[j]]), ptx::round_to_tf32(below[x_[j]])};
          ptx::multiply_tf32(reinterpret_cast<float (&)[4]>(sums[4 * j]), a, b);
        }
      }
    }
  }

  __device__ __forceinline__ void load(float (&numbers)[PART_SUMS], const float* expert) const {
#pragma unroll
    for (int i = 0; i < PART_SUMS / 2; i++) {
      const float* place = expert + expert_[i / 2] + i % 2 * 8 * GRADIENT_TILE;
      const float2 pair = *reinterpret_cast<const float2*>(place);
      numbers[2 * i] = pair.x;
      numbers[2 * i + 1] = pair.y;
    }
  }

 private:
  int grad_[2], x_[4], expert_[4];
};

// fp32 as it is, on ordinary cores. A lane has 4 x 4 neighbours, so that two loads of 16 bytes feed 16
// products. With v = lane / 8 and w = lane % 8:
//   sums[4 i + j]: output 4 v + i, input 4 w + j
class FloatWeightGradient {
 public:
  using Element = float;

  __device__ __forceinline__ FloatWeightGradient(int output, int input, int lane) {
    using Tile = GradientTile<float>;
    const int v = lane / 8, w = lane % 8;
#pragma unroll
    for (int row = 0; row < TOGETHER; row++) {
      grad_[row] = Tile::offset(row, output / 4 + v);
      x_[row] = Tile::offset(SLAB_ROWS<float> + row, input / 4 + w);
      expert_[row] = Tile::offset(output + 4 * v + row, input / 4 + w);
    }
  }

  __device__ __forceinline__ void multiply(float (&sums)[PART_SUMS], const float* slab, int rows) const {
#pragma unroll 1
    for (int first = 0; first < rows; first += TOGETHER) {
#pragma unroll
      for (int row = 0; row < TOGETHER; row++) {
        float a[4], b[4];
        read(a, slab + first * GRADIENT_TILE + grad_[row]);
        read(b, slab + first * GRADIENT_TILE + x_[row]);
#pragma unroll
        for (int i = 0; i < PART_SUMS; i++) {
          sums[i] += a[i / 4] * b[i % 4];
        }
      }
    }
  }

  __device__ __forceinline__ void load(float (&numbers)[PART_SUMS], const float* expert) const {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      read(reinterpret_cast<float (&)[4]>(numbers[4 * i]), expert + expert_[i]);
    }
  }

 private:
  static constexpr int TOGETHER = 4;  // rows, a period of the swizzle

  static __device__ __forceinline__ void read(float (&numbers)[4], const float* place) {
    const float4 piece = *reinterpret_cast<const float4*>(place);
    numbers[0] = piece.x;
    numbers[1] = piece.y;
    numbers[2] = piece.z;
    numbers[3] = piece.w;
  }

  int grad_[TOGETHER], x_[TOGETHER], expert_[TOGETHER];
};

}  // namespace wemoe::cuda
