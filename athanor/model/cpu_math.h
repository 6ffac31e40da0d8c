// Scalar functions that compilers vectorise inside `omp simd` loops.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace math {

using Bits = uint16_t;  // a bfloat16

inline float wide(Bits x) {
  uint32_t bits = static_cast<uint32_t>(x) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

inline float wide(float x) { return x; }

inline uint32_t narrow(float x) {  // round to nearest even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline float larger(float a, float b) { return a > b ? a : b; }  // by value: std::max's references are not vectorised

// exp for x ≤ about 0, to 2e-7: 2^n · 2^f with a polynomial for 2^f, |f| ≤ ½; small enough to be vectorised
inline float exp_fast(float x) {
  float t = larger(x * 1.44269504f, -126.0f);
  float n = std::floor(t + 0.5f), f = t - n;
  float p = 1.0f + f * (0.69314718f + f * (0.24022651f + f * (0.05550411f + f * (0.00961813f + f * (0.00133336f + f * 0.00015403f)))));
  int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return p * scale;
}

}  // namespace math
