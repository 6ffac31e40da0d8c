// The matrix products of a linear layer in float32, on AVX-512.
//
//   output           y  [tokens][out] = x [tokens][in] · Wᵀ, W [out][in]
//   input gradient   dx [tokens][in]  = dy [tokens][out] · W
//   weight gradient  dW [out][in]     = dyᵀ · x, or added to one that is there
//
// A block of 14 × 32 sums fills 28 of the 32 registers; a value of the left operand is broadcast into two vectors of the right
// one. Operands are packed in the order in which they are read (Goto and van de Geijn, ACM TOMS 34(3), 2008): the right one
// once for all threads, the left one by each thread for the rows that it makes, as many as its second-level cache holds.
// Every element is one chain of multiply-adds over a panel of k, panels added in order, whatever the number of threads and
// whatever rows it is computed with.
//
// Built and called by native.py. Widths are multiples of 16, the number of tokens is any.

#include "cpu_tiles.h"

#include <omp.h>

#include <atomic>
#include <memory>
#include <new>
#include <vector>

#ifdef __AVX512F__

namespace {

constexpr int64_t kRows = 14, kColumns = 32;  // of sums in registers
constexpr int64_t kPanel = 512;  // of k at a time
constexpr int64_t kLeftBytes = 256 << 10;  // of a packed left operand: with what is read meanwhile, a second-level cache
constexpr int64_t kRightBytes = 8 << 20;  // of a packed right operand

enum class Lies { kInside, kOutside };  // whether k is the inner index of an operand in memory, or the outer one

struct Side {
  const float* data;
  int64_t stride;
  Lies lies;
};

class Buffer {  // grows, and stays for the next product
 public:
  float* of(int64_t n) {
    if (n > size_) {
      memory_.reset(static_cast<float*>(::operator new(n * sizeof(float), kLine)));
      size_ = n;
    }
    return memory_.get();
  }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(float* memory) const { ::operator delete(memory, kLine); }
  };
  std::unique_ptr<float, Free> memory_;
  int64_t size_ = 0;
};

thread_local Buffer left_memory, right_memory;

int64_t vectors(int64_t n) { return (n + 15) / 16; }

inline __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

// Where the i-th of `count` nearly equal parts of n begins
int64_t begin(int64_t n, int64_t count, int64_t i) { return n / count * i + std::min(i, n % count); }

int64_t parts(int64_t n, int64_t most) { return (n + most - 1) / most; }

// Rows of a left operand, or columns of a right one, in panels
struct Panels {
  int64_t n, count, size;  // `size` 0: `count` panels of nearly equal height, else of that height but for the last
  int64_t at(int64_t panel) const { return size ? std::min(n, panel * size) : begin(n, count, panel); }
  int64_t height(int64_t panel) const { return at(panel + 1) - at(panel); }
};

// Panels p … last of an operand, k0 … k0 + k of k → out, one after the other, each [k][height], up to whole vectors.
void pack_inside(const Side& side, const Panels& panels, int64_t p, int64_t last, int64_t k0, int64_t k, float* out) {
  for (; p < last; p++) {
    const int64_t n = panels.height(p), wide = vectors(n) * 16;
    for (int64_t i = 0; i < k; i += 16, out += 16 * wide)
      for (int64_t v = 0; v < n; v += 16) {
        const float* from = side.data + (panels.at(p) + v) * side.stride + k0 + i;
        __m512i block[16];
        for (int64_t r = 0; r < 16; r++) {
          _mm_prefetch(reinterpret_cast<const char*>(from + r * side.stride + 32), _MM_HINT_T0);
          block[r] = v + r < n ? _mm512_loadu_si512(from + r * side.stride) : _mm512_setzero_si512();
        }
        tiles::transpose(block);
        for (int r = 0; r < 16; r++) _mm512_store_si512(out + r * wide + v, block[r]);
      }
  }
}

// `kCount` strips of 16 columns and less, k rows `stride` apart → rows `step` apart. Few instructions for each line, so that
// many lines are on their way at a time.
template <int kCount>
void copy_strips(const float* const* strips, const int64_t* widths, int64_t stride, int64_t k, int64_t step,
                 float* const* outs) {
  const float* from[kCount];
  float* to[kCount];
  __mmask16 here[kCount];
  for (int s = 0; s < kCount; s++) from[s] = strips[s], to[s] = outs[s], here[s] = first(widths[s]);
  for (int64_t i = 0; i < k; i++)
#pragma GCC unroll 4
    for (int s = 0; s < kCount; s++) {
      _mm_prefetch(reinterpret_cast<const char*>(from[s] + (i + 16) * stride), _MM_HINT_T0);
      _mm512_store_ps(to[s] + i * step, _mm512_maskz_loadu_ps(here[s], from[s] + i * stride));
    }
}

// The same of an operand with k outside, for some strips together: rows lie in different pages.
void pack_outside(const Side& side, const Panels& panels, int64_t p, int64_t last, int64_t k0, int64_t k, float* out) {
  constexpr int kTogether = 4;
  const float* strips[kTogether];
  int64_t widths[kTogether], count = 0, step = 16;
  float* outs[kTogether];
  const auto flush = [&] {
    if (count == kTogether)
      copy_strips<kTogether>(strips, widths, side.stride, k, step, outs);
    else
      for (int64_t s = 0; s < count; s++) copy_strips<1>(strips + s, widths + s, side.stride, k, step, outs + s);
    count = 0;
  };
  for (; p < last; p++) {
    const int64_t n = panels.height(p), wide = vectors(n) * 16;
    if (wide != step) flush(), step = wide;
    for (int64_t v = 0; v < n; v += 16) {
      strips[count] = side.data + k0 * side.stride + panels.at(p) + v;
      widths[count] = std::min<int64_t>(16, n - v), outs[count++] = out + v;
      if (count == kTogether) flush();
    }
    out += wide * k;
  }
  flush();
}

template <class... Rest>
void pack(const Side& side, Rest... rest) {
  side.lies == Lies::kInside ? pack_inside(side, rest...) : pack_outside(side, rest...);
}

// Lines of memory that will be read soon, brought into the second-level cache a few at a time: `rows` pieces of `bytes`.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const float* from, int64_t rows, int64_t values, int64_t stride)
      : at_(reinterpret_cast<const char*>(from)), bytes_(values * 4 + 60), jump_(stride * 4), end_(at_ + bytes_), rows_(rows) {}
  void next() {
    if (rows_ <= 0) return;
    _mm_prefetch(at_, _MM_HINT_T1);
    at_ += 64;
    if (at_ >= end_) end_ += jump_, at_ = end_ - bytes_, rows_--;
  }

 private:
  const char* at_ = nullptr;
  int64_t bytes_ = 0, jump_ = 0;
  const char* end_ = nullptr;
  int64_t rows_ = 0;
};

struct Soon {
  Ahead left, right, packed;  // what will be packed, of both operands, and the next panel of what is packed
};

// c [kTall][kWide · 16] (+)= a [k][16]ᵀ · b [k][kWide · 16]
template <int kTall, int kWide>
void multiply(const float* a, const float* b, int64_t k, bool add, float* c, int64_t ld, Soon& soon) {
  __m512 sums[kTall][kWide];
#pragma GCC unroll 16
  for (int r = 0; r < kTall; r++)
#pragma GCC unroll 2
    for (int v = 0; v < kWide; v++) sums[r][v] = _mm512_setzero_ps();
  for (int64_t i = 0, turn = 0; i < k; turn++) {
    // sums come from memory and go there, in lines far apart: asked for one row at a time, so that operands still get through
    for (int v = 0; turn < kTall && v < kWide; v++)
      _mm_prefetch(reinterpret_cast<const char*>(c + turn * ld + v * 16), _MM_HINT_T1);
    soon.left.next(), soon.right.next();
    for (int v = 0; v < kWide + 1; v++) soon.packed.next();
    const int64_t end = std::min(k, i + 16);
#pragma GCC unroll 4
    for (; i < end; i++, a += 16, b += kWide * 16) {
      __m512 row[kWide];
#pragma GCC unroll 2
      for (int v = 0; v < kWide; v++) {
        row[v] = _mm512_load_ps(b + v * 16);
        _mm_prefetch(reinterpret_cast<const char*>(b + (8 * kWide + v) * 16), _MM_HINT_T0);
      }
      _mm_prefetch(reinterpret_cast<const char*>(a + 16 * 16), _MM_HINT_T0);
#pragma GCC unroll 16
      for (int r = 0; r < kTall; r++) {
        const __m512 value = _mm512_set1_ps(a[r]);
#pragma GCC unroll 2
        for (int v = 0; v < kWide; v++) sums[r][v] = _mm512_fmadd_ps(value, row[v], sums[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kTall; r++)
#pragma GCC unroll 2
    for (int v = 0; v < kWide; v++) {
      float* out = c + r * ld + v * 16;
      _mm512_storeu_ps(out, add ? _mm512_add_ps(_mm512_loadu_ps(out), sums[r][v]) : sums[r][v]);
    }
}

template <int kTall, class... Rest>
void multiply_all(int64_t tall, int64_t wide, Rest&&... rest) {
  if (tall == kTall)
    wide == 32 ? multiply<kTall, 2>(rest...) : multiply<kTall, 1>(rest...);
  else if constexpr (kTall > 1)
    multiply_all<kTall - 1>(tall, wide, rest...);
}

struct Product {
  Side left, right;
  int64_t m, n, k;
  float* out;  // [m][n]
  bool add;
};

// What the threads do at a time: columns j0 … j0 + wide of the result, k0 … k0 + deep of k
struct Part {
  int64_t j0, wide, k0, deep;
};

Ahead ahead(const Side& side, int64_t at, int64_t n, int64_t k0, int64_t k) {
  return side.lies == Lies::kInside ? Ahead(side.data + at * side.stride + k0, n, k, side.stride)
                                    : Ahead(side.data + k0 * side.stride + at, k, n, side.stride);
}

struct Span {
  int64_t first, last;
};

// Panels of rows, given out: every thread has a share, takes less of it the nearer its end, and then helps the others.
class Shares {
 public:
  Shares(int64_t panels, int64_t threads, int64_t most) : panels_(panels), most_(most), shares_(threads) {}
  Span share(int64_t thread, int64_t threads) const {
    return {begin(panels_, threads, thread), begin(panels_, threads, thread + 1)};
  }
  void open(int64_t thread, int64_t threads) { shares_[thread].next = share(thread, threads).first; }
  Span coming(int64_t thread, int64_t threads) const {  // what the thread will take next, if no other does
    const int64_t last = share(thread, threads).last, next = std::min(shares_[thread].next.load(), last);
    return {next, next + size(last - next)};
  }
  Span take(int64_t thread, int64_t threads) {
    for (int64_t i = 0; i < threads; i++) {
      const int64_t whose = (thread + i) % threads, last = share(whose, threads).last;
      const int64_t n = size(last - shares_[whose].next.load());
      if (n <= 0) continue;
      const int64_t next = shares_[whose].next.fetch_add(n);
      if (next < last) return {next, std::min(next + n, last)};
    }
    return {0, 0};
  }

 private:
  static constexpr int64_t kLeast = 2;
  int64_t size(int64_t left) const {
    return std::min({left, most_, shares_.size() > 1 ? std::max(kLeast, (left + 1) / 2) : most_});
  }
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
  };
  int64_t panels_, most_;
  std::vector<Share> shares_;
};

class Maker {
 public:
  explicit Maker(const Product& x)
      : x_(x),
        deepest_(parts(parts(x.k, parts(x.k, kPanel)), 16) * 16),
        widest_(std::max(kColumns, kRightBytes / 4 / deepest_ / kColumns * kColumns)),
        rows_{x.m, std::min(x.m, parts(parts(x.m, kRows), omp_get_max_threads()) * omp_get_max_threads()), 0},
        columns_{x.n, parts(x.n, kColumns), kColumns},
        shares_(rows_.count, omp_get_max_threads(), std::max<int64_t>(1, kLeftBytes / 4 / deepest_ / 16)),
        b_(right_memory.of(std::min(widest_, x.n) * deepest_)) {}

  void run() {
#pragma omp parallel
    {
      const int64_t t = omp_get_thread_num(), threads = omp_get_num_threads();
      for (int64_t i = 0; i < count(); i++) {
        const Part now = part(i);
        const Span mine = columns(now, t, threads);
        pack(x_.right, columns_, mine.first, mine.last, now.k0, now.deep, b_ + (mine.first * kColumns - now.j0) * now.deep);
        shares_.open(t, threads);
#pragma omp barrier
        Soon soon;
        if (i + 1 < count()) soon.right = right(part(i + 1), t, threads);
        for (Span p = shares_.take(t, threads); p.first < p.last; p = shares_.take(t, threads)) {
          const Span next = shares_.coming(t, threads);
          if (next.first < next.last || i + 1 == count())
            soon.left = left(now, next);
          else
            soon.left = left(part(i + 1), {shares_.share(t, threads).first, shares_.share(t, threads).first + 8});
          multiply_rows(p, now, soon);
        }
#pragma omp barrier
      }
    }
  }

 private:
  int64_t depths() const { return parts(x_.k, deepest_); }
  int64_t count() const { return depths() * parts(x_.n, widest_); }
  Part part(int64_t i) const {
    const int64_t j0 = i / depths() * widest_, k0 = i % depths() * deepest_;
    return {j0, std::min(widest_, x_.n - j0), k0, std::min(deepest_, x_.k - k0)};
  }
  Span columns(const Part& at, int64_t thread, int64_t threads) const {  // panels that the thread packs
    const int64_t from = at.j0 / kColumns, n = parts(at.wide, kColumns);
    return {from + begin(n, threads, thread), from + begin(n, threads, thread + 1)};
  }
  Ahead right(const Part& at, int64_t thread, int64_t threads) const {
    const Span panels = columns(at, thread, threads);
    const int64_t from = columns_.at(panels.first);
    return ahead(x_.right, from, columns_.at(panels.last) - from, at.k0, at.deep);
  }
  Ahead left(const Part& at, const Span& panels) const {
    const int64_t from = rows_.at(panels.first), last = rows_.at(std::min(panels.last, rows_.count));
    return ahead(x_.left, from, last - from, at.k0, at.deep);
  }
  void multiply_rows(const Span& p, const Part& part, Soon& soon) const {
    const int64_t deep = part.deep, panel = 16 * deep;
    float* a = left_memory.of((p.last - p.first) * panel);
    pack(x_.left, rows_, p.first, p.last, part.k0, deep, a);
    for (int64_t j = 0; j < part.wide; j += kColumns) {
      const int64_t wide = std::min(kColumns, part.wide - j);
      soon.packed = Ahead(b_ + (j + wide) * deep, 1, std::min(kColumns, part.wide - j - wide) * deep, 0);
      for (int64_t i = p.first; i < p.last; i++)
        multiply_all<kRows>(rows_.height(i), wide, a + (i - p.first) * panel, b_ + j * deep, deep,
                            x_.add || part.k0 > 0, x_.out + rows_.at(i) * x_.n + part.j0 + j, x_.n, soon);
    }
  }

  const Product& x_;
  const int64_t deepest_, widest_;  // of a part
  const Panels rows_, columns_;
  Shares shares_;
  float* const b_;
};

}  // namespace

extern "C" void athanor_linear_f32(const float* x, const float* weight, int64_t tokens, int64_t in, int64_t out, float* y) {
  Maker({{x, in, Lies::kInside}, {weight, in, Lies::kInside}, tokens, out, in, y, false}).run();
}

extern "C" void athanor_input_grad_f32(const float* grad, const float* weight, int64_t tokens, int64_t in, int64_t out,
                                        float* d_x) {
  Maker({{grad, out, Lies::kInside}, {weight, in, Lies::kOutside}, tokens, in, out, d_x, false}).run();
}

extern "C" void athanor_weight_grad_f32(const float* grad, const float* x, int64_t tokens, int64_t in, int64_t out,
                                         float* d_weight) {
  Maker({{grad, out, Lies::kOutside}, {x, in, Lies::kOutside}, out, in, tokens, d_weight, false}).run();
}

extern "C" void athanor_add_weight_grad_f32(const float* grad, const float* x, int64_t tokens, int64_t in, int64_t out,
                                             float* d_weight) {
  Maker({{grad, out, Lies::kOutside}, {x, in, Lies::kOutside}, out, in, tokens, d_weight, true}).run();
}

#endif  // __AVX512F__
