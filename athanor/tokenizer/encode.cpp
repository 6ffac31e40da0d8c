// Text -> ids of a byte-level BPE, and counts of the pieces that its pre-tokeniser cuts.
//
// Ids are those of the `tokenizers` library by construction: its merge loop (heap of (rank, position), stale entries
// skipped when the pair there no longer makes the same token), behind a cache of pieces, which Zipf's law keeps warm.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "scan.cpp"

using namespace athanor;

namespace {

constexpr size_t LONGEST_CACHED = 256;     // bytes of a piece

// Bytes -> number, open addressing; keys live in one arena.
struct Pieces {
    struct Slot {
        uint64_t hash;
        uint64_t at;
        uint32_t bytes;
        uint32_t number;  // + 1; 0: free
    };
    std::vector<Slot> slots = std::vector<Slot>(1 << 12);
    std::vector<uint8_t> arena;
    size_t used = 0;

    Slot* find(const uint8_t* s, size_t n, uint64_t hash) {
        const size_t mask = slots.size() - 1;
        for (size_t i = hash & mask;; i = (i + 1) & mask) {
            Slot& slot = slots[i];
            if (!slot.number) return &slot;
            if (slot.hash == hash && slot.bytes == n && !std::memcmp(arena.data() + slot.at, s, n)) return &slot;
        }
    }

    void put(Slot* slot, const uint8_t* s, size_t n, uint64_t hash) {
        *slot = {hash, arena.size(), static_cast<uint32_t>(n), static_cast<uint32_t>(++used)};
        arena.insert(arena.end(), s, s + n);
        if (used * 2 > slots.size()) grow();
    }

    void grow() {
        std::vector<Slot> old(slots.size() * 2);
        old.swap(slots);
        const size_t mask = slots.size() - 1;
        for (const Slot& slot : old) {
            if (!slot.number) continue;
            size_t i = slot.hash & mask;
            while (slots[i].number) i = (i + 1) & mask;
            slots[i] = slot;
        }
    }

    void clear() {
        std::fill(slots.begin(), slots.end(), Slot{});
        arena.clear();
        used = 0;
    }
};

struct Counter {
    Scanner scanner;
    int64_t domains;
    int64_t longest;
    Pieces pieces;
    std::vector<int64_t> counts;  // [pieces, domains]
};

struct Model {
    struct Merge {
        uint64_t pair;
        int32_t rank;
        int32_t id;
    };
    Scanner scanner;
    int32_t byte_ids[256];
    std::vector<Merge> table;
    size_t mask;
    static constexpr uint64_t NONE = ~0ull;

    static uint64_t key(int32_t a, int32_t b) {
        return static_cast<uint64_t>(static_cast<uint32_t>(a)) << 32 | static_cast<uint32_t>(b);
    }
    size_t start(uint64_t pair) const {
        const uint64_t h = pair * 0x9E3779B97F4A7C15ull;
        return (h >> 20 ^ h >> 44) & mask;
    }
    const Merge* find(int32_t a, int32_t b) const {
        const uint64_t pair = key(a, b);
        for (size_t i = start(pair);; i = (i + 1) & mask) {
            if (table[i].pair == pair) return &table[i];
            if (table[i].pair == NONE) return nullptr;
        }
    }
    // A pair given twice has its last rank, as in `tokenizers`.
    void put(int32_t a, int32_t b, int32_t rank, int32_t id) {
        const uint64_t pair = key(a, b);
        size_t i = start(pair);
        while (table[i].pair != NONE && table[i].pair != pair) i = (i + 1) & mask;
        table[i] = {pair, rank, id};
    }
};

// What one thread needs: its cache and its scratch.
struct Encoder {
    const Model* model;
    size_t cache_bytes;  // of pieces and ids; then the cache begins anew
    Pieces pieces;
    std::vector<uint64_t> spans;  // of cached ids: start << 32 | count, by the piece's number
    std::vector<int32_t> ids;
    struct Symbol {
        int32_t id, prev, next;
    };
    struct Entry {
        int32_t rank, position, id;
        bool operator<(const Entry& other) const {  // std heaps keep the largest on top
            return rank != other.rank ? rank > other.rank : position > other.position;
        }
    };
    std::vector<Symbol> symbols;
    std::vector<Entry> heap;

    size_t merge(const uint8_t* s, size_t n, int32_t* out) {
        symbols.resize(n);
        heap.clear();
        const int32_t last = static_cast<int32_t>(n) - 1;
        for (int32_t i = 0; i <= last; i++) symbols[i] = {model->byte_ids[s[i]], i - 1, i == last ? -1 : i + 1};
        for (int32_t i = 0; i < last; i++)
            if (const Model::Merge* m = model->find(symbols[i].id, symbols[i + 1].id)) heap.push_back({m->rank, i, m->id});
        std::make_heap(heap.begin(), heap.end());
        while (!heap.empty()) {
            const Entry top = heap.front();
            std::pop_heap(heap.begin(), heap.end());
            heap.pop_back();
            Symbol& left = symbols[top.position];
            if (left.id < 0 || left.next < 0) continue;
            const Model::Merge* m = model->find(left.id, symbols[left.next].id);
            if (!m || m->id != top.id) continue;
            Symbol& right = symbols[left.next];
            left.id = top.id;
            left.next = right.next;
            right.id = -1;
            if (left.next >= 0) symbols[left.next].prev = top.position;
            if (left.prev >= 0) push(left.prev, top.position);
            if (left.next >= 0) push(top.position, left.next);
        }
        size_t count = 0;
        for (int32_t i = 0; i >= 0; i = symbols[i].next) out[count++] = symbols[i].id;
        return count;
    }

    void push(int32_t a, int32_t b) {
        if (const Model::Merge* m = model->find(symbols[a].id, symbols[b].id)) {
            heap.push_back({m->rank, a, m->id});
            std::push_heap(heap.begin(), heap.end());
        }
    }

    size_t piece(const uint8_t* s, size_t n, int32_t* out) {
        if (n == 1) {
            *out = model->byte_ids[*s];
            return 1;
        }
        if (n > LONGEST_CACHED) return merge(s, n, out);
        const uint64_t hash = hash_bytes(s, n);
        Pieces::Slot* slot = pieces.find(s, n, hash);
        if (slot->number) {
            const uint64_t span = spans[slot->number - 1];
            const size_t count = span & 0xFFFFFFFFu;
            const int32_t* from = ids.data() + (span >> 32);
            for (size_t i = 0; i < count; i++) out[i] = from[i];
            return count;
        }
        const size_t count = merge(s, n, out);
        if (pieces.arena.size() + ids.size() * 4 + pieces.used * 64 > cache_bytes) {
            pieces.clear();
            spans.clear();
            ids.clear();
            slot = pieces.find(s, n, hash);
        }
        spans.push_back(static_cast<uint64_t>(ids.size()) << 32 | count);
        ids.insert(ids.end(), out, out + count);
        pieces.put(slot, s, n, hash);
        return count;
    }
};

}  // namespace

extern "C" {

void* athanor_counter_new(const uint8_t* flags, int64_t policy, int64_t domains, int64_t longest) {
    auto* counter = new Counter{{flags, static_cast<int>(policy)}, domains, longest, {}, {}};
    return counter;
}

void athanor_counter_free(void* handle) { delete static_cast<Counter*>(handle); }

// texts: UTF-8, text t is data[offsets[t], offsets[t + 1]). Pieces longer than `longest` bytes are not counted.
void athanor_counter_add(void* handle, const uint8_t* data, const int64_t* offsets, int64_t texts, int64_t domain) {
    Counter& counter = *static_cast<Counter*>(handle);
    for (int64_t t = 0; t < texts; t++) {
        const uint8_t* s = data + offsets[t];
        const size_t n = offsets[t + 1] - offsets[t];
        for (size_t i = 0, end; i < n; i = end) {
            end = counter.scanner.next(s, i, n);
            if (static_cast<int64_t>(end - i) > counter.longest) continue;
            const uint64_t hash = hash_bytes(s + i, end - i);
            Pieces::Slot* slot = counter.pieces.find(s + i, end - i, hash);
            size_t number = slot->number;
            if (!number) {
                counter.pieces.put(slot, s + i, end - i, hash);
                number = counter.pieces.used;
                counter.counts.resize(number * counter.domains);
            }
            counter.counts[(number - 1) * counter.domains + domain]++;
        }
    }
}

void athanor_counter_size(void* handle, int64_t* pieces, int64_t* bytes) {
    const Counter& counter = *static_cast<Counter*>(handle);
    *pieces = counter.pieces.used;
    *bytes = counter.pieces.arena.size();
}

// data [bytes], ends [pieces] (where each piece ends), counts [pieces, domains]
void athanor_counter_export(void* handle, uint8_t* data, int64_t* ends, int64_t* counts) {
    const Counter& counter = *static_cast<Counter*>(handle);
    std::memcpy(data, counter.pieces.arena.data(), counter.pieces.arena.size());
    for (const Pieces::Slot& slot : counter.pieces.slots)
        if (slot.number) ends[slot.number - 1] = slot.at + slot.bytes;
    std::memcpy(counts, counter.counts.data(), counter.counts.size() * sizeof(int64_t));
}

// merges [count, 2] (ids of the two parts), made [count] (id of the whole), in the order of their ranks
void* athanor_model_new(const uint8_t* flags, int64_t policy, const int32_t* byte_ids, const int32_t* merges,
                        const int32_t* made, int64_t count) {
    auto* model = new Model{};
    model->scanner = {flags, static_cast<int>(policy)};
    std::memcpy(model->byte_ids, byte_ids, sizeof(model->byte_ids));
    size_t size = 1024;
    while (size < static_cast<size_t>(count) * 2) size *= 2;
    model->table.assign(size, {Model::NONE, 0, 0});
    model->mask = size - 1;
    for (int64_t i = 0; i < count; i++)
        model->put(merges[2 * i], merges[2 * i + 1], static_cast<int32_t>(i), made[i]);
    return model;
}

void athanor_model_free(void* handle) { delete static_cast<Model*>(handle); }

void* athanor_encoder_new(const void* model, int64_t cache_bytes) {
    auto* encoder = new Encoder{};
    encoder->model = static_cast<const Model*>(model);
    encoder->cache_bytes = cache_bytes;
    return encoder;
}

void athanor_encoder_free(void* handle) { delete static_cast<Encoder*>(handle); }

// out: room for as many ids as there are bytes; ends [texts]: where each text's ids end. Returns how many ids.
int64_t athanor_encode(void* handle, const uint8_t* data, const int64_t* offsets, int64_t texts, int32_t* out,
                       int64_t* ends) {
    Encoder& encoder = *static_cast<Encoder*>(handle);
    const Scanner& scanner = encoder.model->scanner;
    int64_t total = 0;
    for (int64_t t = 0; t < texts; t++) {
        const uint8_t* s = data + offsets[t];
        const size_t n = offsets[t + 1] - offsets[t];
        for (size_t i = 0, end; i < n; i = end) {
            end = scanner.next(s, i, n);
            total += encoder.piece(s + i, end - i, out + total);
        }
        ends[t] = total;
    }
    return total;
}

// The ids of one piece's bytes, whatever they are (no pre-tokeniser).
int64_t athanor_merge(void* handle, const uint8_t* data, int64_t bytes, int32_t* out) {
    return bytes ? static_cast<Encoder*>(handle)->merge(data, bytes, out) : 0;
}

// ends [pieces]: where each piece of the text ends. Returns how many pieces.
int64_t athanor_pieces(const uint8_t* flags, int64_t policy, const uint8_t* data, int64_t bytes, int64_t* ends) {
    const Scanner scanner{flags, static_cast<int>(policy)};
    int64_t count = 0;
    for (int64_t i = 0; i < bytes; count++) ends[count] = i = scanner.next(data, i, bytes);
    return count;
}
}
