// Cross-entropy of rows of logits, and its gradient in their place, row by row in a core's nearest caches.
//
// Built and called by products.py.

#include "cpu_math.h"

namespace {

using namespace math;

inline void put(float x, Bits& out) { out = static_cast<Bits>(narrow(x)); }
inline void put(float x, float& out) { out = x; }

// log Σ exp of a row
template <class T>
float log_sum_exp(const T* row, int64_t n) {
  float top = -3e38f, sum = 0.0f;
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; i++) top = larger(wide(row[i]), top);
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += exp_fast(wide(row[i]) - top);
  return top + std::log(sum);
}

template <class T>
void cross_entropy(const int64_t* labels, int64_t rows, int64_t vocab, bool grad, T* logits, float* losses) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; r++) {
    T* row = logits + r * vocab;
    const float lse = log_sum_exp(row, vocab), picked = wide(row[labels[r]]) - lse;
    losses[r] = -picked;
    if (!grad) continue;
#pragma omp simd
    for (int64_t i = 0; i < vocab; i++) put(exp_fast(wide(row[i]) - lse), row[i]);
    put(std::exp(picked) - 1.0f, row[labels[r]]);
  }
}

}  // namespace

// losses [rows] = −log softmax(logits)[label]; with `grad` the logits become softmax − onehot(label)
extern "C" void athanor_cross_entropy(const int64_t* labels, int64_t rows, int64_t vocab, int64_t grad, Bits* logits,
                                      float* losses) {
  cross_entropy(labels, rows, vocab, grad, logits, losses);
}

extern "C" void athanor_cross_entropy_f32(const int64_t* labels, int64_t rows, int64_t vocab, int64_t grad,
                                          float* logits, float* losses) {
  cross_entropy(labels, rows, vocab, grad, logits, losses);
}
