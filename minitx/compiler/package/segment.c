/* A normalized text into the pieces of a vocabulary: minitx/text/segment.py in C, on bytes instead of characters. */
#include "tables.h"

/* How the best path to a place in the text ends: its score, its last piece and where that starts. */
typedef struct {
    float score;
    int32_t id, start;
} Path;

/* Rounded to float32 after each piece, and the first of equals stays. */
static void extend(Path *paths, size_t start, size_t end, uint32_t id, double score) {
    const float sum = (float)((double)paths[start].score + score);
    if (paths[end].start >= 0 && !(sum > paths[end].score)) return;
    paths[end].score = sum;
    paths[end].id = (int32_t)id;
    paths[end].start = (int32_t)start;
}

/* All pieces that the text has at `start`, and the unknown piece if the character there is none. */
static void extend_all(const Tokenizer *t, Bytes text, Path *paths, size_t start, size_t character) {
    uint32_t node = trie_root(t->pieces), value = 0;
    const size_t limit = text.size - start < t->longest ? text.size - start : t->longest;
    int known = 0;
    for (size_t i = 0; i < limit; i++) {
        const int found = trie_step(t->pieces, &node, text.at[start + i], &value);
        if (found == NODE) continue;
        if (found != END_NODE || value >> 2 >= t->count) break;
        const int bonus = (value & 3) == USER_DEFINED_PIECE && i < t->bonus_count;
        extend(paths, start, start + i + 1, value >> 2, bonus ? t->bonuses[i] : (double)t->scores[value >> 2]);
        known |= i + 1 == character;
    }
    if (!known) extend(paths, start, start + character, t->unknown, (double)t->scores[t->unknown]);
}

static int unigram(const Tokenizer *t, Bytes text, Room *room, Output *output) {
    Path *paths = (Path *)take(room, text.size + 1, sizeof *paths);
    if (!paths) return TOKENIZER_WORKSPACE;
    for (size_t i = 0; i <= text.size; i++) paths[i].start = -1;
    paths[0].score = 0;
    for (size_t at = 0, size; at < text.size; at += size) {
        size = (size_t)tokenizer_character(text.at + at, text.size - at);
        extend_all(t, text, paths, at, size);
    }
    size_t next = 0;
    for (size_t at = text.size; at > 0;) { /* turns the path round: from each piece's end to the next one's */
        const size_t before = (size_t)paths[at].start;
        paths[at].start = (int32_t)next;
        next = at;
        at = before;
    }
    for (size_t at = 0; next; at = next, next = (size_t)paths[next].start)
        tokenizer_piece(output, text.at + at, next - at, (uint32_t)paths[next].id);
    return 0;
}

/* A symbol, by where it starts. Its pair is it with the one that starts at its end. */
typedef struct {
    int32_t end, before; /* where it ends, and where the one before it starts: -1 for none */
    int32_t joins;       /* 0: user-defined, which joins with nothing */
    float score;         /* of its pair */
} Symbol;

/* The best pair is at the top, 1, of a tree over all places of the text: -1 where there is none. */
typedef struct {
    const Tokenizer *tokenizer;
    Bytes text;
    Symbol *symbols;
    int32_t *tree;   /* (2 * text.size) */
    int32_t *halves; /* (count): where the left half of an unused piece ends, 0 for unknown; NULL if none is unused */
} Joining;

static int32_t better(const Symbol *symbols, int32_t a, int32_t b) {
    if (a < 0 || b < 0) return a < 0 ? b : a;
    if (symbols[a].score != symbols[b].score) return symbols[a].score > symbols[b].score ? a : b;
    return a < b ? a : b;
}

static void set_pair(Joining *j, size_t at, int there) {
    size_t node = j->text.size + at;
    j->tree[node] = there ? (int32_t)at : -1;
    while (node /= 2) j->tree[node] = better(j->symbols, j->tree[2 * node], j->tree[2 * node + 1]);
}

/* The value of a piece in the trie; -1 if it is none. */
static int64_t find_piece(const Tokenizer *t, const uint8_t *text, size_t size) {
    const int64_t value = size <= t->longest ? trie_find(t->pieces, text, size) : -1;
    return value >> 2 < (int64_t)t->count ? value : -1;
}

/* Whether a symbol and the next one make a piece is seen anew. */
static void offer(Joining *j, int32_t at) {
    if (at < 0) return;
    Symbol *left = &j->symbols[at], *right = &j->symbols[left->end];
    const int pair = (size_t)left->end < j->text.size && left->joins && right->joins;
    const int64_t value = pair ? find_piece(j->tokenizer, j->text.at + at, (size_t)(right->end - at)) : -1;
    if (value >= 0) {
        left->score = j->tokenizer->scores[value >> 2];
        if ((value & 3) == UNUSED_PIECE && j->halves) j->halves[value >> 2] = left->end - at;
    }
    set_pair(j, (size_t)at, value >= 0);
}

/* The characters of a text, and each user-defined symbol as a whole. */
static void split(Joining *j) {
    const Tokenizer *t = j->tokenizer;
    int32_t before = -1;
    for (size_t at = 0; at < j->text.size;) {
        const uint8_t *text = j->text.at + at;
        const size_t left = j->text.size - at;
        size_t size = t->symbols.count ? trie_longest(t->symbols, text, left, t->longest) : 0;
        Symbol *symbol = &j->symbols[at];
        symbol->joins = !size;
        if (!size) {
            const int character = tokenizer_character(text, left);
            size = character > 0 ? (size_t)character : 1; /* 1: inside a character, where a damaged symbol ended */
        }
        symbol->before = before;
        before = (int32_t)at;
        symbol->end = (int32_t)(at += size);
    }
}

/* Gives a piece, or if it is unused the pieces that it was joined from; the tree's memory holds where these end. */
static void output_used(Joining *j, int32_t at, int32_t end, Output *output) {
    int32_t *ends = j->tree;
    size_t depth = 1;
    ends[0] = end;
    while (depth) {
        const int32_t size = ends[depth - 1] - at;
        const int64_t value = find_piece(j->tokenizer, j->text.at + at, (size_t)size);
        const int unused = value >= 0 && (value & 3) == UNUSED_PIECE;
        const int32_t half = unused && j->halves ? j->halves[value >> 2] : 0;
        if (half > 0 && half < size) {
            ends[depth++] = at + half;
            continue;
        }
        const uint32_t id = value < 0 || unused ? j->tokenizer->unknown : (uint32_t)(value >> 2);
        tokenizer_piece(output, j->text.at + at, (size_t)size, id);
        at += size;
        depth--;
    }
}

static int bpe(const Tokenizer *t, Bytes text, Room *room, Output *output) {
    if (!text.size) return 0;
    Joining j = {t, text, NULL, NULL, NULL};
    j.symbols = (Symbol *)take(room, text.size + 1, sizeof *j.symbols);
    j.tree = (int32_t *)take(room, 2 * text.size, sizeof *j.tree);
    if (t->flags & UNUSED) j.halves = (int32_t *)take(room, t->count, sizeof *j.halves);
    if (!j.symbols || !j.tree || (t->flags & UNUSED && !j.halves)) return TOKENIZER_WORKSPACE;
    if (j.halves) memset(j.halves, 0, t->count * sizeof *j.halves);
    memset(j.tree, -1, 2 * text.size * sizeof *j.tree);
    split(&j);
    for (int32_t at = 0; (size_t)at < text.size; at = j.symbols[at].end) offer(&j, at);
    for (int32_t at; (at = j.tree[1]) >= 0;) {
        Symbol *left = &j.symbols[at];
        const int32_t right = left->end;
        left->end = j.symbols[right].end;
        if ((size_t)left->end < text.size) j.symbols[left->end].before = at;
        set_pair(&j, (size_t)right, 0);
        offer(&j, left->before);
        offer(&j, at);
    }
    for (int32_t at = 0; (size_t)at < text.size; at = j.symbols[at].end) output_used(&j, at, j.symbols[at].end, output);
    return 0;
}

const Segmenter TOKENIZER_SEGMENTERS[SEGMENTERS] = {
    {unigram, sizeof(Path)},
    {bpe, sizeof(Symbol) + 2 * sizeof(int32_t)},
};
