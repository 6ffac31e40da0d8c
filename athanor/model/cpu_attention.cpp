// Causal attention inside documents in bfloat16, forward and backward, on processors with bfloat16 matrix instructions.
//
// FlashAttention-2 (arXiv 2307.08691) over blocks of 64 queries × 64 keys that stay in a core's cache. Scores are made
// transposed, [keys][queries]: maxima and sums over keys are then plain vector operations, and the probabilities are
// the left operand of the products for keys and values as they are. Products are PyTorch's own brgemm; this file packs
// operands, does the softmax between products, and reads documents where they lie, without padding or gathering.
//
// Built and called by native.py. Tensors are [tokens][heads][width] bfloat16, contiguous; lse is float [heads][tokens].

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace c10 {
struct BFloat16;
enum class ScalarType : int8_t;
}  // namespace c10
namespace at::native::cpublas {
// ATen/native/CPUBlas.h: C [M, N] (+)= A [M, K] · B [K, N]; B lies in pairs of rows (k, k + 1) interleaved, ld_b ≤ 64
void brgemm(int64_t M, int64_t N, int64_t K, int64_t ld_a, int64_t ld_b, int64_t ld_c, bool add_C,
            const c10::BFloat16* A, const c10::BFloat16* B, float* C, bool is_vnni);
void brgemm_release(bool is_vnni);
bool could_pack(c10::ScalarType type);  // whether brgemm has kernels for it on this processor
}  // namespace at::native::cpublas

namespace {

constexpr int64_t kBlock = 64;
constexpr float kLow = -1e30f;  // stands for -inf, without its NaNs

using Bits = uint16_t;  // a bfloat16
using Pair = uint32_t;  // two of them

void product(int64_t m, int64_t n, int64_t k, int64_t ld_a, int64_t ld_b, int64_t ld_c, bool add, const Bits* a,
             const void* b, float* c) {
  at::native::cpublas::brgemm(m, n, k, ld_a, ld_b, ld_c, add, reinterpret_cast<const c10::BFloat16*>(a),
                              reinterpret_cast<const c10::BFloat16*>(b), c, true);
}

inline float wide(Bits x) {
  uint32_t bits = static_cast<uint32_t>(x) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

inline uint32_t narrow(float x) {  // round to nearest even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline float larger(float a, float b) { return a > b ? a : b; }  // by value: std::max's references are not vectorised

// exp for x ≤ about 0, to 3e-6: 2^n · 2^f with a polynomial for 2^f, |f| ≤ ½; small enough to be vectorised
inline float exp_fast(float x) {
  float t = larger(x * 1.44269504f, -126.0f);
  float n = std::floor(t + 0.5f), f = t - n;
  float p = 1.0f + f * (0.69314718f + f * (0.24022651f + f * (0.05550411f + f * (0.00961813f + f * 0.00133336f))));
  int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return p * scale;
}

// rows of one head → [padded][width], zeros behind the document's end
void take(const Bits* x, int64_t stride, int64_t length, int64_t padded, int64_t width, Bits* out) {
  for (int64_t t = 0; t < length; t++) std::memcpy(out + t * width, x + t * stride, width * sizeof(Bits));
  std::memset(out + length * width, 0, (padded - length) * width * sizeof(Bits));
}

// [64][columns] → [columns][64] in place: six perfect shuffles of the whole (n elements), which unlike a transposition
// by its definition are loops over neighbours. `spare`: as large as x.
template <class T>
void transpose_64(T* __restrict x, T* __restrict spare, int64_t n) {
  const int64_t half = n / 2;
  for (int pass = 0; pass < 6; pass++, std::swap(x, spare))
    for (int64_t i = 0; i < half; i++) {
      spare[2 * i] = x[i];
      spare[2 * i + 1] = x[i + half];
    }
}

// and back: [columns][64] → [64][columns]
template <class T>
void untranspose_64(T* __restrict x, T* __restrict spare, int64_t n) {
  const int64_t half = n / 2;
  for (int pass = 0; pass < 6; pass++, std::swap(x, spare))
    for (int64_t i = 0; i < half; i++) {
      spare[i] = x[2 * i];
      spare[i + half] = x[2 * i + 1];
    }
}

// left operand Xᵀ in blocks of 64 tokens: [padded][width] → [padded / 64][width][64]
void transpose(const Bits* x, int64_t padded, int64_t width, Bits* spare, Bits* out) {
  std::memcpy(out, x, padded * width * sizeof(Bits));
  for (int64_t t0 = 0; t0 < padded; t0 += kBlock) transpose_64(out + t0 * width, spare, kBlock * width);
}

// right operand Xᵀ [width][tokens], in panels of 64 tokens: [padded / 64][width / 2][64] pairs of channels
void pack_transposed(const Bits* x, int64_t padded, int64_t width, Pair* spare, Pair* out) {
  const int64_t n = kBlock * width / 2;
  std::memcpy(out, x, padded * width * sizeof(Bits));
  for (int64_t t0 = 0; t0 < padded; t0 += kBlock, out += n) transpose_64(out, spare, n);
}

// right operand X [tokens][width], in panels of `panel` channels: [padded / 64][width / panel][32][panel] pairs of rows
void pack_rows(const Bits* x, int64_t padded, int64_t width, int64_t panel, Pair* out) {
  for (int64_t t0 = 0; t0 < padded; t0 += kBlock)
    for (int64_t d0 = 0; d0 < width; d0 += panel)
      for (int64_t t = t0; t < t0 + kBlock; t += 2, out += panel)
        for (int64_t d = 0; d < panel; d++)
          out[d] = x[t * width + d0 + d] | static_cast<Pair>(x[(t + 1) * width + d0 + d]) << 16;
}

void narrow_all(const float* x, int64_t n, Bits* out) {
  for (int64_t i = 0; i < n; i++) out[i] = narrow(x[i]);
}

// [rows][width] → the rows of one head
void put(const Bits* x, int64_t rows, int64_t width, int64_t stride, Bits* out) {
  for (int64_t t = 0; t < rows; t++) std::memcpy(out + t * stride, x + t * width, width * sizeof(Bits));
}

// One block [width][64] → `rows` rows of one head. `spare`: twice as large as x.
void put_transposed(const float* x, int64_t rows, int64_t width, int64_t stride, Bits* spare, Bits* out) {
  narrow_all(x, width * kBlock, spare);
  untranspose_64(spare, spare + width * kBlock, width * kBlock);
  put(spare, rows, width, stride, out);
}

struct Shape {
  int64_t tokens, heads, kv_heads, width;
  float scale;
};

// One key row against 64 queries. `diagonal`: how many of the first queries come before this key (they see nothing).
inline void forget_before(float* row, int64_t diagonal) {
#pragma omp simd
  for (int64_t q = 0; q < kBlock; q++) row[q] = q < diagonal ? kLow : row[q];
}

struct Scratch {  // grows to the largest document a thread has seen
  std::vector<Bits> bits[7];
  std::vector<Pair> pairs[6];
  std::vector<float> floats[6];
  Bits* b(int i, int64_t n) { return grown(bits[i], n); }
  Pair* p(int i, int64_t n) { return grown(pairs[i], n); }
  float* f(int i, int64_t n) { return grown(floats[i], n); }
  template <class T>
  static T* grown(std::vector<T>& x, int64_t n) {
    if (static_cast<int64_t>(x.size()) < n) x.resize(n);
    return x.data();
  }
};

thread_local Scratch scratch;

// Softmax of one block over its keys, carried on from the blocks before: probabilities as a right operand, [keys / 2][64]
// pairs; the sums, maxima and the factor by which what was collected so far shrinks.
void forward_block(float* __restrict scores, float scale, bool diagonal, float* __restrict max, float* __restrict sum,
                   float* __restrict shrink, Pair* __restrict probs) {
  float top[kBlock];
#pragma omp simd
  for (int64_t q = 0; q < kBlock; q++) top[q] = max[q] / scale;
  for (int64_t k = 0; k < kBlock; k++) {
    float* row = scores + k * kBlock;
    if (diagonal) forget_before(row, k);
#pragma omp simd
    for (int64_t q = 0; q < kBlock; q++) top[q] = larger(row[q], top[q]);
  }
#pragma omp simd
  for (int64_t q = 0; q < kBlock; q++) {
    top[q] *= scale;
    shrink[q] = exp_fast(max[q] - top[q]);
    sum[q] *= shrink[q];
    max[q] = top[q];
  }
  for (int64_t k = 0; k < kBlock; k += 2) {
    const float *even = scores + k * kBlock, *odd = even + kBlock;
    Pair* out = probs + k / 2 * kBlock;
#pragma omp simd
    for (int64_t q = 0; q < kBlock; q++) {
      float a = exp_fast(even[q] * scale - top[q]), b = exp_fast(odd[q] * scale - top[q]);
      sum[q] += a + b;
      out[q] = narrow(a) | narrow(b) << 16;
    }
  }
}

void forward_head(const Shape& s, const Bits* q, const Bits* keys, const Bits* values_t, int64_t length, int64_t padded,
                  Bits* out, float* lse) {
  const int64_t d = s.width, stride = s.heads * d;
  Bits* rows = scratch.b(2, padded * d);
  Pair* q_t = scratch.p(0, padded / 2 * d);
  Pair* probs = scratch.p(1, kBlock / 2 * kBlock);
  float* scores = scratch.f(0, kBlock * kBlock);
  float* mixed = scratch.f(1, d * kBlock);
  take(q, stride, length, padded, d, rows);
  pack_transposed(rows, padded, d, scratch.p(5, kBlock / 2 * d), q_t);
  for (int64_t q0 = 0; q0 < padded; q0 += kBlock) {
    float max[kBlock], sum[kBlock], shrink[kBlock];
    std::fill_n(max, kBlock, kLow);
    std::fill_n(sum, kBlock, 0.0f);
    std::fill_n(mixed, d * kBlock, 0.0f);
    for (int64_t k0 = 0; k0 <= q0; k0 += kBlock) {
      product(kBlock, kBlock, d, d, kBlock, kBlock, false, keys + k0 * d, q_t + q0 / 2 * d, scores);
      forward_block(scores, s.scale, k0 == q0, max, sum, shrink, probs);
      if (k0 > 0)
        for (int64_t c = 0; c < d; c++)
#pragma omp simd
          for (int64_t i = 0; i < kBlock; i++) mixed[c * kBlock + i] *= shrink[i];
      product(d, kBlock, kBlock, kBlock, kBlock, kBlock, true, values_t + k0 * d, probs, mixed);
    }
    const int64_t n = std::min(kBlock, length - q0);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) lse[q0 + i] = max[i] + std::log(sum[i]);
#pragma omp simd
    for (int64_t i = 0; i < kBlock; i++) sum[i] = 1.0f / sum[i];
    for (int64_t c = 0; c < d; c++)
#pragma omp simd
      for (int64_t i = 0; i < kBlock; i++) mixed[c * kBlock + i] *= sum[i];
    put_transposed(mixed, n, d, stride, scratch.b(6, 2 * kBlock * d), out + q0 * stride);
  }
}

// Probabilities and score gradients of one block from its products: both as left operands [keys][64], the latter also
// as a right operand.
void backward_block(const float* __restrict scores, const float* __restrict d_probs, const float* __restrict lse,
                    const float* __restrict delta, float scale, bool diagonal, Bits* __restrict probs,
                    Bits* __restrict d_scores, Pair* __restrict d_scores_right) {
  for (int64_t k = 0; k < kBlock; k += 2) {
    for (int64_t r = k; r < k + 2; r++) {
      const float *row = scores + r * kBlock, *d_row = d_probs + r * kBlock;
      const int64_t hidden = diagonal ? r : 0;
#pragma omp simd
      for (int64_t q = 0; q < kBlock; q++) {
        float p = q < hidden ? 0.0f : exp_fast(row[q] * scale - lse[q]);
        probs[r * kBlock + q] = narrow(p);
        d_scores[r * kBlock + q] = narrow(p * (d_row[q] - delta[q]) * scale);
      }
    }
    const Bits *even = d_scores + k * kBlock, *odd = even + kBlock;
#pragma omp simd
    for (int64_t q = 0; q < kBlock; q++) d_scores_right[k / 2 * kBlock + q] = even[q] | static_cast<Pair>(odd[q]) << 16;
  }
}

struct Head {  // what the backward pass reads of one query head of one document
  const Bits *q, *out, *grad;
  const float* lse;
  Bits* d_q;
};

void backward_head(const Shape& s, const Head& h, const Bits* keys, const Bits* keys_t, const Bits* values,
                   int64_t length, int64_t padded, float* d_k, float* d_v) {
  const int64_t d = s.width, stride = s.heads * d, panel = d % 64 == 0 ? 64 : 32;
  Bits *rows = scratch.b(3, padded * d), *probs = scratch.b(4, kBlock * kBlock), *d_scores = scratch.b(5, kBlock * kBlock);
  Pair *q_t = scratch.p(0, padded / 2 * d), *grad_t = scratch.p(1, padded / 2 * d), *q_r = scratch.p(2, padded / 2 * d),
       *grad_r = scratch.p(3, padded / 2 * d), *right = scratch.p(4, kBlock / 2 * kBlock), *spare = scratch.p(5, kBlock / 2 * d);
  float *scores = scratch.f(0, kBlock * kBlock), *d_probs = scratch.f(1, kBlock * kBlock), *d_q = scratch.f(2, d * padded),
        *stats = scratch.f(3, 2 * padded);
  take(h.q, stride, length, padded, d, rows);
  pack_transposed(rows, padded, d, spare, q_t);
  pack_rows(rows, padded, d, panel, q_r);
  take(h.grad, stride, length, padded, d, rows);
  pack_transposed(rows, padded, d, spare, grad_t);
  pack_rows(rows, padded, d, panel, grad_r);
  float *lse = stats, *delta = stats + padded;
  for (int64_t t = 0; t < padded; t++) {
    float dot = 0.0f;
    if (t < length)
      for (int64_t c = 0; c < d; c++) dot += wide(h.grad[t * stride + c]) * wide(h.out[t * stride + c]);
    delta[t] = dot;
    lse[t] = t < length ? h.lse[t] : -kLow;  // no probability for what is no query
  }
  std::fill_n(d_q, d * padded, 0.0f);
  for (int64_t k0 = 0; k0 < padded; k0 += kBlock)
    for (int64_t q0 = k0; q0 < padded; q0 += kBlock) {
      product(kBlock, kBlock, d, d, kBlock, kBlock, false, keys + k0 * d, q_t + q0 / 2 * d, scores);
      product(kBlock, kBlock, d, d, kBlock, kBlock, false, values + k0 * d, grad_t + q0 / 2 * d, d_probs);
      backward_block(scores, d_probs, lse + q0, delta + q0, s.scale, k0 == q0, probs, d_scores, right);
      for (int64_t c = 0; c < d; c += panel) {
        const int64_t at = q0 / 2 * d + c * kBlock / 2;
        product(kBlock, panel, kBlock, kBlock, panel, d, true, probs, grad_r + at, d_v + k0 * d + c);
        product(kBlock, panel, kBlock, kBlock, panel, d, true, d_scores, q_r + at, d_k + k0 * d + c);
      }
      product(d, kBlock, kBlock, kBlock, kBlock, kBlock, true, keys_t + k0 * d, right, d_q + q0 * d);
    }
  for (int64_t q0 = 0; q0 < padded; q0 += kBlock)
    put_transposed(d_q + q0 * d, std::min(kBlock, length - q0), d, stride, scratch.b(6, 2 * kBlock * d),
                   h.d_q + q0 * stride);
}

int64_t padded_to_block(int64_t n) { return (n + kBlock - 1) / kBlock * kBlock; }

// Calls body(first token, length, key head) for every document and key head, spread over threads. Which thread takes a
// pair does not change its result.
template <class Body>
void for_each(const Shape& s, const int64_t* lens, int64_t n_docs, const Body& body) {
  std::vector<int64_t> starts(n_docs, 0);
  for (int64_t i = 1; i < n_docs; i++) starts[i] = starts[i - 1] + lens[i - 1];
#pragma omp parallel
  {
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n_docs * s.kv_heads; i++) body(starts[i / s.kv_heads], lens[i / s.kv_heads], i % s.kv_heads);
    at::native::cpublas::brgemm_release(true);
  }
}

}  // namespace

extern "C" bool athanor_attention_available() {
  return at::native::cpublas::could_pack(static_cast<c10::ScalarType>(15));  // BFloat16, c10/core/ScalarType.h
}

extern "C" void athanor_attention_forward(const Bits* q, const Bits* k, const Bits* v, const int64_t* lens,
                                          int64_t n_docs, int64_t tokens, int64_t heads, int64_t kv_heads,
                                          int64_t width, Bits* out, float* lse) {
  const Shape s{tokens, heads, kv_heads, width, 1.0f / std::sqrt(static_cast<float>(width))};
  for_each(s, lens, n_docs, [&](int64_t start, int64_t length, int64_t kv) {
    const int64_t padded = padded_to_block(length), kv_stride = kv_heads * width, group = heads / kv_heads;
    Bits *keys = scratch.b(0, padded * width), *values_t = scratch.b(1, padded * width);
    take(v + start * kv_stride + kv * width, kv_stride, length, padded, width, keys);
    transpose(keys, padded, width, scratch.b(6, kBlock * width), values_t);
    take(k + start * kv_stride + kv * width, kv_stride, length, padded, width, keys);
    for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
      const int64_t at = (start * heads + h) * width;
      forward_head(s, q + at, keys, values_t, length, padded, out + at, lse + h * tokens + start);
    }
  });
}

extern "C" void athanor_attention_backward(const Bits* grad, const Bits* q, const Bits* k, const Bits* v,
                                           const Bits* out, const float* lse, const int64_t* lens, int64_t n_docs,
                                           int64_t tokens, int64_t heads, int64_t kv_heads, int64_t width, Bits* d_q,
                                           Bits* d_k, Bits* d_v) {
  const Shape s{tokens, heads, kv_heads, width, 1.0f / std::sqrt(static_cast<float>(width))};
  for_each(s, lens, n_docs, [&](int64_t start, int64_t length, int64_t kv) {
    const int64_t padded = padded_to_block(length), kv_stride = kv_heads * width, group = heads / kv_heads;
    const int64_t kv_at = start * kv_stride + kv * width;
    Bits *keys = scratch.b(0, padded * width), *keys_t = scratch.b(1, padded * width),
         *values = scratch.b(2, padded * width);
    take(k + kv_at, kv_stride, length, padded, width, keys);
    transpose(keys, padded, width, scratch.b(6, kBlock * width), keys_t);
    take(v + kv_at, kv_stride, length, padded, width, values);
    float *sum_k = scratch.f(4, padded * width), *sum_v = scratch.f(5, padded * width);
    std::fill_n(sum_k, padded * width, 0.0f);
    std::fill_n(sum_v, padded * width, 0.0f);
    for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
      const int64_t at = (start * heads + h) * width;
      backward_head(s, {q + at, out + at, grad + at, lse + h * tokens + start, d_q + at}, keys, keys_t, values, length,
                    padded, sum_k, sum_v);
    }
    for (auto [sum, d_x] : {std::pair{sum_k, d_k}, std::pair{sum_v, d_v}}) {
      narrow_all(sum, padded * width, keys);
      put(keys, length, width, kv_stride, d_x + kv_at);
    }
  });
}
