// What the attention kernels of both precisions share: vectors of 16 queries, working memory, documents over threads.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace softmax {

constexpr int64_t kBlock = 64;  // queries and keys in a block
constexpr int64_t kVectors = kBlock / 16;
constexpr float kLow = -1e30f;  // stands for -inf, without its NaNs
constexpr float kLog2E = 1.44269504f;

struct Shape {
  int64_t tokens, heads, kv_heads, width;
  float scale;
};

// 2^x for x ≤ about 0, to 2e-7: 2^n · 2^f with the series of 2^f, |f| ≤ ½
inline __m512 exp2_fast(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(x, 0), f = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(0.00015403f);
  for (float c : {0.00133336f, 0.00961813f, 0.05550411f, 0.24022651f, 0.69314718f, 1.0f})
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(c));
  return _mm512_scalef_ps(p, n);
}

// Which of 16 queries from the `vector`-th on see key `key` of their own block
inline __mmask16 sees(int64_t key, int64_t vector) {
  const int64_t hidden = std::clamp<int64_t>(key - vector * 16, 0, 16);
  return static_cast<__mmask16>(0xffffu << hidden);
}

// What a block of queries has seen so far: maxima of the scaled scores (base 2), sums of the probabilities.
struct Seen {
  __m512 max[kVectors], sum[kVectors];
  Seen() {
    std::fill_n(max, kVectors, _mm512_set1_ps(kLow));
    std::fill_n(sum, kVectors, _mm512_setzero_ps());
  }
  // Raises the maxima of a vector of queries to those of its scores [keys][64]; the factor for what was summed before.
  __m512 raise(int64_t v, const float* scores, int64_t keys, __m512 scale, bool diagonal) {
    __m512 top = _mm512_set1_ps(kLow);
    for (int64_t k = 0; k < keys; k++)
      top = _mm512_mask_max_ps(top, diagonal ? sees(k, v) : 0xffff, top, _mm512_load_ps(scores + k * kBlock + v * 16));
    top = _mm512_max_ps(_mm512_mul_ps(top, scale), max[v]);
    const __m512 less = exp2_fast(_mm512_sub_ps(max[v], top));
    max[v] = top, sum[v] = _mm512_mul_ps(sum[v], less);
    return less;
  }
  // Log-sum-exp of the first `rows` queries, and one over the sums (0 behind them)
  void finish(int64_t rows, float* lse, float* inverse) const {
    for (int64_t i = 0; i < kBlock; i++) {
      const float total = reinterpret_cast<const float*>(sum)[i];
      inverse[i] = i < rows ? 1.0f / total : 0.0f;
      if (i < rows) lse[i] = reinterpret_cast<const float*>(max)[i] / kLog2E + std::log(total);
    }
  }
};

// x [rows][64] · factor [64], as what was collected for a block of queries shrinks
inline void shrink(float* x, int64_t rows, const float* factor) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t v = 0; v < kBlock; v += 16) {
      float* at = x + r * kBlock + v;
      _mm512_store_ps(at, _mm512_mul_ps(_mm512_load_ps(at), _mm512_loadu_ps(factor + v)));
    }
}

// Asks for rows that will be used soon: those of one head are far apart, which the processor does not follow by itself.
template <class Value>
void fetch(const Value* x, int64_t rows, int64_t width, int64_t stride) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = 0; c < width; c += 64 / static_cast<int64_t>(sizeof(Value)))
      _mm_prefetch(reinterpret_cast<const char*>(x + r * stride + c), _MM_HINT_T1);
}

struct alignas(64) Line {
  uint8_t bytes[64];
};

// Working memory of a thread, grown to the largest document it has seen and handed out in order.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : at_(0) {
    const size_t lines = (bytes + 63) / 64 + kPieces;
    if (memory().size() < lines) memory().resize(lines);
  }
  template <class T>
  T* take(int64_t n) {
    T* out = reinterpret_cast<T*>(memory().data() + at_);
    at_ += (n * sizeof(T) + 63) / 64;
    return out;
  }

 private:
  static constexpr size_t kPieces = 32;  // most that are taken, each rounded up to a line
  static std::vector<Line>& memory() {
    static thread_local std::vector<Line> lines;
    return lines;
  }
  size_t at_;
};

// Calls body(first token, length, key head) for every document and key head, spread over threads, each of which holds a
// `State`. Which thread takes a pair does not change its result.
template <class State, class Body>
void for_each(const Shape& s, const int64_t* lens, int64_t n_docs, const Body& body) {
  std::vector<int64_t> starts(n_docs, 0);
  for (int64_t i = 1; i < n_docs; i++) starts[i] = starts[i - 1] + lens[i - 1];
#pragma omp parallel
  {
    [[maybe_unused]] const State state;
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < n_docs * s.kv_heads; i++) body(starts[i / s.kv_heads], lens[i / s.kv_heads], i % s.kv_heads);
  }
}

inline int64_t up_to_block(int64_t n) { return (n + kBlock - 1) / kBlock * kBlock; }

}  // namespace softmax
