// Cross-entropy of rows of bfloat16 logits, and its gradient in their place, row by row in a core's first-level cache.
//
// Built and called by linear.py.

#include "cpu_math.h"

namespace {

using namespace math;

// The largest of a row, and log Σ exp of it
float log_sum_exp(const Bits* row, int64_t n) {
  float top = -3e38f, sum = 0.0f;
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; i++) top = larger(wide(row[i]), top);
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += exp_fast(wide(row[i]) - top);
  return top + std::log(sum);
}

}  // namespace

// losses [rows] = −log softmax(logits)[label]; with `grad` the logits become softmax − onehot(label)
extern "C" void athanor_cross_entropy(const int64_t* labels, int64_t rows, int64_t vocab, int64_t grad, Bits* logits,
                                      float* losses) {
#pragma omp parallel for
  for (int64_t r = 0; r < rows; r++) {
    Bits* row = logits + r * vocab;
    const float lse = log_sum_exp(row, vocab), picked = wide(row[labels[r]]) - lse;
    losses[r] = -picked;
    if (!grad) continue;
#pragma omp simd
    for (int64_t i = 0; i < vocab; i++) row[i] = narrow(exp_fast(wide(row[i]) - lse));
    row[labels[r]] = narrow(std::exp(picked) - 1.0f);
  }
}
