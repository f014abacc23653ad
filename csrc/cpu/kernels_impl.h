// The kernels, written once with the compiler's vector types. An instruction set's file sets its target, its
// vector size and its number of registers, then includes this text.
//
// Everything is in an anonymous namespace and nothing of the standard library is called: an inline function
// compiled here for a newer CPU could otherwise replace, at link time, the copy that older CPUs run.

#pragma once

#include "cpu/vectors.h"

namespace wemoe::cpu {
namespace {

// Sums that stay in registers, beside what is being loaded: a block of MAX_ROWS rows by VECTORS vectors.
constexpr int VECTORS = 2;
constexpr int MAX_ROWS = WEMOE_VECTOR_REGISTERS == 32 ? 14 : 6;
constexpr int MAX_ROUTES = WEMOE_VECTOR_REGISTERS == 32 ? 8 : 4;       // assemble: by VECTORS vectors
constexpr int CONTRACT_ROUTES = WEMOE_VECTOR_REGISTERS == 32 ? 4 : 2;  // contract: by CONTRACT_TASKS
constexpr int CONTRACT_TASKS = 4;

template <typename Real>
constexpr int STRIP = VECTORS * LANES<Real>;

// Packing.

template <int... I>
struct Indices {};
template <int N, int... I>
struct IndicesUpTo : IndicesUpTo<N - 1, N - 1, I...> {};
template <int... I>
struct IndicesUpTo<0, I...> {
  using type = Indices<I...>;
};

// One step of a transposition: in every 2 * H by 2 * H square, swaps the off-diagonal H by H quarters.
template <int H, typename V, int... I>
inline void swap_quarters(V& upper, V& lower, Indices<I...>) {
  constexpr int N = sizeof...(I);
  const V u = upper, l = lower;
  upper = __builtin_shufflevector(u, l, ((I & H) == 0 ? I : N + I - H)...);
  lower = __builtin_shufflevector(u, l, ((I & H) == 0 ? I + H : N + I)...);
}

template <typename V, int N, int H = N / 2>
inline void transpose(V (&square)[N]) {
  if constexpr (H > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < N; i++) {
      if ((i & H) == 0) {
        swap_quarters<H>(square[i], square[i + H], typename IndicesUpTo<N>::type{});
      }
    }
    transpose<V, N, H / 2>(square);
  }
}

// out[r * width + c] = source[r * row_stride + c * column_stride], zero from `columns` to `width`.
template <typename Real, typename Source>
void pack_any(const Source* source, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride,
              int64_t width, Real* out) {
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t c = 0; c < width; c++) {
      out[r * width + c] =
          c < columns ? load_one<Real>(source + r * row_stride + c * column_stride) : Real(0);
    }
  }
}

template <typename Real, typename Source>
void pack_straight(const Source* source, int64_t rows, int64_t columns, int64_t row_stride, int64_t width,
                   Real* out) {
  for (int64_t r = 0; r < rows; r++) {
    convert<Real>(source + r * row_stride, columns, out + r * width);
    for (int64_t c = columns; c < width; c++) {
      out[r * width + c] = 0;
    }
  }
}

template <typename Real, typename Source>
void pack_transposed(const Source* source, int64_t rows, int64_t columns, int64_t column_stride,
                     int64_t width, Real* out) {
  constexpr int N = LANES<Real>;
  int64_t r = 0;
  for (; r + N <= rows; r += N) {
    for (int64_t c = 0; c < width; c += N) {
      Vector<Real, N> square[N];
#pragma GCC unroll 16
      for (int i = 0; i < N; i++) {
        square[i] = c + i < columns ? load<Real, N>(source + r + (c + i) * column_stride) : Vector<Real, N>{};
      }
      transpose(square);
      Real* corner = out + r * width + c;
      if (c + N <= width) {
#pragma GCC unroll 16
        for (int i = 0; i < N; i++) {
          write(corner + i * width, square[i]);
        }
      } else {
        for (int i = 0; i < N; i++) {
          __builtin_memcpy(corner + i * width, &square[i], (width - c) * sizeof(Real));
        }
      }
    }
  }
  pack_any(source + r, rows - r, columns, 1, column_stride, width, out + r * width);
}

template <typename Real, typename Source>
void pack(const Source* source, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride,
          int64_t width, Real* out) {
  if (column_stride == 1) {
    pack_straight(source, rows, columns, row_stride, width, out);
  } else if (row_stride == 1) {
    pack_transposed(source, rows, columns, column_stride, width, out);
  } else {
    pack_any(source, rows, columns, row_stride, column_stride, width, out);
  }
}

template <typename Real>
void pack_panel(Matrix m, Real* out) {
  with_type(m.data, m.dtype, [&](auto* source) {
    for (int64_t c = 0; c < m.columns; c += STRIP<Real>) {
      pack(source + c * m.column_stride, m.rows, min(STRIP<Real>, m.columns - c), m.row_stride,
           m.column_stride, STRIP<Real>, out + m.rows * c);
    }
  });
}

template <typename Real>
void prefetch(Matrix m) {
  constexpr int64_t LINE = 64;  // bytes
  with_type(m.data, m.dtype, [&]<typename Source>(const Source* source) {
    const bool by_rows = m.column_stride == 1;
    const int64_t lines = by_rows ? m.rows : m.columns, length = by_rows ? m.columns : m.rows;
    const int64_t stride = by_rows ? m.row_stride : m.column_stride;
    for (int64_t i = 0; i < lines; i++) {
      for (int64_t j = 0; j < length; j += LINE / sizeof(Source)) {
        __builtin_prefetch(source + i * stride + j, 0, 2);
        asm volatile("");  // or GCC finds no effect in this function and removes its calls
      }
    }
  });
}

// Calls f(first, size) for every block of rows.
template <typename F>
inline void for_row_blocks(int64_t rows, F f) {
  const int64_t blocks = (rows + MAX_ROWS - 1) / MAX_ROWS;
  for (int64_t b = 0, first = 0; b < blocks; b++) {
    const int64_t size = rows / blocks + (b < rows % blocks);
    f(first, size);
    first += size;
  }
}

template <typename Real>
void pack_rows(Matrix m, Real* out) {
  with_type(m.data, m.dtype, [&](auto* source) {
    for_row_blocks(m.rows, [&](int64_t first, int64_t size) {
      pack(source + first * m.row_stride, m.columns, size, m.column_stride, m.row_stride, size,
           out + first * m.columns);
    });
  });
}

// Assembly.

// One step: the experts' numbers are loaded once for all routes. V is a vector, or a plain number at the end.
template <typename V, int COUNT, int ROUTES, typename Real>
inline void assemble_step(int64_t tasks, const Real* base, const Real* experts, int64_t expert_stride,
                          const Real* routing_weights, Real* out, int64_t out_stride) {
  constexpr int64_t step = sizeof(V) / sizeof(Real);
  V sum[ROUTES][COUNT];
#pragma GCC unroll 8
  for (int r = 0; r < ROUTES; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < COUNT; v++) {
      sum[r][v] = read<V>(base + v * step);
    }
  }
  for (int64_t t = 0; t < tasks; t++) {
    V expert[COUNT];
#pragma GCC unroll 2
    for (int v = 0; v < COUNT; v++) {
      expert[v] = read<V>(experts + t * expert_stride + v * step);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROUTES; r++) {
#pragma GCC unroll 2
      for (int v = 0; v < COUNT; v++) {
        sum[r][v] += routing_weights[r * tasks + t] * expert[v];
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROUTES; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < COUNT; v++) {
      write(out + r * out_stride + v * step, sum[r][v]);
    }
  }
}

template <typename Real, int ROUTES>
void assemble_routes(int64_t tasks, int64_t size, const Real* base, const Real* experts,
                     int64_t expert_stride, const Real* routing_weights, Real* out, int64_t out_stride) {
  int64_t i = 0;
  for (; i + STRIP<Real> <= size; i += STRIP<Real>) {
    assemble_step<Vector<Real, LANES<Real>>, VECTORS, ROUTES>(tasks, base + i, experts + i, expert_stride,
                                                              routing_weights, out + i, out_stride);
  }
  for (; i < size; i++) {
    assemble_step<Real, 1, ROUTES>(tasks, base + i, experts + i, expert_stride, routing_weights, out + i,
                                   out_stride);
  }
}

template <typename Real, int... I>
constexpr auto assemble_table(Indices<I...>) {
  struct Table {
    decltype(&assemble_routes<Real, 1>) by_routes[sizeof...(I)];
  };
  return Table{{&assemble_routes<Real, I + 1>...}};
}

template <typename Real>
void assemble(int64_t routes, int64_t tasks, int64_t size, const Real* base, const Real* experts,
              int64_t expert_stride, const Real* routing_weights, Real* out, int64_t out_stride) {
  static constexpr auto table = assemble_table<Real>(IndicesUpTo<MAX_ROUTES>::type{});
  for (int64_t r = 0; r < routes; r += MAX_ROUTES) {
    table.by_routes[min(MAX_ROUTES, routes - r) - 1](tasks, size, base, experts, expert_stride,
                                                     routing_weights + r * tasks, out + r * out_stride,
                                                     out_stride);
  }
}

// Multiplication.

// c[ROWS, STRIP] (+)= left^T @ right, every sum in a register of its own, in the order of k.
template <typename Real, int ROWS, bool ADD>
void multiply_block(int64_t depth, const Real* left, int64_t left_step, const Real* right, Real* c,
                    int64_t c_stride) {
  using V = Vector<Real, LANES<Real>>;
  V sum[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) {
      sum[i][v] = ADD ? read<V>(c + i * c_stride + v * LANES<Real>) : V{};
    }
  }
  for (int64_t k = 0; k < depth; k++) {
    V row[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) {
      row[v] = read<V>(right + k * STRIP<Real> + v * LANES<Real>);
    }
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++) {
        sum[i][v] += left[k * left_step + i] * row[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) {
      write(c + i * c_stride + v * LANES<Real>, sum[i][v]);
    }
  }
}

template <typename Real, bool ADD, int... I>
constexpr auto multiply_table(Indices<I...>) {
  struct Table {
    decltype(&multiply_block<Real, 1, ADD>) by_rows[sizeof...(I)];
  };
  return Table{{&multiply_block<Real, I + 1, ADD>...}};
}

template <typename Real>
void multiply(int64_t rows, int64_t columns, int64_t depth, const Real* left, const Real* right, Real* c) {
  static constexpr auto table = multiply_table<Real, true>(IndicesUpTo<MAX_ROWS>::type{});
  for_row_blocks(rows, [&](int64_t row, int64_t size) {
    for (int64_t column = 0; column < columns; column += STRIP<Real>) {
      table.by_rows[size - 1](depth, left + row * depth, size, right + column * depth,
                              c + row * PANEL + column, PANEL);
    }
  });
}

template <typename Real>
void multiply_transposed(int64_t rows, int64_t depth, const Real* left, int64_t left_stride,
                         const Real* right, Real* c) {
  static constexpr auto table = multiply_table<Real, false>(IndicesUpTo<MAX_ROWS>::type{});
  table.by_rows[rows - 1](depth, left, left_stride, right, c, STRIP<Real>);
}

// Contraction.

template <typename Real, int ROUTES, int TASKS>
void contract_block(int64_t size, const Real* g, int64_t g_stride, const Real* experts, int64_t expert_stride,
                    Real* sums, int64_t sums_stride) {
  constexpr int N = LANES<Real>;
  using V = Vector<Real, N>;
  V sum[ROUTES][TASKS];
#pragma GCC unroll 4
  for (int r = 0; r < ROUTES; r++) {
#pragma GCC unroll 4
    for (int t = 0; t < TASKS; t++) {
      sum[r][t] = read<V>(sums + r * sums_stride + t * N);
    }
  }
  int64_t i = 0;
  for (; i + N <= size; i += N) {
    V expert[TASKS];
#pragma GCC unroll 4
    for (int t = 0; t < TASKS; t++) {
      expert[t] = read<V>(experts + t * expert_stride + i);
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROUTES; r++) {
      const V left = read<V>(g + r * g_stride + i);
#pragma GCC unroll 4
      for (int t = 0; t < TASKS; t++) {
        sum[r][t] += left * expert[t];
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < ROUTES; r++) {
#pragma GCC unroll 4
    for (int t = 0; t < TASKS; t++) {
      write(sums + r * sums_stride + t * N, sum[r][t]);
    }
  }
  for (; i < size; i++) {
    for (int r = 0; r < ROUTES; r++) {
      for (int t = 0; t < TASKS; t++) {
        sums[r * sums_stride + t * N + i % N] += g[r * g_stride + i] * experts[t * expert_stride + i];
      }
    }
  }
}

template <typename Real, int... I>
constexpr auto contract_table(Indices<I...>) {
  struct Table {
    decltype(&contract_block<Real, 1, 1>) by_size[sizeof...(I)];
  };
  return Table{{&contract_block<Real, I / CONTRACT_TASKS + 1, I % CONTRACT_TASKS + 1>...}};
}

template <typename Real>
void contract(int64_t routes, int64_t tasks, int64_t size, const Real* g, int64_t g_stride,
              const Real* experts, int64_t expert_stride, Real* sums) {
  static constexpr auto table = contract_table<Real>(IndicesUpTo<CONTRACT_ROUTES * CONTRACT_TASKS>::type{});
  for (int64_t r = 0; r < routes; r += CONTRACT_ROUTES) {
    for (int64_t t = 0; t < tasks; t += CONTRACT_TASKS) {
      const int64_t shape =
          (min(CONTRACT_ROUTES, routes - r) - 1) * CONTRACT_TASKS + min(CONTRACT_TASKS, tasks - t) - 1;
      table.by_size[shape](size, g + r * g_stride, g_stride, experts + t * expert_stride, expert_stride,
                           sums + (r * tasks + t) * LANES<Real>, tasks * LANES<Real>);
    }
  }
}

// Results.

template <typename Real>
void load_row(const void* source, Dtype dtype, int64_t size, Real* out) {
  with_type(source, dtype, [&](auto* typed) { convert<Real>(typed, size, out); });
}

template <typename Real>
void store_row(const Real* source, int64_t size, void* out, Dtype dtype) {
  with_type(out, dtype, [&]<typename Target>(const Target* typed) {
    convert<Real>(source, size, const_cast<Target*>(typed));
  });
}

template <typename Real>
void unpack(const Real* c, void* out, Dtype dtype, int64_t rows, int64_t columns, int64_t row_stride) {
  with_type(out, dtype, [&]<typename Target>(const Target* typed) {
    for (int64_t r = 0; r < rows; r++) {
      convert<Real>(c + r * PANEL, columns, const_cast<Target*>(typed) + r * row_stride);
    }
  });
}

template <typename Real>
constexpr Kernels<Real> make_kernels() {
  return {LANES<Real>,     STRIP<Real>,    MAX_ROWS,       pack_panel<Real>,          prefetch<Real>,
          pack_rows<Real>, assemble<Real>, multiply<Real>, multiply_transposed<Real>, contract<Real>,
          unpack<Real>,    load_row<Real>, store_row<Real>};
}

}  // namespace
}  // namespace wemoe::cpu
