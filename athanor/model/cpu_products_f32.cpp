// The matrix products of a linear layer in float32, on AVX-512.
//
//   output           y  [tokens][out] = x [tokens][in] · Wᵀ, W [out][in]
//   input gradient   dx [tokens][in]  = dy [tokens][out] · W
//   weight gradient  dW [out][in]     = dyᵀ · x, or added to one that is there
//
// or of some layers that read the same x, which is then packed once; their dx is the sum.
//
// A block of 14 × 32 sums fills 28 of the 32 registers; a value of the left operand is broadcast into two vectors of the right
// one. Operands are packed in the order in which they are read (Goto and van de Geijn, ACM TOMS 34(3), 2008): the right one
// once for all threads, the left one by each thread for the rows that it makes, as many as its second-level cache holds.
// Every element is one chain of multiply-adds over a panel of k, panels added in order, whatever the number of threads and
// whatever rows it is computed with.
//
// Built and called by native.py. Widths are multiples of 16, the number of tokens is any.

#include "cpu_pieces.h"
#include "cpu_tiles.h"

#include <omp.h>

#include <atomic>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#ifdef __AVX512F__

namespace {

constexpr int64_t kRows = 14, kColumns = 32;  // of sums in registers
constexpr int64_t kPanel = 512;  // of k at a time
constexpr int64_t kLeftBytes = 256 << 10;  // of a packed left operand: with what is read meanwhile, a second-level cache
constexpr int64_t kRightBytes = 8 << 20;  // of a packed right operand

enum class Lies { kInside, kOutside };  // whether k is the inner index of an operand in memory, or the outer one

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

// An operand with its rows so far apart in memory
struct Side {
  const float* data;
  int64_t stride;
};

// `n` rows of a left operand, or columns of a right one: of which piece, and where in it
struct Panel {
  int64_t piece, at, n;
};

// k0 … k0 + deep of the operands of all pieces
struct Slice {
  const Side* sides;
  Lies lies;
  int64_t k0, deep;
  int64_t stride(const Panel& panel) const { return sides[panel.piece].stride; }
  const float* of(const Panel& panel) const {
    const Side& side = sides[panel.piece];
    return side.data + (lies == Lies::kInside ? panel.at * side.stride + k0 : k0 * side.stride + panel.at);
  }
};

// Panels p … last → out, each [k][n], up to whole vectors, in places for [k][most].
void pack_inside(const Slice& slice, const Panel* p, const Panel* last, int64_t most, float* place) {
  for (; p < last; p++, place += most * slice.deep) {
    const int64_t wide = vectors(p->n) * 16, stride = slice.stride(*p);
    float* out = place;
    for (int64_t i = 0; i < slice.deep; i += 16, out += 16 * wide)
      for (int64_t v = 0; v < p->n; v += 16) {
        const float* from = slice.of(*p) + v * stride + i;
        __m512i block[16];
        for (int64_t r = 0; r < 16; r++) {
          _mm_prefetch(reinterpret_cast<const char*>(from + r * stride + 32), _MM_HINT_T0);
          block[r] = v + r < p->n ? _mm512_loadu_si512(from + r * stride) : _mm512_setzero_si512();
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
void pack_outside(const Slice& slice, const Panel* p, const Panel* last, int64_t most, float* out) {
  constexpr int kTogether = 4;
  const float* strips[kTogether];
  int64_t widths[kTogether], count = 0, step = 16, stride = 0;
  float* outs[kTogether];
  const auto flush = [&] {
    if (count == kTogether)
      copy_strips<kTogether>(strips, widths, stride, slice.deep, step, outs);
    else
      for (int64_t s = 0; s < count; s++) copy_strips<1>(strips + s, widths + s, stride, slice.deep, step, outs + s);
    count = 0;
  };
  for (; p < last; p++, out += most * slice.deep) {
    const int64_t wide = vectors(p->n) * 16;
    if (wide != step || slice.stride(*p) != stride) flush(), step = wide, stride = slice.stride(*p);
    for (int64_t v = 0; v < p->n; v += 16) {
      strips[count] = slice.of(*p) + v, widths[count] = std::min<int64_t>(16, p->n - v), outs[count++] = out + v;
      if (count == kTogether) flush();
    }
  }
  flush();
}

void pack(const Slice& slice, const Panel* p, const Panel* last, int64_t most, float* out) {
  slice.lies == Lies::kInside ? pack_inside(slice, p, last, most, out) : pack_outside(slice, p, last, most, out);
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
  Ahead left, right, packed;  // what will be packed of both operands, and the next panel of what is packed
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
  float* out;  // [m][n]
  int64_t m, n, k;
};

enum class Shared { kLeft, kRight, kOut };  // what the products have in common that are made together

// What the threads do at a time: a slice of k, and columns of the result by their panels. `add`: to a sum that is there.
struct Part {
  int64_t first, last;
  Slice left, right;
  bool add;
};

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
  Span start(int64_t thread, int64_t threads) const {  // what the thread takes first of a part
    const Span mine = share(thread, threads);
    return {mine.first, mine.first + size(mine.last - mine.first)};
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
  Maker(const std::vector<Product>& products, Lies left, Lies right, Shared shared, bool add)
      : products_(products), shared_(shared) {
    const int64_t threads = omp_get_max_threads(), pieces = products.size();
    int64_t deepest = 0;
    for (int64_t i = 0; i < pieces; i++) {
      const Product& x = products[i];
      lefts_.push_back(x.left), rights_.push_back(x.right);
      deepest = std::max(deepest, depth(x));
      const int64_t count = std::min(x.m, parts(parts(x.m, kRows), threads) * threads);
      for (int64_t p = 0; p < count && (i == 0 || shared == Shared::kRight); p++)
        rows_.push_back({i, begin(x.m, count, p), begin(x.m, count, p + 1) - begin(x.m, count, p)});
      for (int64_t j = 0; j < x.n && (i == 0 || shared == Shared::kLeft); j += kColumns)
        columns_.push_back({i, j, std::min(kColumns, x.n - j)});
    }
    const int64_t all = columns_.size(), at_once = std::max<int64_t>(1, kRightBytes / 4 / deepest / kColumns);
    for (int64_t first = 0; first < all; first += at_once)
      for (int64_t i = 0; i < (shared == Shared::kOut ? pieces : 1); i++)
        for (int64_t k0 = 0; k0 < products[i].k; k0 += depth(products[i])) {
          const int64_t deep = std::min(depth(products[i]), products[i].k - k0);
          parts_.push_back({first, std::min(all, first + at_once), {&lefts_[i], left, k0, deep}, {&rights_[i], right, k0, deep},
                            add || i > 0 || k0 > 0});
        }
    b_ = right_memory.of(std::min(all, at_once) * kColumns * deepest);
    shares_ = std::make_unique<Shares>(rows_.size(), threads, std::max<int64_t>(1, kLeftBytes / 4 / deepest / 16));
  }

  void run() {
#pragma omp parallel
    {
      const int64_t t = omp_get_thread_num(), threads = omp_get_num_threads();
      for (size_t i = 0; i < parts_.size(); i++) {
        const Part &now = parts_[i], *next = i + 1 < parts_.size() ? &parts_[i + 1] : nullptr;
        const Span mine = to_pack(now, t, threads);
        pack(now.right, columns_.data() + mine.first, columns_.data() + mine.last, kColumns,
             b_ + (mine.first - now.first) * kColumns * now.right.deep);
        shares_->open(t, threads);
#pragma omp barrier
        Soon soon;
        if (next) soon.right = ahead(next->right, columns_, to_pack(*next, t, threads));
        for (Span p = shares_->take(t, threads); p.first < p.last; p = shares_->take(t, threads)) {
          const Span coming = shares_->coming(t, threads);
          if (coming.first < coming.last)
            soon.left = ahead(now.left, rows_, coming);
          else if (next)
            soon.left = ahead(next->left, rows_, shares_->start(t, threads));
          multiply_rows(p, now, soon);
        }
#pragma omp barrier
      }
    }
  }

 private:
  static int64_t depth(const Product& x) { return parts(parts(x.k, parts(x.k, kPanel)), 16) * 16; }

  static Span to_pack(const Part& part, int64_t thread, int64_t threads) {  // panels of columns
    const int64_t n = part.last - part.first;
    return {part.first + begin(n, threads, thread), part.first + begin(n, threads, thread + 1)};
  }

  static Ahead ahead(const Slice& slice, const std::vector<Panel>& panels, Span span) {
    if (span.first >= span.last) return {};
    while (panels[span.last - 1].piece != panels[span.first].piece) span.last--;
    const Panel &first = panels[span.first], &last = panels[span.last - 1];
    const int64_t n = last.at + last.n - first.at, stride = slice.stride(first);
    return slice.lies == Lies::kInside ? Ahead(slice.of(first), n, slice.deep, stride)
                                       : Ahead(slice.of(first), slice.deep, n, stride);
  }

  void multiply_rows(const Span& p, const Part& part, Soon& soon) const {
    const int64_t deep = part.left.deep, panel = 16 * deep;
    float* a = left_memory.of((p.last - p.first) * panel);
    pack(part.left, rows_.data() + p.first, rows_.data() + p.last, 16, a);
    const float* b = b_;
    for (int64_t j = part.first; j < part.last; j++, b += kColumns * deep) {
      soon.packed = Ahead(b + kColumns * deep, 1, j + 1 < part.last ? columns_[j + 1].n * deep : 0, 0);
      for (int64_t i = p.first; i < p.last; i++) {
        const Panel &row = rows_[i], &column = columns_[j];
        const Product& x = products_[shared_ == Shared::kLeft ? column.piece : row.piece];
        float* out = x.out + row.at * x.n + column.at;
        multiply_all<kRows>(row.n, column.n, a + (i - p.first) * panel, b, deep, part.add, out, x.n, soon);
      }
    }
  }

  const std::vector<Product>& products_;
  const Shared shared_;
  std::vector<Side> lefts_, rights_;
  std::vector<Panel> rows_, columns_;
  std::vector<Part> parts_;
  std::unique_ptr<Shares> shares_;
  float* b_;
};

using Pieces = const Piece<float>*;

template <class Of>
std::vector<Product> each(int64_t count, Pieces pieces, const Of& of) {
  std::vector<Product> products;
  for (int64_t i = 0; i < count; i++) products.push_back(of(pieces[i]));
  return products;
}

void weight_grad(int64_t tokens, int64_t in, int64_t count, Pieces pieces, bool add) {
  const auto products = each(count, pieces, [&](const Piece<float>& x) {
    return Product{{x.a, x.outputs}, {x.b, in}, x.c, x.outputs, in, tokens};
  });
  Maker(products, Lies::kOutside, Lies::kOutside, Shared::kRight, add).run();
}

}  // namespace

extern "C" void athanor_linear_f32(int64_t tokens, int64_t in, int64_t count, Pieces pieces) {
  const auto products = each(count, pieces, [&](const Piece<float>& x) {
    return Product{{x.a, in}, {x.b, in}, x.c, tokens, x.outputs, in};
  });
  Maker(products, Lies::kInside, Lies::kInside, Shared::kLeft, false).run();
}

extern "C" void athanor_input_grad_f32(int64_t tokens, int64_t in, int64_t count, Pieces pieces) {
  const auto products = each(count, pieces, [&](const Piece<float>& x) {
    return Product{{x.a, x.outputs}, {x.b, in}, x.c, tokens, in, x.outputs};
  });
  Maker(products, Lies::kInside, Lies::kOutside, Shared::kOut, false).run();
}

extern "C" void athanor_weight_grad_f32(int64_t tokens, int64_t in, int64_t count, Pieces pieces) {
  weight_grad(tokens, in, count, pieces, false);
}

extern "C" void athanor_add_weight_grad_f32(int64_t tokens, int64_t in, int64_t count, Pieces pieces) {
  weight_grad(tokens, in, count, pieces, true);
}

#endif  // __AVX512F__
