// Causal attention inside documents in bfloat16, forward and backward, on AMX tiles (cpu_tiles.h).
//
// FlashAttention-2 (arXiv 2307.08691) over blocks of 64 queries × 64 keys that stay in a core's cache. Scores are made
// transposed, [keys][queries]: maxima and sums over keys are then plain vector operations, and the probabilities come out
// as tiles of the next products. Documents are read where they lie, without padding or gathering.
//
// Built and called by native.py. Tensors are [tokens][heads][width] bfloat16, contiguous; lse is float [heads][tokens].

#include "cpu_softmax.h"
#include "cpu_tiles.h"

#include <utility>

#ifdef __AMX_BF16__

namespace {

using namespace tiles;

using namespace softmax;

constexpr int64_t kHalf = kBlock / kDeep;  // tiles in a block along k

// Tiles (i / 16 and the next) of a panel `count` tiles deep, from the tile of k = `from` on
inline Operand part(const Bits* panel, int64_t i, int64_t count, int64_t from) {
  return in_panel(panel + from / kDeep * kTile, i, count);
}

// [width][64] float32 · factor[64] → `rows` rows of a head
void put_transposed(const float* x, const float* factor, int64_t rows, int64_t width, int64_t stride, Bits* out) {
  for (int64_t v = 0; v < kVectors && v * 16 < rows; v++) {
    const __m512 by = _mm512_loadu_ps(factor + v * 16);
    for (int64_t c = 0; c < width; c += 32) {
      __m512i low[16], high[16];
      for (int r = 0; r < 16; r++) {
        low[r] = _mm512_castps_si512(_mm512_mul_ps(_mm512_load_ps(x + (c + r) * kBlock + v * 16), by));
        high[r] = _mm512_castps_si512(_mm512_mul_ps(_mm512_load_ps(x + (c + 16 + r) * kBlock + v * 16), by));
      }
      transpose(low), transpose(high);
      for (int64_t r = 0; r < std::min<int64_t>(16, rows - v * 16); r++)
        _mm512_storeu_si512(out + (v * 16 + r) * stride + c,
                            narrow(_mm512_castsi512_ps(low[r]), _mm512_castsi512_ps(high[r])));
    }
  }
}

// Softmax of one block [keys][queries] carried on from the blocks before: probabilities as right tiles; `factor`: that
// for what was collected so far.
void probabilities(const float* scores, float scale, bool diagonal, Seen& seen, float* factor, Bits* probs) {
  const __m512 by = _mm512_set1_ps(scale);
  const __m512i weave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  for (int64_t v = 0; v < kVectors; v++) {
    _mm512_storeu_ps(factor + v * 16, seen.raise(v, scores, kBlock, by, diagonal));
    const __m512 top = seen.max[v];
    __m512 sum = seen.sum[v];
    for (int64_t k = 0; k < kBlock; k += 2) {
      const float* row = scores + k * kBlock + v * 16;
      __m512 even = exp2_fast(_mm512_fmsub_ps(_mm512_load_ps(row), by, top));
      __m512 odd = exp2_fast(_mm512_fmsub_ps(_mm512_load_ps(row + kBlock), by, top));
      if (diagonal) even = _mm512_maskz_mov_ps(sees(k, v), even), odd = _mm512_maskz_mov_ps(sees(k + 1, v), odd);
      sum = _mm512_add_ps(sum, _mm512_add_ps(even, odd));
      Bits* out = probs + (v * kHalf + k / kDeep) * kTile + k % kDeep / 2 * kDeep;
      _mm512_store_si512(out, _mm512_permutexvar_epi16(weave, narrow(even, odd)));
    }
    seen.sum[v] = sum;
  }
}

// c [64][columns] (+)= left · right, both given by their first tile columns; k in tiles
template <class Left, class Right>
void multiply_block(int64_t rows, int64_t columns, int64_t k, bool add, float* c, int64_t ld, const Left& left,
                    const Right& right) {
  for (int64_t i = 0; i < rows; i += 32)
    for (int64_t j = 0; j < columns; j += 32) multiply(left(i), right(j), k, add, c + i * ld + j, ld);
}

// One query head of one document. `keys`: left panel; `values_t`: left panel of the transpose.
void forward_head(const Shape& s, const Bits* q, const Bits* keys, const Bits* values_t, int64_t length, int64_t padded,
                  Scratch memory, Bits* out, float* lse) {
  const int64_t d = s.width, stride = s.heads * d, deep = d / kDeep, count = padded / kDeep;
  Bits *queries = memory.take<Bits>(kBlock * d), *probs = memory.take<Bits>(kBlock * kBlock);
  float *scores = memory.take<float>(kBlock * kBlock), *mixed = memory.take<float>(d * kBlock);
  const float scale = s.scale * kLog2E;
  for (int64_t q0 = 0; q0 < length; q0 += kBlock) {
    pack_right({q, stride, length}, q0, kBlock, 0, d, queries);
    Seen seen;
    float factor[kBlock];
    for (int64_t k0 = 0; k0 <= q0; k0 += kBlock) {
      multiply_block(
          kBlock, kBlock, deep, false, scores, kBlock, [&](int64_t i) { return in_panel(keys, k0 + i, deep); },
          [&](int64_t j) { return in_panel(queries, j, deep); });
      probabilities(scores, scale, k0 == q0, seen, factor, probs);
      if (k0 > 0) shrink(mixed, d, factor);
      multiply_block(
          d, kBlock, kHalf, k0 > 0, mixed, kBlock, [&](int64_t i) { return part(values_t, i, count, k0); },
          [&](int64_t j) { return in_panel(probs, j, kHalf); });
    }
    const int64_t rows = std::min(kBlock, length - q0);
    seen.finish(rows, lse + q0, factor);
    put_transposed(mixed, factor, rows, d, stride, out + q0 * stride);
  }
}

// Probabilities and score gradients of one block from its products: both as left tiles [keys][queries], the latter also as
// right tiles. `lse` in base 2.
void gradients(const float* scores, const float* d_probs, const float* lse, const float* delta, float scale, bool diagonal,
               Bits* probs, Bits* d_scores, Bits* d_scores_right) {
  const __m512 by = _mm512_set1_ps(scale), by_2 = _mm512_set1_ps(scale * kLog2E);
  for (int64_t half = 0; half < kHalf; half++) {
    __m512 sum[2], mean[2];
    for (int v = 0; v < 2; v++) {
      sum[v] = _mm512_loadu_ps(lse + half * 32 + v * 16);
      mean[v] = _mm512_loadu_ps(delta + half * 32 + v * 16);
    }
    for (int64_t k = 0; k < kBlock; k += 2) {
      __m512i d_row[2];
      for (int64_t r = k; r < k + 2; r++) {
        __m512 p[2], d[2];
        for (int v = 0; v < 2; v++) {
          const int64_t at = r * kBlock + half * 32 + v * 16;
          p[v] = exp2_fast(_mm512_fmsub_ps(_mm512_load_ps(scores + at), by_2, sum[v]));
          if (diagonal) p[v] = _mm512_maskz_mov_ps(sees(r, half * 2 + v), p[v]);
          d[v] = _mm512_mul_ps(_mm512_mul_ps(p[v], by), _mm512_sub_ps(_mm512_load_ps(d_probs + at), mean[v]));
        }
        const int64_t row = (r / 16 * kHalf + half) * kTile + r % 16 * kDeep;
        d_row[r - k] = narrow(d[0], d[1]);
        _mm512_store_si512(probs + row, narrow(p[0], p[1]));
        _mm512_store_si512(d_scores + row, d_row[r - k]);
      }
      __m512i first, last;
      pair_up(d_row[0], d_row[1], first, last);
      Bits* right = d_scores_right + (half * 2 * kHalf + k / kDeep) * kTile + k % kDeep / 2 * kDeep;
      _mm512_store_si512(right, first);
      _mm512_store_si512(right + kHalf * kTile, last);
    }
  }
}

struct Keys {  // of one document: panels, and float32 sums [padded][width]
  const Bits *keys, *keys_t, *values;
  float *d_keys, *d_values;
};

struct Head {  // what the backward pass reads of one query head of one document
  const Bits *q, *out, *grad;
  const float* lse;
  Bits* d_q;
};

// lse in base 2 and Σ grad · out of each query; none of a probability behind the document's end
void statistics(const Head& h, int64_t length, int64_t padded, int64_t width, int64_t stride, float* lse, float* delta) {
  for (int64_t t = 0; t < padded; t++) {
    __m512 dot = _mm512_setzero_ps();
    for (int64_t c = 0; t < length && c < width; c += 32)
      dot = _mm512_dpbf16_ps(dot, reinterpret_cast<__m512bh>(_mm512_loadu_si512(h.grad + t * stride + c)),
                             reinterpret_cast<__m512bh>(_mm512_loadu_si512(h.out + t * stride + c)));
    delta[t] = _mm512_reduce_add_ps(dot);
    lse[t] = t < length ? h.lse[t] * kLog2E : -kLow;
  }
}

void backward_head(const Shape& s, const Head& h, const Keys& kv, int64_t length, int64_t padded, Scratch memory) {
  const int64_t d = s.width, stride = s.heads * d, deep = d / kDeep, count = padded / kDeep, n = padded * d;
  Bits *q_t = memory.take<Bits>(n), *q_r = memory.take<Bits>(n), *grad_t = memory.take<Bits>(n),
       *grad_r = memory.take<Bits>(n), *probs = memory.take<Bits>(kBlock * kBlock),
       *d_scores = memory.take<Bits>(kBlock * kBlock), *d_scores_right = memory.take<Bits>(kBlock * kBlock);
  float *scores = memory.take<float>(kBlock * kBlock), *d_probs = memory.take<float>(kBlock * kBlock),
        *d_q = memory.take<float>(n), *lse = memory.take<float>(padded), *delta = memory.take<float>(padded);
  const Matrix q{h.q, stride, length}, grad{h.grad, stride, length};
  pack_right(q, 0, padded, 0, d, q_t);
  pack_across<false>(q, 0, d, 0, padded, q_r);
  pack_right(grad, 0, padded, 0, d, grad_t);
  pack_across<false>(grad, 0, d, 0, padded, grad_r);
  statistics(h, length, padded, d, stride, lse, delta);
  const auto left_block = [&](const Bits* x) { return [=](int64_t i) { return in_panel(x, i, kHalf); }; };
  for (int64_t k0 = 0; k0 < padded; k0 += kBlock)
    for (int64_t q0 = k0; q0 < padded; q0 += kBlock) {
      const auto by_width = [&](const Bits* x, int64_t at) { return [=](int64_t i) { return in_panel(x, at + i, deep); }; };
      const auto by_token = [&](const Bits* x, int64_t at) { return [=](int64_t i) { return part(x, i, count, at); }; };
      multiply_block(kBlock, kBlock, deep, false, scores, kBlock, by_width(kv.keys, k0), by_width(q_t, q0));
      multiply_block(kBlock, kBlock, deep, false, d_probs, kBlock, by_width(kv.values, k0), by_width(grad_t, q0));
      gradients(scores, d_probs, lse + q0, delta + q0, s.scale, k0 == q0, probs, d_scores, d_scores_right);
      multiply_block(kBlock, d, kHalf, true, kv.d_values + k0 * d, d, left_block(probs), by_token(grad_r, q0));
      multiply_block(kBlock, d, kHalf, true, kv.d_keys + k0 * d, d, left_block(d_scores), by_token(q_r, q0));
      multiply_block(d, kBlock, kHalf, k0 > 0, d_q + q0 * d, kBlock, by_token(kv.keys_t, k0), left_block(d_scores_right));
    }
  float one[kBlock];
  std::fill_n(one, kBlock, 1.0f);
  for (int64_t q0 = 0; q0 < length; q0 += kBlock)
    put_transposed(d_q + q0 * d, one, std::min(kBlock, length - q0), d, stride, h.d_q + q0 * stride);
}

}  // namespace

extern "C" void athanor_attention_forward(const Bits* q, const Bits* k, const Bits* v, const int64_t* lens,
                                          int64_t n_docs, int64_t tokens, int64_t heads, int64_t kv_heads,
                                          int64_t width, Bits* out, float* lse) {
  const Shape s{tokens, heads, kv_heads, width, 1.0f / std::sqrt(static_cast<float>(width))};
  for_each<Configured>(s, lens, n_docs, [&](int64_t start, int64_t length, int64_t kv) {
    const int64_t padded = up_to_block(length), kv_stride = kv_heads * width, group = heads / kv_heads;
    const int64_t kv_at = start * kv_stride + kv * width, n = padded * width;
    Scratch memory(2 * n * 2 + kBlock * (width * 6 + kBlock * 6));
    Bits *keys = memory.take<Bits>(n), *values_t = memory.take<Bits>(n);
    pack_left({k + kv_at, kv_stride, length}, 0, padded, 0, width, keys);
    pack_across<true>({v + kv_at, kv_stride, length}, 0, width, 0, padded, values_t);
    for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
      const int64_t at = (start * heads + h) * width;
      forward_head(s, q + at, keys, values_t, length, padded, memory, out + at, lse + h * tokens + start);
    }
  });
}

extern "C" void athanor_attention_backward(const Bits* grad, const Bits* q, const Bits* k, const Bits* v,
                                           const Bits* out, const float* lse, const int64_t* lens, int64_t n_docs,
                                           int64_t tokens, int64_t heads, int64_t kv_heads, int64_t width, Bits* d_q,
                                           Bits* d_k, Bits* d_v) {
  const Shape s{tokens, heads, kv_heads, width, 1.0f / std::sqrt(static_cast<float>(width))};
  for_each<Configured>(s, lens, n_docs, [&](int64_t start, int64_t length, int64_t kv) {
    const int64_t padded = up_to_block(length), kv_stride = kv_heads * width, group = heads / kv_heads;
    const int64_t kv_at = start * kv_stride + kv * width, n = padded * width;
    Scratch memory(n * (7 * 2 + 3 * 4) + padded * 8 + kBlock * kBlock * 14);
    Bits *keys = memory.take<Bits>(n), *keys_t = memory.take<Bits>(n), *values = memory.take<Bits>(n);
    float *d_keys = memory.take<float>(n), *d_values = memory.take<float>(n);
    pack_left({k + kv_at, kv_stride, length}, 0, padded, 0, width, keys);
    pack_across<true>({k + kv_at, kv_stride, length}, 0, width, 0, padded, keys_t);
    pack_left({v + kv_at, kv_stride, length}, 0, padded, 0, width, values);
    std::fill_n(d_keys, n, 0.0f);
    std::fill_n(d_values, n, 0.0f);
    for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
      const int64_t at = (start * heads + h) * width;
      backward_head(s, {q + at, out + at, grad + at, lse + h * tokens + start, d_q + at},
                    {keys, keys_t, values, d_keys, d_values}, length, padded, memory);
    }
    for (auto [sum, d_x] : {std::pair{d_keys, d_k}, std::pair{d_values, d_v}})
      for (int64_t t = 0; t < length; t++)
        for (int64_t c = 0; c < width; c += 32)
          _mm512_storeu_si512(d_x + kv_at + t * kv_stride + c,
                              narrow(_mm512_load_ps(sum + t * width + c), _mm512_load_ps(sum + t * width + c + 16)));
  });
}

#endif  // __AMX_BF16__

extern "C" bool athanor_attention_available() { return tiles::available(); }
