// Causal attention inside documents in float32, forward and backward, on AVX-512.
//
// As cpu_attention.cpp: blocks of 64 queries × 64 keys, scores transposed, [keys][queries]. A product multiplies single
// values of its left operand into vectors of its right one, so a left operand may lie either way, and only queries and output
// gradients are needed transposed. What is used often is copied first: rows of one head are far apart in memory, at distances
// that share few sets of the first-level cache.
//
// Built and called by native.py. Tensors are [tokens][heads][width] float32, contiguous, width a multiple of 16; lse is
// float [heads][tokens].

#include "cpu_softmax.h"
#include "cpu_tiles.h"

#include <cstring>
#include <utility>

#ifdef __AVX512F__

namespace {

using namespace softmax;

struct Left {  // element (row, k) of an operand
  const float* data;
  int64_t row, k;
};

struct Right {  // rows of k, `stride` apart
  const float* data;
  int64_t stride;
};

struct Sums {
  float* data;
  int64_t stride;
};

template <int kRows, int kWide>
inline void multiply(const Left& left, const Right& right, int64_t k, bool add, const Sums& out) {
  __m512 sum[kRows][kWide];
  for (int r = 0; r < kRows; r++)
    for (int v = 0; v < kWide; v++)
      sum[r][v] = add ? _mm512_loadu_ps(out.data + r * out.stride + v * 16) : _mm512_setzero_ps();
  for (int64_t i = 0; i < k; i++) {
    __m512 row[kWide];
    for (int v = 0; v < kWide; v++) row[v] = _mm512_loadu_ps(right.data + i * right.stride + v * 16);
    for (int r = 0; r < kRows; r++) {
      const __m512 value = _mm512_set1_ps(left.data[r * left.row + i * left.k]);
      for (int v = 0; v < kWide; v++) sum[r][v] = _mm512_fmadd_ps(value, row[v], sum[r][v]);
    }
  }
  for (int r = 0; r < kRows; r++)
    for (int v = 0; v < kWide; v++) _mm512_storeu_ps(out.data + r * out.stride + v * 16, sum[r][v]);
}

template <int kRows, int kWide>
void multiply_rows(int64_t rows, Left left, const Right& right, int64_t k, bool add, Sums out) {
  for (; rows >= kRows; rows -= kRows, left.data += kRows * left.row, out.data += kRows * out.stride)
    multiply<kRows, kWide>(left, right, k, add, out);
  if constexpr (kRows > 1)
    if (rows > 0) multiply_rows<kRows / 2, kWide>(rows, left, right, k, add, out);
}

// out [rows][columns] (+)= left [rows][k] · right [k][columns], columns a multiple of 16. 24 of the 32 registers hold sums.
void product(int64_t rows, int64_t columns, int64_t k, bool add, const Left& left, Right right, Sums out) {
  const auto next = [&](int64_t done) { columns -= done, right.data += done, out.data += done; };
  for (; columns >= 64; next(64)) multiply_rows<6, 4>(rows, left, right, k, add, out);
  for (; columns >= 32; next(32)) multiply_rows<12, 2>(rows, left, right, k, add, out);
  if (columns > 0) multiply_rows<12, 1>(rows, left, right, k, add, out);
}

// Products of a block of keys and one of queries. Where both are the same, its second half of keys is not seen by the first
// half of queries: a quarter is left out, and never read.
constexpr int64_t kHalf = kBlock / 2;

// out [keys][64] = keys [keys][width] · queries [width][64]
void score(int64_t keys, int64_t width, bool diagonal, const Left& left, const Right& right, const Sums& out) {
  const int64_t seen_by_all = diagonal ? std::min(keys, kHalf) : keys;
  product(seen_by_all, kBlock, width, false, left, right, out);
  if (keys > seen_by_all)
    product(keys - kHalf, kHalf, width, false, {left.data + kHalf * left.row, left.row, left.k},
            {right.data + kHalf, right.stride}, {out.data + kHalf * out.stride + kHalf, out.stride});
}

// out [width][64] (+)= left [width][keys] · right [keys][64]
void sum_keys(int64_t keys, int64_t width, bool diagonal, bool add, const Left& left, const Right& right, const Sums& out) {
  if (!diagonal || keys <= kHalf) return product(width, kBlock, keys, add, left, right, out);
  product(width, kHalf, kHalf, add, left, right, out);
  product(width, kHalf, keys, add, left, {right.data + kHalf, right.stride}, {out.data + kHalf, out.stride});
}

// out [keys][width] += left [keys][queries] · right [queries][width]
void sum_queries(int64_t keys, int64_t queries, int64_t width, bool diagonal, const Left& left, const Right& right,
                 const Sums& out) {
  const int64_t seen_by_all = diagonal ? std::min(keys, kHalf) : keys;
  product(seen_by_all, width, queries, true, left, right, out);
  if (keys > seen_by_all)
    product(keys - kHalf, width, queries - kHalf, true, {left.data + kHalf * left.row + kHalf * left.k, left.row, left.k},
            {right.data + kHalf * right.stride, right.stride}, {out.data + kHalf * out.stride, out.stride});
}

// How many keys a vector of queries is multiplied with
int64_t keys_for(int64_t vector, int64_t keys, bool diagonal) {
  return diagonal && vector * 16 < kHalf ? std::min(keys, kHalf) : keys;
}

// Rows of one head ↔ rows without gaps. They are far apart, which the processor's own prefetching does not follow.
void copy(const float* x, int64_t from, int64_t rows, int64_t width, float* out, int64_t to) {
  constexpr int64_t kAhead = 12;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < width; c += 16) {
      _mm_prefetch(reinterpret_cast<const char*>(x + (r + kAhead) * from + c), _MM_HINT_T0);
      __builtin_prefetch(out + (r + kAhead) * to + c, 1);
      _mm512_storeu_ps(out + r * to + c, _mm512_loadu_ps(x + r * from + c));
    }
}

// Up to 64 rows x [rows][width], `stride` apart → [width][64], zeros behind them
void take_transposed(const float* x, int64_t rows, int64_t width, int64_t stride, float* out) {
  for (int64_t v = 0; v < kBlock; v += 16)
    for (int64_t c = 0; c < width; c += 16) {
      __m512i block[16];
      for (int64_t r = 0; r < 16; r++)
        block[r] = v + r < rows ? _mm512_loadu_si512(x + (v + r) * stride + c) : _mm512_setzero_si512();
      tiles::transpose(block);
      for (int r = 0; r < 16; r++) _mm512_store_si512(out + (c + r) * kBlock + v, block[r]);
    }
}

// and back, times a factor of each row
void put_transposed(const float* x, const float* factor, int64_t rows, int64_t width, int64_t stride, float* out) {
  for (int64_t v = 0; v < rows; v += 16)
    for (int64_t c = 0; c < width; c += 16) {
      __m512i block[16];
      const __m512 by = _mm512_loadu_ps(factor + v);
      for (int r = 0; r < 16; r++)
        block[r] = _mm512_castps_si512(_mm512_mul_ps(_mm512_load_ps(x + (c + r) * kBlock + v), by));
      tiles::transpose(block);
      for (int64_t r = 0; r < std::min<int64_t>(16, rows - v); r++)
        _mm512_storeu_si512(out + (v + r) * stride + c, block[r]);
    }
}

// Softmax of one block [keys][queries] in its place, carried on from the blocks before; `factor`: that for what was
// collected so far.
void probabilities(float* scores, int64_t keys, float scale, bool diagonal, Seen& seen, float* factor) {
  const __m512 by = _mm512_set1_ps(scale);
  for (int64_t v = 0; v < kVectors; v++) {
    const int64_t n = keys_for(v, keys, diagonal);
    _mm512_storeu_ps(factor + v * 16, seen.raise(v, scores, n, by, diagonal));
    __m512 sum = seen.sum[v];
    for (int64_t k = 0; k < n; k++) {
      float* at = scores + k * kBlock + v * 16;
      const __m512 p = exp2_fast(_mm512_fmsub_ps(_mm512_load_ps(at), by, seen.max[v]));
      const __m512 seen_p = diagonal ? _mm512_maskz_mov_ps(sees(k, v), p) : p;
      sum = _mm512_add_ps(sum, seen_p);
      _mm512_store_ps(at, seen_p);
    }
    seen.sum[v] = sum;
  }
}

struct Document {  // of one key head: rows without gaps
  const float *keys, *values;
  int64_t length;
};

void forward_head(const Shape& s, const float* q, const Document& doc, Scratch memory, float* out, float* lse) {
  const int64_t d = s.width, stride = s.heads * d;
  float *q_t = memory.take<float>(d * kBlock), *scores = memory.take<float>(kBlock * kBlock),
        *mixed = memory.take<float>(d * kBlock);
  for (int64_t q0 = 0; q0 < doc.length; q0 += kBlock) {
    const int64_t rows = std::min(kBlock, doc.length - q0);
    take_transposed(q + q0 * stride, rows, d, stride, q_t);
    fetch(q + (q0 + kBlock) * stride, std::clamp<int64_t>(doc.length - q0 - kBlock, 0, kBlock), d, stride);
    fetch(out + q0 * stride, rows, d, stride);
    Seen seen;
    float factor[kBlock];
    for (int64_t k0 = 0; k0 <= q0; k0 += kBlock) {
      const int64_t keys = std::min(kBlock, doc.length - k0), at = k0 * d;
      score(keys, d, k0 == q0, {doc.keys + at, d, 1}, {q_t, kBlock}, {scores, kBlock});
      probabilities(scores, keys, s.scale * kLog2E, k0 == q0, seen, factor);
      if (k0 > 0) shrink(mixed, d, factor);
      sum_keys(keys, d, k0 == q0, k0 > 0, {doc.values + at, 1, d}, {scores, kBlock}, {mixed, kBlock});
    }
    seen.finish(rows, lse + q0, factor);
    put_transposed(mixed, factor, rows, d, stride, out + q0 * stride);
  }
}

// Scores and their products with values → probabilities and score gradients, each in its place. `lse` in base 2.
void gradients(float* scores, float* d_probs, int64_t keys, const float* lse, const float* delta, float scale,
               bool diagonal) {
  const __m512 by = _mm512_set1_ps(scale), by_2 = _mm512_set1_ps(scale * kLog2E);
  for (int64_t v = 0; v < kVectors; v++) {
    const __m512 sum = _mm512_loadu_ps(lse + v * 16), mean = _mm512_loadu_ps(delta + v * 16);
    for (int64_t k = 0; k < keys_for(v, keys, diagonal); k++) {
      const int64_t at = k * kBlock + v * 16;
      __m512 p = exp2_fast(_mm512_fmsub_ps(_mm512_load_ps(scores + at), by_2, sum));
      if (diagonal) p = _mm512_maskz_mov_ps(sees(k, v), p);
      _mm512_store_ps(scores + at, p);
      _mm512_store_ps(d_probs + at, _mm512_mul_ps(_mm512_mul_ps(p, by), _mm512_sub_ps(_mm512_load_ps(d_probs + at), mean)));
    }
  }
}

struct Head {  // what the backward pass reads of one query head of one document
  const float *q, *out, *grad, *lse;
  float* d_q;
};

// lse in base 2 and Σ grad · out of a block's queries; none of a probability behind the document's end
void statistics(const Head& h, int64_t q0, int64_t rows, int64_t width, int64_t stride, float* lse, float* delta) {
  for (int64_t t = 0; t < kBlock; t++) {
    __m512 dot = _mm512_setzero_ps();
    for (int64_t c = 0; t < rows && c < width; c += 16)
      dot = _mm512_fmadd_ps(_mm512_loadu_ps(h.grad + (q0 + t) * stride + c),
                            _mm512_loadu_ps(h.out + (q0 + t) * stride + c), dot);
    delta[t] = _mm512_reduce_add_ps(dot);
    lse[t] = t < rows ? h.lse[q0 + t] * kLog2E : -kLow;
  }
}

void backward_head(const Shape& s, const Head& h, const Document& doc, Scratch memory, float* d_keys, float* d_values) {
  const int64_t d = s.width, stride = s.heads * d;
  float *q_t = memory.take<float>(d * kBlock), *grad_t = memory.take<float>(d * kBlock),
        *scores = memory.take<float>(kBlock * kBlock), *d_probs = memory.take<float>(kBlock * kBlock),
        *d_q = memory.take<float>(d * kBlock), *q = memory.take<float>(d * kBlock), *grad = memory.take<float>(d * kBlock);
  float lse[kBlock], delta[kBlock], one[kBlock];
  std::fill_n(one, kBlock, 1.0f);
  for (int64_t q0 = 0; q0 < doc.length; q0 += kBlock) {
    const int64_t rows = std::min(kBlock, doc.length - q0);
    copy(h.q + q0 * stride, stride, rows, d, q, d);
    copy(h.grad + q0 * stride, stride, rows, d, grad, d);
    take_transposed(q, rows, d, d, q_t);
    take_transposed(grad, rows, d, d, grad_t);
    statistics(h, q0, rows, d, stride, lse, delta);
    for (const float* x : {h.q, h.grad, h.out})
      fetch(x + (q0 + kBlock) * stride, std::clamp<int64_t>(doc.length - q0 - kBlock, 0, kBlock), d, stride);
    fetch(h.d_q + q0 * stride, rows, d, stride);
    for (int64_t k0 = 0; k0 <= q0; k0 += kBlock) {
      const int64_t keys = std::min(kBlock, doc.length - k0), at = k0 * d;
      const bool diagonal = k0 == q0;
      score(keys, d, diagonal, {doc.keys + at, d, 1}, {q_t, kBlock}, {scores, kBlock});
      score(keys, d, diagonal, {doc.values + at, d, 1}, {grad_t, kBlock}, {d_probs, kBlock});
      gradients(scores, d_probs, keys, lse, delta, s.scale, diagonal);
      sum_queries(keys, rows, d, diagonal, {scores, kBlock, 1}, {grad, d}, {d_values + at, d});
      sum_queries(keys, rows, d, diagonal, {d_probs, kBlock, 1}, {q, d}, {d_keys + at, d});
      sum_keys(keys, d, diagonal, k0 > 0, {doc.keys + at, 1, d}, {d_probs, kBlock}, {d_q, kBlock});
    }
    put_transposed(d_q, one, rows, d, stride, h.d_q + q0 * stride);
  }
}

struct Nothing {};

}  // namespace

extern "C" void athanor_attention_forward_f32(const float* q, const float* k, const float* v, const int64_t* lens,
                                              int64_t n_docs, int64_t tokens, int64_t heads, int64_t kv_heads,
                                              int64_t width, float* out, float* lse) {
  const Shape s{tokens, heads, kv_heads, width, 1.0f / std::sqrt(static_cast<float>(width))};
  for_each<Nothing>(s, lens, n_docs, [&](int64_t start, int64_t length, int64_t kv) {
    const int64_t kv_stride = kv_heads * width, kv_at = start * kv_stride + kv * width, group = heads / kv_heads;
    Scratch memory((kBlock * (2 * width + kBlock) + 2 * length * width) * 4);
    float *keys = memory.take<float>(length * width), *values = memory.take<float>(length * width);
    copy(k + kv_at, kv_stride, length, width, keys, width);
    copy(v + kv_at, kv_stride, length, width, values, width);
    for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
      const int64_t at = (start * heads + h) * width;
      forward_head(s, q + at, {keys, values, length}, memory, out + at, lse + h * tokens + start);
    }
  });
}

extern "C" void athanor_attention_backward_f32(const float* grad, const float* q, const float* k, const float* v,
                                               const float* out, const float* lse, const int64_t* lens, int64_t n_docs,
                                               int64_t tokens, int64_t heads, int64_t kv_heads, int64_t width,
                                               float* d_q, float* d_k, float* d_v) {
  const Shape s{tokens, heads, kv_heads, width, 1.0f / std::sqrt(static_cast<float>(width))};
  for_each<Nothing>(s, lens, n_docs, [&](int64_t start, int64_t length, int64_t kv) {
    const int64_t kv_stride = kv_heads * width, kv_at = start * kv_stride + kv * width, group = heads / kv_heads;
    const int64_t n = length * width;
    Scratch memory((kBlock * (5 * width + 2 * kBlock) + 4 * n) * 4);
    float *keys = memory.take<float>(n), *values = memory.take<float>(n), *d_keys = memory.take<float>(n),
          *d_values = memory.take<float>(n);
    copy(k + kv_at, kv_stride, length, width, keys, width);
    copy(v + kv_at, kv_stride, length, width, values, width);
    std::fill_n(d_keys, n, 0.0f);
    std::fill_n(d_values, n, 0.0f);
    for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
      const int64_t at = (start * heads + h) * width;
      backward_head(s, {q + at, out + at, grad + at, lse + h * tokens + start, d_q + at}, {keys, values, length}, memory,
                    d_keys, d_values);
    }
    copy(d_keys, width, length, width, d_k + kv_at, kv_stride);
    copy(d_values, width, length, width, d_v + kv_at, kv_stride);
  });
}

#endif  // __AVX512F__
