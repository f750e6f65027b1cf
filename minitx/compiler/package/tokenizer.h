/* Text to token ids and back, with the ids and the text that minitx gives: minitx/text/ in C.
 *
 * The tables are what minitx/compiler/tokenizers.py packs. They are used where they lie, in a mapped file or in flash,
 * and stay as they are. Nothing here allocates or has global state, so threads may share a Tokenizer, each with a
 * workspace of its own. Texts may hold NULs. A damaged table gives an error or other ids, never more than that.
 */
#ifndef MINITX_TOKENIZER_H
#define MINITX_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    TOKENIZER_DAMAGED = -1,   /* the tables, or they are of another version, or not aligned for a double */
    TOKENIZER_WORKSPACE = -2, /* too small */
    TOKENIZER_ID = -3,        /* an id that is not in the vocabulary */
    TOKENIZER_LONG = -4       /* the text, or what becomes of it, has 1 GiB or more */
};

/* A double array as Darts-clone writes it; see `CharacterMap` in minitx/text/normalizer.py. */
typedef struct {
    const uint32_t *units;
    uint32_t count;
} Trie;

/* Made by tokenizer_open, and only read after that. What is what, see minitx/compiler/tokenizers.py. */
typedef struct {
    uint32_t kind, flags, unknown, longest, growth, vocabulary, count, bonus_count, replacement_bytes;
    Trie rules, symbols, pieces, others;
    const uint8_t *replacements, *text;
    const float *scores;
    const double *bonuses;
    const int32_t *bytes, *ids; /* NULL where there are none */
    const uint32_t *surfaces;
} Tokenizer;

/* Checks the tables and finds their parts; 0, or an error. `data` has to stay. */
int tokenizer_open(Tokenizer *tokenizer, const void *data, size_t bytes);

/* Bytes of a workspace that is enough for any text of so many bytes. Most texts do with a tenth of it, and with less
 * tokenizer_encode gives TOKENIZER_WORKSPACE where it does not do. */
size_t tokenizer_workspace(const Tokenizer *tokenizer, size_t text_bytes);

/* The ids of a text, with no special tokens. Gives their number, of which no more than `capacity` are written, or an
 * error. What is not UTF-8 is read as U+FFFD, as Python's errors="replace" does it. */
int tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t bytes, int32_t *ids, int capacity,
                     void *workspace, size_t workspace_bytes);

/* How many U+FFFD stand for what of a text is not UTF-8. */
size_t tokenizer_replaced(const char *text, size_t bytes);

/* The text of ids, without special tokens and with no NUL after it. Gives its bytes, or an error; of a text that is
 * longer than `capacity` only the beginning is written. */
int tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, int count, char *out, size_t capacity);

#ifdef __cplusplus
}
#endif

#endif
