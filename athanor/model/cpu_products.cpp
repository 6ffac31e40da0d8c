// Matrix products in bfloat16 of a linear layer's backward pass, on AMX tiles (cpu_tiles.h).
//
//   input gradient   dx [tokens][in] = dy [tokens][out] · W, W [out][in]
//   weight gradient  dW [out][in]    = dyᵀ · x, or added to one in float32
//
// A task is a block of the result, for all of k: operands are packed into panels 256 deep that stay in the core's second-level
// cache, sums are kept there in float32 and rounded once. Every element is summed in the same order whatever the number of
// threads. Widths are multiples of 32, the number of tokens is any.
//
// Built and called by native.py.

#include "cpu_pieces.h"
#include "cpu_tiles.h"

#include <omp.h>

#include <vector>

#ifdef __AMX_BF16__

namespace {

using namespace tiles;

constexpr int64_t kRows = 512, kColumns = 352, kPanel = 256;  // of a task, and of k at a time

struct alignas(64) Line {
  float values[16];
};

thread_local std::vector<Line> scratch;

enum class Lies { kInside, kOutside };  // whether k is the inner index of an operand in memory, or the outer one

struct Side {
  Matrix matrix;
  Lies lies;
};

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The size of equal blocks, multiples of 32, none above `most`, and of at least `parts` in all where there are so many.
int64_t block(int64_t n, int64_t most, int64_t parts) {
  const int64_t count = std::max((n + most - 1) / most, std::min(parts, (n + 31) / 32));
  return up((n + count - 1) / count, 32);
}

void pack(const Side& side, bool left, int64_t from, int64_t n, int64_t k0, int64_t k, Bits* out) {
  if (side.lies == Lies::kOutside)
    left ? pack_across<true>(side.matrix, from, n, k0, k, out) : pack_across<false>(side.matrix, from, n, k0, k, out);
  else
    left ? pack_left(side.matrix, from, n, k0, k, out) : pack_right(side.matrix, from, n, k0, k, out);
}

// Sums go out as bfloat16, or are added to what is there in float32.
inline void leave(__m512 low, __m512 high, Bits* out) { _mm512_storeu_si512(out, narrow(low, high)); }
inline void leave(__m512 low, __m512 high, float* out) {
  _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), low));
  _mm512_storeu_ps(out + 16, _mm512_add_ps(_mm512_loadu_ps(out + 16), high));
}

// Blocks of 32 × 32 sums, one after the other down and then across, → out [rows][columns] or its transpose.
template <class Out>
void leave_all(float* sums, int64_t rows, int64_t columns, int64_t padded_rows, bool transposed, Out* out, int64_t ld) {
  for (int64_t j = 0; j < columns; j += 32)
    for (int64_t i = 0; i < padded_rows; i += 32, sums += 1024) {
      if (!transposed) {
        for (int64_t r = 0; r < std::min<int64_t>(32, rows - i); r++)
          leave(_mm512_load_ps(sums + r * 32), _mm512_load_ps(sums + r * 32 + 16), out + (i + r) * ld + j);
        continue;
      }
      for (int64_t c = 0; c < 32; c += 16) {
        __m512i low[16], high[16];
        for (int r = 0; r < 16; r++) {
          low[r] = _mm512_load_si512(sums + r * 32 + c);
          high[r] = _mm512_load_si512(sums + (r + 16) * 32 + c);
        }
        transpose(low), transpose(high);
        for (int r = 0; r < 16; r++)
          leave(_mm512_castsi512_ps(low[r]), _mm512_castsi512_ps(high[r]), out + (j + c + r) * ld + i);
      }
    }
}

// out [m][n] = left · right, or its transpose into a matrix with rows `ld` apart
template <class Out>
void product(const Side& left, const Side& right, int64_t m, int64_t n, int64_t k, bool transposed, Out* out, int64_t ld) {
  const int64_t columns = block(n, kColumns, m > kRows ? 1 : omp_get_max_threads()), rows = block(m, kRows, 1);
  const int64_t down = (m + rows - 1) / rows, across = (n + columns - 1) / columns;
#pragma omp parallel
  {
    const Configured configured;
    scratch.resize((rows * columns * 4 + (rows + columns) * kPanel * 2) / 64);
    float* sums = reinterpret_cast<float*>(scratch.data());
    Bits *a = reinterpret_cast<Bits*>(sums + rows * columns), *b = a + rows * kPanel;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < down * across; task++) {
      const int64_t i0 = task / across * rows, j0 = task % across * columns;
      const int64_t here = std::min(rows, m - i0), wide = std::min(columns, n - j0), tall = up(here, 32);
      for (int64_t k0 = 0; k0 < k; k0 += kPanel) {
        const int64_t deep = up(std::min(kPanel, k - k0), kDeep), count = deep / kDeep;
        pack(left, true, i0, tall, k0, deep, a);
        pack(right, false, j0, wide, k0, deep, b);
        float* c = sums;
        for (int64_t j = 0; j < wide; j += 32)
          for (int64_t i = 0; i < tall; i += 32, c += 1024)
            multiply(in_panel(a, i, count), in_panel(b, j, count), count, k0 > 0, c, 32);
      }
      leave_all(sums, here, wide, tall, transposed, transposed ? out + j0 * ld + i0 : out + i0 * ld + j0, ld);
    }
  }
}

// The narrower operand is the left one, which costs more to pack: with `in` < `out` the transpose of dW is made.
template <class Out>
void weight_grad(const Bits* grad, const Bits* x, int64_t tokens, int64_t in, int64_t out, Out* d_weight) {
  const Side d_y{{grad, out, tokens}, Lies::kOutside}, seen{{x, in, tokens}, Lies::kOutside};
  if (in < out)
    product(seen, d_y, in, out, tokens, true, d_weight, in);
  else
    product(d_y, seen, out, in, tokens, false, d_weight, in);
}

}  // namespace

// of one piece
extern "C" void athanor_input_grad(int64_t tokens, int64_t in, int64_t, const Piece<Bits>* piece) {
  const Side left{{piece->a, piece->outputs, tokens}, Lies::kInside}, right{{piece->b, in, piece->outputs}, Lies::kOutside};
  product(left, right, tokens, in, piece->outputs, false, piece->c, in);
}

extern "C" void athanor_weight_grad(int64_t tokens, int64_t in, int64_t count, const Piece<Bits>* pieces) {
  for (int64_t i = 0; i < count; i++) weight_grad(pieces[i].a, pieces[i].b, tokens, in, pieces[i].outputs, pieces[i].c);
}

extern "C" void athanor_add_weight_grad(int64_t tokens, int64_t in, int64_t count, const Piece<Bits, float>* pieces) {
  for (int64_t i = 0; i < count; i++) weight_grad(pieces[i].a, pieces[i].b, tokens, in, pieces[i].outputs, pieces[i].c);
}

#endif  // __AMX_BF16__

extern "C" bool athanor_products_available() { return tiles::available(); }
