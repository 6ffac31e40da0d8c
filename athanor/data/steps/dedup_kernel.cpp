// Tokens of UTF-8 texts and their MinHash minima. The numpy code in shingles.py and minhash_signature.py gives the same
// values bit for bit and serves where there is no compiler; the formulas are explained there.
#include <algorithm>
#include <cstdint>

namespace {

constexpr uint64_t kCharFactor = 0x9E3779B97F4A7C15ULL, kCharTerm = 0xD1B54A32D192ED03ULL;
constexpr uint64_t kCharBase = 0xF1357AEA2E62A9C5ULL, kTokenBase = 0xA0761D6478BD642FULL;
constexpr uint64_t kNumber = 0x2545F4914F6CDD1CULL;
constexpr int kSeparator = 0, kWord = 1, kSingle = 2, kDigit = 3, kNumeral = 4;

inline uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9ULL;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

struct Char {
  uint32_t code;
  int kind;
  int bytes;
};

inline Char next_char(const uint8_t* p, const uint8_t* end, const uint16_t* fold, const uint8_t* kinds) {
  const uint32_t c = p[0];
  if (c < 0x80) return {fold[c], kinds[c], 1};
  int n = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
  if (end - p < n) n = static_cast<int>(end - p);
  uint32_t code = c & (0xFFu >> (n + 1));
  for (int i = 1; i < n; ++i) code = (code << 6) | (p[i] & 0x3Fu);
  if (code < 0x10000) return {fold[code], kinds[code], n};
  const bool han = code >= 0x20000 && code < 0x40000;
  return {code, han ? kSingle : code < 0x1F000 ? kWord : kSeparator, n};
}

struct Writer {
  uint64_t* hash;
  uint32_t* start;
  uint32_t* end;
  int64_t count, first;  // first: where the document's tokens begin
  bool numbers;

  void token(uint64_t h, bool single, bool number, uint32_t from, uint32_t to) {
    if (numbers && number) {
      if (count > first && hash[count - 1] == kNumber) {
        end[count - 1] = to;
        return;
      }
      h = kNumber;
    } else {
      h = (mix(h) & ~1ULL) | (single ? 1 : 0);
    }
    hash[count] = h;
    start[count] = from;
    end[count++] = to;
  }
};

}  // namespace

extern "C" int64_t athanor_tokens(const uint8_t* data, const int64_t* offsets, int64_t n_docs, const uint16_t* fold,
                                  const uint8_t* kinds, int64_t numbers, uint64_t* hash, uint32_t* start, uint32_t* end,
                                  int64_t* token_offsets) {
  Writer out{hash, start, end, 0, 0, numbers != 0};
  token_offsets[0] = 0;
  for (int64_t d = 0; d < n_docs; ++d) {
    const uint8_t* base = data + offsets[d];
    const uint8_t* stop = data + offsets[d + 1];
    const uint8_t* p = base;
    out.first = out.count;
    while (p < stop) {
      Char c = next_char(p, stop, fold, kinds);
      if (c.kind == kSeparator) {
        p += c.bytes;
        continue;
      }
      const uint8_t* from = p;
      uint64_t h = 0;
      if (c.kind == kSingle || c.kind == kNumeral) {
        p += c.bytes;
        out.token(c.code * kCharFactor + kCharTerm, true, c.kind == kNumeral, from - base, p - base);
        continue;
      }
      bool digits = true;
      while (c.kind == kWord || c.kind == kDigit) {
        h = h * kCharBase + (c.code * kCharFactor + kCharTerm);
        digits &= c.kind == kDigit;
        p += c.bytes;
        if (p >= stop) break;
        c = next_char(p, stop, fold, kinds);
      }
      out.token(h, false, digits, from - base, p - base);
    }
    token_offsets[d + 1] = out.count;
  }
  return out.count;
}

// minima[d][k] = min over shingles x of document d of a[k]·x + b[k] mod 2^64; n_hashes is a multiple of 8
extern "C" void athanor_minhash(const uint64_t* tokens, const int64_t* token_offsets, int64_t n_docs, int64_t ngram,
                                const uint64_t* a, const uint64_t* b, int64_t n_hashes, uint64_t* minima) {
  constexpr int kBlock = 512, kLanes = 8;
  uint64_t shingles[kBlock];
  uint64_t leaving = 1;  // kTokenBase^ngram: what the oldest token has been multiplied with when it leaves
  for (int64_t i = 0; i < ngram; ++i) leaving *= kTokenBase;
  for (int64_t d = 0; d < n_docs; ++d) {
    const int64_t begin = token_offsets[d], end = token_offsets[d + 1];
    uint64_t* row = minima + d * n_hashes;
    std::fill(row, row + n_hashes, ~0ULL);
    if (begin == end) continue;
    uint64_t rolling = 0;
    int64_t at = begin;
    for (; at < std::min(begin + ngram, end); ++at) rolling = rolling * kTokenBase + tokens[at];
    bool more = true;
    while (more) {
      int n = 0;
      while (n < kBlock) {
        shingles[n++] = mix(rolling);
        if (at >= end) {
          more = false;
          break;
        }
        rolling = rolling * kTokenBase + tokens[at] - leaving * tokens[at - ngram];
        ++at;
      }
      for (int64_t k = 0; k < n_hashes; k += kLanes) {
        uint64_t factor[kLanes], term[kLanes], low[kLanes];
        for (int l = 0; l < kLanes; ++l) {
          factor[l] = a[k + l];
          term[l] = b[k + l];
          low[l] = row[k + l];
        }
        for (int i = 0; i < n; ++i) {
          for (int l = 0; l < kLanes; ++l) {
            const uint64_t value = factor[l] * shingles[i] + term[l];
            low[l] = value < low[l] ? value : low[l];
          }
        }
        for (int l = 0; l < kLanes; ++l) row[k + l] = low[l];
      }
    }
  }
}
