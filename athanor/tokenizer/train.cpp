// Byte-pair encoding learned from counted pieces (Sennrich et al. 2016, arXiv 1508.07909), with one count a domain.
//
// Pair counts are kept up to date merge by merge: each pair knows the pieces that held it. Ties go to the pair of the
// smaller ids, as in the `tokenizers` library, so that with one column and no bans the merges are that library's own.
#include <cstring>
#include <queue>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "scan.cpp"

using namespace athanor;

namespace {

struct Options {
    int64_t columns;        // counts of each piece
    int64_t ranked;         // 1: the first column ranks pairs and the last is its raw count; else every column is a domain
    int64_t max_merges;     // how many to learn
    int64_t min_frequency;  // raw count below which a pair is not worth a token
    int64_t first_id;       // of the first merge
    int64_t alone;          // 1: only tokens that stand alone: one piece of the pre-tokeniser, or a part of a character
    int64_t policy;
    int64_t window;         // parity: of the last so many merges one domain has at most twice its even share
};

struct Pair {
    int32_t a, b;
    std::vector<uint32_t> words;
};

struct Entry {
    int64_t count;
    int32_t a, b;
    uint32_t pair;
    bool operator<(const Entry& other) const {
        if (count != other.count) return count < other.count;
        return a != other.a ? a > other.a : b > other.b;
    }
};

struct Trainer {
    Options options;
    Scanner scanner;
    const int64_t* counts;  // [words, columns]
    std::vector<int32_t> symbols;
    std::vector<int64_t> starts;
    std::vector<int32_t> lengths;
    std::vector<std::string> bytes;  // of each token, by id less first_id (merges) or by byte
    std::vector<int32_t> byte_of;    // id -> byte, for ids below first_id
    std::unordered_map<uint64_t, uint32_t> index;
    std::vector<Pair> pairs;
    std::vector<int64_t> totals;  // [pairs, columns]
    std::vector<std::priority_queue<Entry>> heaps;
    std::unordered_set<std::string> allowed, made;
    std::vector<Entry> deferred;
    bool restricted;
    std::vector<int64_t> tokens, domain_bytes;  // parity: of each domain
    std::vector<bool> exhausted;
    std::vector<int> history;

    int64_t heaps_wanted() const { return options.ranked ? 1 : options.columns; }

    std::string text(int32_t id) const {
        if (id >= options.first_id) return bytes[id - options.first_id];
        return std::string(1, static_cast<char>(byte_of[id]));
    }

    uint32_t pair_of(int32_t a, int32_t b) {
        const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(a)) << 32 | static_cast<uint32_t>(b);
        const auto [at, fresh] = index.try_emplace(key, static_cast<uint32_t>(pairs.size()));
        if (fresh) {
            pairs.push_back({a, b, {}});
            totals.resize(totals.size() + options.columns);
        }
        return at->second;
    }

    void add(uint32_t pair, uint32_t word, int64_t sign) {
        const int64_t* count = counts + static_cast<int64_t>(word) * options.columns;
        int64_t* total = totals.data() + static_cast<int64_t>(pair) * options.columns;
        for (int64_t c = 0; c < options.columns; c++) total[c] += sign * count[c];
        auto& words = pairs[pair].words;
        if (sign > 0 && (words.empty() || words.back() != word)) words.push_back(word);
    }

    void queue(uint32_t pair, int64_t column) {
        const int64_t count = totals[static_cast<int64_t>(pair) * options.columns + column];
        if (count > 0) heaps[column].push({count, pairs[pair].a, pairs[pair].b, pair});
    }

    void begin(const uint8_t* data, const int64_t* ends, int64_t words, const int32_t* byte_ids) {
        symbols.resize(words ? ends[words - 1] : 0);
        heaps.resize(heaps_wanted());
        exhausted.assign(heaps_wanted(), false);
        tokens.assign(options.columns, 0);
        domain_bytes.assign(options.columns, 0);
        for (int64_t w = 0, at = 0; w < words; at = ends[w++]) {
            starts.push_back(at);
            lengths.push_back(static_cast<int32_t>(ends[w] - at));
            for (int64_t c = 0; c < options.columns; c++)
                domain_bytes[c] += counts[w * options.columns + c] * lengths[w];
            for (int64_t i = at; i < ends[w]; i++) {
                symbols[i] = byte_ids[data[i]];
                if (i > at) add(pair_of(symbols[i - 1], symbols[i]), static_cast<uint32_t>(w), 1);
            }
        }
        tokens = domain_bytes;
        for (size_t c = 0; c < heaps.size(); c++)
            for (uint32_t p = 0; p < pairs.size(); p++) queue(p, c);
    }

    // Whether a pair may become a token. What is not among the candidates waits for the second phase.
    bool may(const Entry& entry, int64_t raw_column) {
        if (totals[static_cast<int64_t>(entry.pair) * options.columns + raw_column] < options.min_frequency) return false;
        const std::string whole = text(entry.a) + text(entry.b);
        if (made.count(whole)) return false;
        if (options.alone) {
            const auto* s = reinterpret_cast<const uint8_t*>(whole.data());
            const bool text = is_utf8(s, whole.size());
            if (text ? scanner.next(s, 0, whole.size()) != whole.size() : !is_part(s, whole.size())) return false;
        }
        if (restricted && !allowed.count(whole)) {
            deferred.push_back(entry);
            return false;
        }
        return true;
    }

    // The best pair of a column, or none.
    bool best(int64_t column, Entry& found) {
        auto& heap = heaps[column];
        const int64_t raw = options.ranked ? options.columns - 1 : column;
        while (!heap.empty()) {
            Entry top = heap.top();
            heap.pop();
            const int64_t now = totals[static_cast<int64_t>(top.pair) * options.columns + column];
            if (now != top.count) {
                top.count = now;
                if (now > 0) heap.push(top);
                continue;
            }
            if (may(top, raw)) {
                found = top;
                return true;
            }
        }
        return false;
    }

    // Parity: the domain with the fewest bytes a token that still has a pair to give and is not over its share.
    int64_t worst() {
        int64_t chosen = -1;
        double ratio = 0;
        const int64_t limit = options.window * 2 / static_cast<int64_t>(heaps.size());
        std::vector<int64_t> recent(heaps.size(), 0);
        const size_t from = history.size() > static_cast<size_t>(options.window) ? history.size() - options.window : 0;
        for (size_t i = from; i < history.size(); i++) recent[history[i]]++;
        for (size_t c = 0; c < heaps.size(); c++) {
            if (exhausted[c] || !domain_bytes[c] || (heaps.size() > 2 && limit > 0 && recent[c] >= limit)) continue;
            const double now = static_cast<double>(tokens[c]) / static_cast<double>(domain_bytes[c]);
            if (chosen < 0 || now > ratio) {
                chosen = static_cast<int64_t>(c);
                ratio = now;
            }
        }
        if (chosen < 0)
            for (size_t c = 0; c < heaps.size(); c++)
                if (!exhausted[c] && domain_bytes[c]) return static_cast<int64_t>(c);
        return chosen;
    }

    bool choose(Entry& found) {
        if (options.ranked) {
            if (best(0, found)) return true;
            if (!restricted) return false;
            restricted = false;
            for (Entry entry : deferred) queue(entry.pair, 0);
            deferred.clear();
            return best(0, found);
        }
        for (int64_t column = worst(); column >= 0; column = worst()) {
            if (best(column, found)) {
                history.push_back(static_cast<int>(column));
                return true;
            }
            exhausted[column] = true;
        }
        return false;
    }

    void merge(const Entry& chosen, int32_t id) {
        const std::vector<uint32_t> words = std::move(pairs[chosen.pair].words);
        const size_t known = pairs.size();
        for (const uint32_t w : words) {
            int32_t* s = symbols.data() + starts[w];
            const int32_t n = lengths[w];
            int32_t out = 0;
            for (int32_t i = 0; i < n; out++) {
                if (i + 1 >= n || s[i] != chosen.a || s[i + 1] != chosen.b) {
                    s[out] = s[i++];
                    continue;
                }
                if (out > 0) {
                    add(pair_of(s[out - 1], chosen.a), w, -1);
                    add(pair_of(s[out - 1], id), w, 1);
                }
                i += 2;
                if (i < n) {
                    add(pair_of(chosen.b, s[i]), w, -1);
                    add(pair_of(id, s[i]), w, 1);
                }
                s[out] = id;
                for (int64_t c = 0; c < options.columns; c++) tokens[c] -= counts[w * options.columns + c];
            }
            lengths[w] = out;
        }
        // Only pairs with the new token can have grown, and all of them are new.
        for (size_t c = 0; c < heaps.size(); c++)
            for (size_t p = known; p < pairs.size(); p++) queue(static_cast<uint32_t>(p), c);
    }
};

}  // namespace

extern "C" {

// data, ends [words]: the pieces' bytes and where each ends; counts [words, columns]; byte_ids [256]; allowed: bytes of
// the candidates (ends given), or none; merges [max_merges, 2] and gains
// [max_merges] (the count a pair was chosen for): written. `progress` may be null; it returns 0 to stop.
// Returns how many merges were learned.
int64_t athanor_train(const int64_t* option_values, const uint8_t* flags, const uint8_t* data, const int64_t* ends,
                      int64_t words, const int64_t* counts, const int32_t* byte_ids, const uint8_t* allowed_data,
                      const int64_t* allowed_ends, int64_t allowed, int32_t* merges, int64_t* gains,
                      int64_t (*progress)(int64_t)) {
    Trainer trainer{};
    std::memcpy(&trainer.options, option_values, sizeof(Options));
    trainer.scanner = {flags, static_cast<int>(trainer.options.policy)};
    trainer.counts = counts;
    trainer.restricted = allowed > 0;
    for (int64_t i = 0, at = 0; i < allowed; at = allowed_ends[i++])
        trainer.allowed.emplace(reinterpret_cast<const char*>(allowed_data + at), allowed_ends[i] - at);
    trainer.byte_of.assign(trainer.options.first_id, 0);
    for (int32_t byte = 0; byte < 256; byte++) trainer.byte_of[byte_ids[byte]] = byte;
    trainer.begin(data, ends, words, byte_ids);
    int64_t count = 0;
    Entry chosen{};
    while (count < trainer.options.max_merges && trainer.choose(chosen)) {
        const int32_t id = static_cast<int32_t>(trainer.options.first_id + count);
        merges[2 * count] = chosen.a;
        merges[2 * count + 1] = chosen.b;
        gains[count] = chosen.count;
        trainer.bytes.push_back(trainer.text(chosen.a) + trainer.text(chosen.b));
        trainer.made.insert(trainer.bytes.back());
        trainer.merge(chosen, id);
        count++;
        if (progress && count % 1024 == 0 && !progress(count)) break;
    }
    return count;
}
}
