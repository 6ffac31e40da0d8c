// The pre-tokeniser of athanor/tokenizer/pattern.py, by hand: where a piece that begins at a byte ends.
//
// Character classes come from outside, one byte of flags for each code point, taken from the regular-expression library
// that `tokenizers` itself uses: whatever Unicode version that one knows, this scanner knows the same.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace athanor {

enum Flag : uint8_t { NUMBER = 1, HAN = 2, WORD = 4, SPACE = 8, NEWLINE = 16, SIGN = 32, PREFIX = 64 };

struct Scanner {
    const uint8_t* flags;  // [0x110000]
    int policy;  // digits a number's piece may have, + 16 where a space behind signs joins them at the end of the text

    struct Char {
        uint8_t flags;
        uint8_t bytes;
    };

    // The character at i (text is valid UTF-8); no flags at the end.
    inline Char at(const uint8_t* s, size_t i, size_t n) const {
        if (i >= n) return {0, 0};
        const uint8_t c = s[i];
        if (c < 0x80) return {flags[c], 1};
        if (c < 0xE0) return {flags[(c & 0x1Fu) << 6 | (s[i + 1] & 0x3Fu)], 2};
        if (c < 0xF0) return {flags[(c & 0x0Fu) << 12 | (s[i + 1] & 0x3Fu) << 6 | (s[i + 2] & 0x3Fu)], 3};
        return {flags[((c & 0x07u) << 18 | (s[i + 1] & 0x3Fu) << 12 | (s[i + 2] & 0x3Fu) << 6 | (s[i + 3] & 0x3Fu)) &
                      0x1FFFFFu],
                4};
    }

    inline size_t run(const uint8_t* s, size_t i, size_t n, uint8_t flag) const {
        for (;;) {
            const Char c = at(s, i, n);
            if (!(c.flags & flag)) return i;
            i += c.bytes;
        }
    }

    // End of the piece that begins at i < n. The alternatives are tried in the pattern's order.
    inline size_t next(const uint8_t* s, size_t i, size_t n) const {
        const Char c = at(s, i, n);
        const size_t after = i + c.bytes;
        if (c.flags & NUMBER) return digits(s, after, n);
        if (c.flags & HAN) return run(s, after, n, HAN);
        if (c.flags & WORD) return run(s, after, n, WORD);
        if (c.flags & PREFIX) {
            const Char d = at(s, after, n);
            if (d.flags & WORD) return run(s, after + d.bytes, n, WORD);
        }
        if (c.flags & SIGN) return signs(s, after, n);
        if (s[i] == ' ') {
            const Char d = at(s, after, n);
            if (d.flags & SIGN) return signs(s, after + d.bytes, n);
        }
        return spaces(s, i, n);
    }

    inline size_t digits(const uint8_t* s, size_t i, size_t n) const {
        for (int taken = 1; taken < (policy & 15); taken++) {
            const Char c = at(s, i, n);
            if (!(c.flags & NUMBER)) break;
            i += c.bytes;
        }
        return i;
    }

    // Behind a run of signs: one space that a digit follows, or the line ends.
    inline size_t signs(const uint8_t* s, size_t i, size_t n) const {
        i = run(s, i, n, SIGN);
        if (i < n && s[i] == ' ' && ((at(s, i + 1, n).flags & NUMBER) || (i + 1 == n && (policy & 16)))) return i + 1;
        return run(s, i, n, NEWLINE);
    }

    // White space: up to its last line end; else whole before a digit or the end; else less its last character.
    inline size_t spaces(const uint8_t* s, size_t i, size_t n) const {
        size_t end = i, last = i, newline = 0;
        for (;;) {
            const Char c = at(s, end, n);
            if (!(c.flags & SPACE)) {
                if (newline) return newline;
                if (end == n || (c.flags & NUMBER) || last == i) return end;
                return last;
            }
            last = end;
            end += c.bytes;
            if (c.flags & NEWLINE) newline = end;
        }
    }
};

// Whether bytes are valid UTF-8 (no surrogates, nothing overlong).
inline bool is_utf8(const uint8_t* s, size_t n) {
    for (size_t i = 0; i < n;) {
        const uint8_t c = s[i];
        if (c < 0x80) {
            i++;
            continue;
        }
        const size_t more = c >= 0xC2 && c < 0xE0 ? 1 : c >= 0xE0 && c < 0xF0 ? 2 : c >= 0xF0 && c < 0xF5 ? 3 : 0;
        if (!more || i + more >= n) return false;
        for (size_t k = 1; k <= more; k++)
            if ((s[i + k] & 0xC0) != 0x80) return false;
        const uint8_t d = s[i + 1];
        if ((c == 0xE0 && d < 0xA0) || (c == 0xED && d > 0x9F) || (c == 0xF0 && d < 0x90) || (c == 0xF4 && d > 0x8F))
            return false;
        i += more + 1;
    }
    return true;
}

// Whether bytes are a part of one character (not the whole): its first bytes, or some of those behind.
inline bool is_part(const uint8_t* s, size_t n) {
    const size_t length = s[0] < 0xC0 ? 4 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80) return false;
    return n < length && s[0] >= 0x80;
}

inline uint64_t load8(const uint8_t* s, size_t n) {
    uint64_t x = 0;
    __builtin_memcpy(&x, s, n < 8 ? n : 8);
    return x;
}

inline uint64_t hash_bytes(const uint8_t* s, size_t n) {
    uint64_t h = 0x9E3779B97F4A7C15ull ^ n;
    while (n > 8) {
        h = (h ^ load8(s, 8)) * 0xD6E8FEB86659FD93ull;
        h ^= h >> 32;
        s += 8;
        n -= 8;
    }
    h = (h ^ load8(s, n)) * 0xD6E8FEB86659FD93ull;
    h ^= h >> 29;
    return h * 0xD6E8FEB86659FD93ull ^ (h >> 32);
}

}  // namespace athanor
