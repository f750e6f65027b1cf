/* What the parts of the tokenizer share: flags, tries, and memory that is handed out. No user includes it. */
#ifndef MINITX_TABLES_H
#define MINITX_TABLES_H

#include <string.h>

#include "tokenizer.h"

enum { DUMMY = 1, TRIM = 2, ESCAPE = 4, SUFFIX = 8, UNUSED = 16 }; /* FLAGS of tokenizers.py */
enum { NORMAL_PIECE, USER_DEFINED_PIECE, UNUSED_PIECE };           /* the low two bits of a piece's value in its trie */

typedef struct {
    const uint8_t *at;
    size_t size;
} Bytes;

/* Where bytes are written; `size` goes on counting where there is no more room. */
typedef struct {
    uint8_t *at;
    size_t size, capacity;
} Writer;

/* What is left of the workspace. */
typedef struct {
    uint8_t *at;
    size_t bytes;
} Room;

/* Where ids are written, and the unknown characters since the last one. */
typedef struct {
    const Tokenizer *tokenizer;
    int32_t *ids;
    int capacity, count;
    Bytes run;
} Output;

static inline void put(Writer *writer, const void *bytes, size_t size) {
    if (writer->size <= writer->capacity && size <= writer->capacity - writer->size && size)
        memcpy(writer->at + writer->size, bytes, size);
    writer->size += size;
}

/* Memory for `count` elements, aligned for a double; NULL where there is not so much. */
static inline void *take(Room *room, size_t count, size_t size) {
    if (count > (room->bytes & ~(size_t)7) / size) return NULL;
    const size_t bytes = (count * size + 7) & ~(size_t)7;
    uint8_t *at = room->at;
    room->at += bytes;
    room->bytes -= bytes;
    return at;
}

/* Tries: the node below one, 0 where there is none. A walk that leaves the array was damaged. */
enum { NO_NODE, NODE, END_NODE, LOST_NODE };

static inline uint32_t trie_offset(uint32_t unit) { return unit >> 10 << ((unit & 0x200) >> 6); }

static inline uint32_t trie_root(Trie trie) { return trie.count ? trie_offset(trie.units[0]) : 0; }

/* One byte down. At an END_NODE `value` is what the string so far stands for. */
static inline int trie_step(Trie trie, uint32_t *node, uint8_t byte, uint32_t *value) {
    const uint32_t at = *node ^ byte;
    if (at >= trie.count) return LOST_NODE;
    const uint32_t unit = trie.units[at];
    if ((unit & 0x800000FF) != byte) return NO_NODE;
    *node = at ^ trie_offset(unit);
    if (!(unit & 0x100)) return NODE;
    if (*node >= trie.count) return LOST_NODE;
    *value = trie.units[*node] & 0x7FFFFFFF;
    return END_NODE;
}

/* The value of a whole string; -1 if it is not in the trie. */
static inline int64_t trie_find(Trie trie, const uint8_t *text, size_t size) {
    uint32_t node = trie_root(trie), value = 0;
    int found = NO_NODE;
    for (size_t i = 0; i < size; i++) {
        found = trie_step(trie, &node, text[i], &value);
        if (found != NODE && found != END_NODE) return -1;
    }
    return found == END_NODE ? (int64_t)value : -1;
}

/* Bytes of the longest string of a trie that a text begins with; 0 if there is none. */
static inline size_t trie_longest(Trie trie, const uint8_t *text, size_t size, size_t limit) {
    uint32_t node = trie_root(trie), value;
    size_t longest = 0;
    for (size_t i = 0; i < size && i < limit; i++) {
        const int found = trie_step(trie, &node, text[i], &value);
        if (found == END_NODE) longest = i + 1;
        else if (found != NODE) break;
    }
    return longest;
}

/* Bytes of the character that a text begins with. If it begins with none, minus the bytes that one U+FFFD stands for:
 * the "maximal subpart" of the Unicode standard, section 3.9. */
int tokenizer_character(const uint8_t *text, size_t size);

/* Whole UTF-8 of a text: itself, or where it is not UTF-8 a copy with U+FFFD. 0, or TOKENIZER_WORKSPACE. */
int tokenizer_repair(Bytes *text, Room *room);

/* `Normalizer.__call__`: the string that is cut into pieces. 0, or an error. */
int tokenizer_normalize(const Tokenizer *tokenizer, Bytes *text, Room *room);

/* A normalized text to ids, by one of KINDS of tokenizers.py. */
typedef int Segment(const Tokenizer *tokenizer, Bytes text, Room *room, Output *output);
typedef struct {
    Segment *segment;
    size_t bytes; /* of workspace for each byte of a normalized text */
} Segmenter;
enum { SEGMENTERS = 2 };
extern const Segmenter TOKENIZER_SEGMENTERS[SEGMENTERS];

/* Takes the next piece of the text, by its id in the model; unknown characters wait until the next other piece. */
void tokenizer_piece(Output *output, const uint8_t *piece, size_t size, uint32_t id);

#endif
