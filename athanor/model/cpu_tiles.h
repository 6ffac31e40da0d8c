// Matrix products on the tile registers of AMX (Intel SDM vol. 1, chapter 18): bfloat16 operands, float32 sums.
//
// A *left* tile is [16 rows][32 k], a *right* tile [16 pairs of k][16 columns], each 1 KB of consecutive memory. The packing
// functions make panels of them, [row or column / 16][k / 32] tiles, from matrices that lie with either index inside.

#pragma once

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace tiles {

using Bits = uint16_t;  // a bfloat16
constexpr int64_t kTile = 512;  // elements of a tile
constexpr int64_t kDeep = 32;  // values of k in a tile

// Asks the system for the tile registers, as a process must once (Linux: arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA).
inline bool available() {
#ifdef __AMX_BF16__
  return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
  return false;
#endif
}

#ifdef __AVX512F__

// 16 × 16 of 32 bits, in registers
inline void transpose(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

#endif  // __AVX512F__

#ifdef __AMX_BF16__

// All eight registers 16 rows of 64 bytes, for this thread, as long as this lives.
class Configured {
 public:
  Configured() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    std::fill_n(config.row_bytes, 8, 64);
    std::fill_n(config.rows, 8, 16);
    _tile_loadconfig(&config);
  }
  ~Configured() { _tile_release(); }
  Configured(const Configured&) = delete;
  Configured& operator=(const Configured&) = delete;
};

// Rows `even` and `odd` of 32 values → their pairs, the first 16 and the last 16.
inline void pair_up(__m512i even, __m512i odd, __m512i& first, __m512i& last) {
  alignas(64) static constexpr uint16_t kFirst[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                      8,  40, 9,  41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  alignas(64) static constexpr uint16_t kLast[32] = {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                                     24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
  first = _mm512_permutex2var_epi16(even, _mm512_load_si512(kFirst), odd);
  last = _mm512_permutex2var_epi16(even, _mm512_load_si512(kLast), odd);
}

// A matrix in memory with its rows `stride` elements apart; rows from `rows` on read as zeros.
struct Matrix {
  const Bits* data;
  int64_t stride, rows;
  __m512i at(int64_t row, int64_t column) const {
    return row < rows ? _mm512_loadu_si512(data + row * stride + column) : _mm512_setzero_si512();
  }
};

// x [n][k] → a left panel; n and k multiples of 32
inline void pack_left(const Matrix& x, int64_t row, int64_t n, int64_t k0, int64_t k, Bits* out) {
  for (int64_t i = 0; i < n; i += 16)
    for (int64_t j = 0; j < k; j += kDeep, out += kTile)
      for (int r = 0; r < 16; r++) _mm512_store_si512(out + r * kDeep, x.at(row + i + r, k0 + j));
}

// x [n][k] → a right panel
inline void pack_right(const Matrix& x, int64_t row, int64_t n, int64_t k0, int64_t k, Bits* out) {
  for (int64_t i = 0; i < n; i += 16)
    for (int64_t j = 0; j < k; j += kDeep, out += kTile) {
      __m512i tile[16];
      for (int r = 0; r < 16; r++) tile[r] = x.at(row + i + r, k0 + j);
      transpose(tile);
      for (int r = 0; r < 16; r++) _mm512_store_si512(out + r * kDeep, tile[r]);
    }
}

// x [k][n] → the left panel of its transpose, or a right panel
template <bool kLeft>
inline void pack_across(const Matrix& x, int64_t column, int64_t n, int64_t k0, int64_t k, Bits* out) {
  const int64_t column_of_tiles = k / kDeep * kTile;
  for (int64_t j = 0; j < k; j += kDeep)
    for (int64_t i = 0; i < n; i += 32) {
      // rows are far apart, which the processor's own prefetching does not follow
      for (int64_t r = k0 + j; r < k0 + j + kDeep; r++)
        _mm_prefetch(reinterpret_cast<const char*>(x.data + r * x.stride + column + i + 64), _MM_HINT_T0);
      __m512i a[16], b[16];
      for (int p = 0; p < 16; p++)
        pair_up(x.at(k0 + j + 2 * p, column + i), x.at(k0 + j + 2 * p + 1, column + i), a[p], b[p]);
      if (kLeft) transpose(a), transpose(b);
      Bits *here = out + i / 16 * column_of_tiles + j / kDeep * kTile, *next = here + column_of_tiles;
      for (int p = 0; p < 16; p++) {
        _mm512_store_si512(here + p * kDeep, a[p]);
        _mm512_store_si512(next + p * kDeep, b[p]);
      }
    }
}

// Two rows (of a right operand: columns) of tiles: along k they are `step` bytes apart, the lines of each `stride` bytes.
struct Operand {
  const void *first, *second;
  int64_t step, stride;
};

// c [32][32] (+)= left · right over `k` tiles
inline void multiply(const Operand& left, const Operand& right, int64_t k, bool add, float* c, int64_t ld_c) {
  const int64_t ld = ld_c * static_cast<int64_t>(sizeof(float));
  float *c01 = c + 16, *c10 = c + 16 * ld_c, *c11 = c10 + 16;
  asm volatile("" ::: "memory");  // GCC's tile loads do not say that they read memory
  if (add) {
    _tile_loadd(0, c, ld);
    _tile_loadd(1, c01, ld);
    _tile_loadd(2, c10, ld);
    _tile_loadd(3, c11, ld);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  auto a0 = static_cast<const char*>(left.first), a1 = static_cast<const char*>(left.second);
  auto b0 = static_cast<const char*>(right.first), b1 = static_cast<const char*>(right.second);
  for (int64_t i = 0; i < k; i++) {
    _tile_loadd(4, a0 + i * left.step, left.stride);
    _tile_loadd(6, b0 + i * right.step, right.stride);
    _tile_loadd(7, b1 + i * right.step, right.stride);
    _tile_loadd(5, a1 + i * left.step, left.stride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, ld);
  _tile_stored(1, c01, ld);
  _tile_stored(2, c10, ld);
  _tile_stored(3, c11, ld);
}

// The operand that begins with row (column) `at` of a panel `k` tiles deep
inline Operand in_panel(const Bits* panel, int64_t at, int64_t k) {
  const Bits* first = panel + at / 16 * k * kTile;
  return {first, first + k * kTile, kTile * 2, 64};
}

inline __m512i narrow(__m512 low, __m512 high) {  // 32 float32 → bfloat16, to nearest even
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

#endif  // __AMX_BF16__

}  // namespace tiles
