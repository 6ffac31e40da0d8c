// Counts of characters by class, words, lines and repetition over UTF-8 in one buffer: integers, the same as those of
// athanor/data/steps/plain.py. Text need not be valid: a byte that begins no whole sequence counts as one U+FFFD.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using std::int64_t;
using std::uint32_t;
using std::uint64_t;
using std::uint8_t;

enum : uint32_t { SPACE = 1, LINE_BREAK = 2, LETTER = 4, SYMBOL = 16, TERMINAL = 32 };  // chars.py: CLASSES
constexpr int N_CLASSES = 16;

struct Text {
    const uint8_t* data;
    const int64_t* offsets;
    int64_t n_docs;
    const uint8_t* kinds;  // by code point
    const uint32_t* bits;  // by kind

    uint32_t classes(uint32_t code) const { return bits[kinds[code]]; }
};

struct Span {
    const uint8_t* begin;
    const uint8_t* end;
};

inline Span document(const Text& t, int64_t i) { return {t.data + t.offsets[i], t.data + t.offsets[i + 1]}; }

// The code point at p; p moves behind it.
inline uint32_t next(const uint8_t*& p, const uint8_t* end) {
    uint32_t lead = *p++;
    if (lead < 0x80) return lead;
    int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    if (lead < 0xC2 || lead > 0xF4 || end - p < more) return 0xFFFD;
    uint32_t code = lead & (0x3F >> more);
    for (int k = 0; k < more; k++) {
        if ((p[k] & 0xC0) != 0x80) return 0xFFFD;
        code = code << 6 | (p[k] & 0x3F);
    }
    constexpr uint32_t least[4] = {0, 0x80, 0x800, 0x10000};  // shorter forms and surrogates are no UTF-8
    if (code < least[more] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return 0xFFFD;
    p += more;
    return code;
}

// The code point that ends at p; p moves to its first byte.
inline uint32_t previous(const uint8_t*& p, const uint8_t* begin) {
    const uint8_t* end = p;
    do p--;
    while (p > begin && end - p < 4 && (*p & 0xC0) == 0x80);
    const uint8_t* start = p;
    return next(start, end);
}

inline int64_t count_chars(Span s) {
    int64_t n = 0;
    for (const uint8_t* p = s.begin; p < s.end; p++) n += (*p & 0xC0) != 0x80;
    return n;
}

inline Span stripped(const Text& text, Span s) {
    for (const uint8_t* p = s.begin; p < s.end && (text.classes(next(p, s.end)) & SPACE);) s.begin = p;
    for (const uint8_t* p = s.end; p > s.begin && (text.classes(previous(p, s.begin)) & SPACE);) s.end = p;
    return s;
}

inline bool starts(Span s, const char* what, size_t n) {
    return static_cast<size_t>(s.end - s.begin) >= n && !std::memcmp(s.begin, what, n);
}

inline bool ends(Span s, const char* what, size_t n) {
    return static_cast<size_t>(s.end - s.begin) >= n && !std::memcmp(s.end - n, what, n);
}

inline uint64_t mix(uint64_t x) {  // the finaliser of MurmurHash3
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCDULL;
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53ULL;
    return x ^ x >> 33;
}

inline uint64_t hash_bytes(Span s) {
    uint64_t h = 0x9E3779B97F4A7C15ULL ^ static_cast<uint64_t>(s.end - s.begin);
    const uint8_t* p = s.begin;
    for (; s.end - p >= 8; p += 8) {
        uint64_t word;
        std::memcpy(&word, p, 8);
        h = mix(h ^ word) * 0x9DDFEA08EB382D69ULL;
    }
    uint64_t tail = 0;
    for (int shift = 0; p < s.end; p++, shift += 8) tail |= static_cast<uint64_t>(*p) << shift;
    return mix(h ^ tail);
}

// Counts by key, emptied by raising the generation: a document costs what it holds, not what the last one did.
class Counter {
  public:
    struct Slot {
        uint64_t key;
        uint32_t generation, count;
        int64_t first;
    };

    // Empty, with room for as many keys as expected; more are met by growing, so that memory follows what is distinct.
    void reset(int64_t expected) {
        size_t size = 64;
        while (size < FIRST_SLOTS && size * 3 < static_cast<size_t>(expected) * 4) size *= 2;
        resize(size);
    }

    // Counts one more of the key; ``first`` is kept from its first time. The slot is good until the next call.
    const Slot& add(uint64_t key, int64_t at) {
        Slot* slot = find(key);
        if (slot->generation != generation_) {
            if (++used_ * 4 > (mask_ + 1) * 3) {
                grow();
                slot = find(key);
            }
            *slot = Slot{key, generation_, 0, at};
        }
        slot->count++;
        return *slot;
    }

  private:
    static constexpr size_t FIRST_SLOTS = 1 << 16;

    Slot* find(uint64_t key) {
        size_t i = key & mask_;
        while (slots_[i].generation == generation_ && slots_[i].key != key) i = (i + 1) & mask_;
        return &slots_[i];
    }

    void resize(size_t size) {
        bool fresh = size > slots_.size() || generation_ == UINT32_MAX;
        if (fresh) {
            slots_.assign(std::max(size, slots_.size()), Slot{0, 0, 0, 0});
            generation_ = 0;
        }
        generation_++;
        mask_ = size - 1;
        used_ = 0;
    }

    void grow() {
        std::vector<Slot> live;
        for (size_t i = 0; i <= mask_; i++)
            if (slots_[i].generation == generation_) live.push_back(slots_[i]);
        resize(2 * (mask_ + 1));
        for (Slot& slot : live) {
            slot.generation = generation_;
            *find(slot.key) = slot;
        }
        used_ = live.size() + 1;
    }

    std::vector<Slot> slots_;
    size_t mask_ = 0, used_ = 0;
    uint32_t generation_ = 0;
};

struct Duplicates {
    int64_t n = 0, duplicates = 0, duplicate_chars = 0;

    void add(Counter& seen, Span s) {
        n++;
        if (seen.add(hash_bytes(s), 0).count > 1) {
            duplicates++;
            duplicate_chars += count_chars(s);
        }
    }
};

inline int64_t count_newlines(Span s) {
    int64_t n = 0;
    for (const uint8_t* p = s.begin; p < s.end; p++) n += *p == '\n';
    return n;
}

// Pieces between runs of at least ``run`` newlines, empty ones at the ends included, as re.split(r"\n{run,}") gives.
Duplicates split_duplicates(Counter& seen, Span s, int run) {
    seen.reset(count_newlines(s) + 1);
    Duplicates found;
    const uint8_t* from = s.begin;
    const uint8_t* p = s.begin;
    while (p < s.end && (p = static_cast<const uint8_t*>(std::memchr(p, '\n', s.end - p)))) {
        const uint8_t* stop = p;
        while (stop < s.end && *stop == '\n') stop++;
        if (stop - p >= run) {
            found.add(seen, {from, p});
            from = stop;
        }
        p = stop;
    }
    found.add(seen, {from, s.end});
    return found;
}

// Whitespace-separated words, or where words are not separated single characters but white space and punctuation.
struct Units {
    std::vector<uint64_t> hashes;
    std::vector<int64_t> chars;     // before unit i
    std::vector<uint64_t> prefix;   // polynomial hash of the units before i: any n-gram's hash in two operations
    int64_t text_chars = 0;         // of the text up to the last unit; all of it if all units were read
    static constexpr uint64_t BASE = 0x9E3779B97F4A7C15ULL;

    void push(uint64_t hash, int64_t n_chars) {
        hashes.push_back(hash);
        chars.push_back(chars.back() + n_chars);
        prefix.push_back(prefix.back() * BASE + hash);
    }

    // At most ``most`` units, so that memory is bounded whatever the text.
    void read(const Text& text, Span s, bool by_char, int64_t most) {
        hashes.clear();
        chars.assign(1, 0);
        prefix.assign(1, 0);
        text_chars = 0;
        const uint8_t* word = nullptr;  // its first byte
        int64_t length = 0;
        for (const uint8_t* p = s.begin; p < s.end && size() < most; text_chars++) {
            const uint8_t* at = p;
            uint32_t code = next(p, s.end);
            uint32_t classes = text.classes(code);
            bool space = classes & SPACE;
            if (by_char) {
                if (!(classes & (SPACE | SYMBOL))) push(mix(code + 1), 1);
                continue;
            }
            if (space) {
                if (word) push(hash_bytes({word, at}), length);
                word = nullptr;
                length = 0;
            } else {
                if (!word) word = at;
                length++;
            }
        }
        if (word) push(hash_bytes({word, s.end}), length);
    }

    int64_t size() const { return static_cast<int64_t>(hashes.size()); }
};

uint64_t power(uint64_t base, int64_t n) {
    uint64_t result = 1;
    while (n-- > 0) result *= base;
    return result;
}

// Characters of the most frequent n-gram, separators included, times how often it occurs (at least ``min_count`` times,
// else 0); of several the first.
int64_t top_ngram(Counter& seen, const Units& units, int64_t n, int64_t separator, int64_t min_count) {
    int64_t n_grams = units.size() - n + 1;
    if (n_grams <= 0) return 0;
    seen.reset(n_grams);
    uint64_t shift = power(Units::BASE, n);
    int64_t best_count = 0, best_first = 0;
    for (int64_t i = 0; i < n_grams; i++) {
        const auto& slot = seen.add(mix(units.prefix[i + n] - units.prefix[i] * shift), i);
        int64_t count = slot.count;
        if (count > best_count || (count == best_count && slot.first < best_first)) {
            best_count = count;
            best_first = slot.first;
        }
    }
    if (best_count < min_count) return 0;
    int64_t length = units.chars[best_first + n] - units.chars[best_first] + separator * (n - 1);
    return length * best_count;
}

// Characters inside n-grams seen before, none counted twice: after a repeated n-gram the scan goes on behind it.
int64_t duplicate_ngrams(Counter& seen, const Units& units, int64_t n) {
    int64_t n_grams = units.size() - n + 1;
    if (n_grams <= 0) return 0;
    seen.reset(n_grams);
    uint64_t shift = power(Units::BASE, n);
    int64_t repeated = 0;
    for (int64_t i = 0; i < n_grams;) {
        if (seen.add(mix(units.prefix[i + n] - units.prefix[i] * shift), i).count > 1) {
            repeated += units.chars[i + n] - units.chars[i];
            i += n;
        } else {
            i++;
        }
    }
    return repeated;
}

struct WordCounts {  // words.py, WORD_FIELDS
    int64_t words = 0, content_words = 0, content_chars = 0, alpha_words = 0, stop_words = 0, longest_word = 0;
    int64_t hashes = 0, ellipses = 0, newlines = 0;
};

// One word: what its characters are.
struct Word {
    const uint8_t* begin = nullptr;
    int64_t chars = 0;
    bool content = false, alpha = false;
};

class StopWords {
  public:
    StopWords(const uint8_t* data, const int64_t* offsets, int64_t n) {
        for (int64_t i = 0; i < n; i++) {
            Span word{data + offsets[i], data + offsets[i + 1]};
            longest_ = word.end - word.begin > longest_ ? word.end - word.begin : longest_;
            hashes_.push_back(hash_bytes(word));
        }
        found_.resize(hashes_.size());
    }

    void reset() { std::fill(found_.begin(), found_.end(), 0); }

    // 1 where this stop word occurs for the first time.
    int add(Span word) {
        if (word.end - word.begin > longest_) return 0;
        uint64_t hash = hash_bytes(word);
        for (size_t i = 0; i < hashes_.size(); i++)
            if (hashes_[i] == hash) {
                int fresh = !found_[i];
                found_[i] = 1;
                return fresh;
            }
        return 0;
    }

  private:
    std::vector<uint64_t> hashes_;
    std::vector<char> found_;
    int64_t longest_ = 0;
};

void close(WordCounts& counts, StopWords& stop, Word& word, const uint8_t* end) {
    if (!word.begin) return;
    counts.words++;
    counts.alpha_words += word.alpha;
    counts.content_words += word.content;
    counts.content_chars += word.content ? word.chars : 0;
    counts.longest_word = word.chars > counts.longest_word ? word.chars : counts.longest_word;
    counts.stop_words += stop.add({word.begin, end});
    word = Word{};
}

void count_words(const Text& text, StopWords& stop, Span s, WordCounts& counts) {
    Word word;
    stop.reset();
    for (const uint8_t* p = s.begin; p < s.end;) {
        const uint8_t* at = p;
        uint32_t classes = text.classes(next(p, s.end));
        if (classes & SPACE) {
            close(counts, stop, word, at);
            continue;
        }
        if (!word.begin) word.begin = at;
        word.chars++;
        word.alpha |= (classes & LETTER) != 0;
        word.content |= !(classes & SYMBOL);
    }
    close(counts, stop, word, s.end);
}

void count_marks(Span s, WordCounts& counts) {
    int dots = 0;
    for (const uint8_t* p = s.begin; p < s.end; p++) {
        dots = *p == '.' ? dots + 1 : 0;
        if (dots == 3) {
            counts.ellipses++;
            dots = 0;
        }
        counts.hashes += *p == '#';
        counts.newlines += *p == '\n';
        counts.ellipses += *p == 0xE2 && s.end - p >= 3 && p[1] == 0x80 && p[2] == 0xA6;
    }
}

struct LineCounts {  // words.py, LINE_FIELDS
    int64_t lines = 0, bullets = 0, ellipses = 0, longest = 0;
    int64_t filled = 0, terminal = 0, brief = 0, duplicate_chars = 0;
};

// Lines as str.splitlines gives them.
void count_lines(const Text& text, Span s, LineCounts& counts) {
    const uint8_t* from = s.begin;
    for (const uint8_t* p = s.begin; p < s.end;) {
        const uint8_t* at = p;
        uint32_t code = next(p, s.end);
        bool breaks = text.classes(code) & LINE_BREAK;
        if (!breaks && p < s.end) continue;
        Span line{from, breaks ? at : p};
        if (code == '\r' && p < s.end && *p == '\n') p++;
        from = p;
        counts.lines++;
        int64_t length = count_chars(line);
        counts.longest = length > counts.longest ? length : counts.longest;
        line = stripped(text, line);
        counts.bullets += starts(line, "-", 1) || starts(line, "\xE2\x80\xA2", 3);
        counts.ellipses += ends(line, "...", 3) || ends(line, "\xE2\x80\xA6", 3);
    }
}

// Lines between newlines that hold more than white space.
void count_filled(const Text& text, Counter& seen, Span s, int64_t short_chars, LineCounts& counts) {
    seen.reset(count_newlines(s) + 1);
    Duplicates found;
    for (const uint8_t* from = s.begin; from <= s.end;) {
        const void* hit = from < s.end ? std::memchr(from, '\n', s.end - from) : nullptr;
        Span line{from, hit ? static_cast<const uint8_t*>(hit) : s.end};
        from = line.end + 1;
        Span inner = stripped(text, line);
        if (inner.begin == inner.end) continue;
        counts.filled++;
        counts.brief += count_chars(line) <= short_chars;
        const uint8_t* last = line.end;
        counts.terminal += (text.classes(previous(last, line.begin)) & TERMINAL) != 0;
        found.add(seen, line);
    }
    counts.duplicate_chars = found.duplicate_chars;
}

}  // namespace

extern "C" {

// out [n_docs, 1 + N_CLASSES]: characters, then those of each class.
void athanor_char_counts(const uint8_t* data, const int64_t* offsets, int64_t n_docs, const uint8_t* kinds,
                         const uint32_t* bits, int64_t n_kinds, int64_t* out) {
    Text text{data, offsets, n_docs, kinds, bits};
    for (int64_t i = 0; i < n_docs; i++, out += 1 + N_CLASSES) {
        int64_t histogram[256];  // only as many as there are: lines are counted by this too
        std::fill_n(histogram, n_kinds, 0);
        Span s = document(text, i);
        for (const uint8_t* p = s.begin; p < s.end;) histogram[kinds[next(p, s.end)]]++;
        std::fill(out, out + 1 + N_CLASSES, 0);
        for (int64_t kind = 0; kind < n_kinds; kind++) {
            if (!histogram[kind]) continue;
            out[0] += histogram[kind];
            for (int c = 0; c < N_CLASSES; c++)
                if (bits[kind] >> c & 1) out[1 + c] += histogram[kind];
        }
    }
}

// out [n_docs, 9]: words.py, WORD_FIELDS.
void athanor_word_counts(const uint8_t* data, const int64_t* offsets, int64_t n_docs, const uint8_t* kinds,
                         const uint32_t* bits, const uint8_t* stop_data, const int64_t* stop_offsets, int64_t n_stop,
                         int64_t* out) {
    Text text{data, offsets, n_docs, kinds, bits};
    StopWords stop(stop_data, stop_offsets, n_stop);
    for (int64_t i = 0; i < n_docs; i++, out += sizeof(WordCounts) / sizeof *out) {
        WordCounts counts;
        count_words(text, stop, document(text, i), counts);
        count_marks(document(text, i), counts);
        std::memcpy(out, &counts, sizeof counts);
    }
}

// out [n_docs, 8]: words.py, LINE_FIELDS.
void athanor_line_counts(const uint8_t* data, const int64_t* offsets, int64_t n_docs, const uint8_t* kinds,
                         const uint32_t* bits, int64_t short_chars, int64_t* out) {
    Text text{data, offsets, n_docs, kinds, bits};
    Counter seen;
    for (int64_t i = 0; i < n_docs; i++, out += sizeof(LineCounts) / sizeof *out) {
        LineCounts counts;
        count_lines(text, document(text, i), counts);
        count_filled(text, seen, document(text, i), short_chars, counts);
        std::memcpy(out, &counts, sizeof counts);
    }
}

// out [n_docs, 7 + n_top + n_dup]: words.py, REPEAT_FIELDS, then top and duplicate n-grams of the sizes given.
// by_char [n_docs]: 1 where units are characters. most: units read of a document.
void athanor_repetition(const uint8_t* data, const int64_t* offsets, int64_t n_docs, const uint8_t* kinds,
                        const uint32_t* bits, const uint8_t* by_char, const int64_t* top, int64_t n_top,
                        const int64_t* dup, int64_t n_dup, int64_t most, int64_t* out) {
    Text text{data, offsets, n_docs, kinds, bits};
    Counter seen;
    Units units;
    for (int64_t i = 0; i < n_docs; i++) {
        Span s = document(text, i);
        Duplicates paragraphs = split_duplicates(seen, stripped(text, s), 2);
        Duplicates lines = split_duplicates(seen, s, 1);
        for (const Duplicates& found : {paragraphs, lines}) {
            *out++ = found.n;
            *out++ = found.duplicates;
            *out++ = found.duplicate_chars;
        }
        units.read(text, s, by_char[i], most);
        *out++ = units.text_chars;
        for (int64_t k = 0; k < n_top; k++) *out++ = top_ngram(seen, units, top[k], !by_char[i], by_char[i] ? 3 : 1);
        for (int64_t k = 0; k < n_dup; k++) *out++ = duplicate_ngrams(seen, units, dup[k]);
    }
}
}
