/* UTF-8, and how SentencePiece rewrites a text before it is cut: minitx/text/normalizer.py in C. */
#include "tables.h"

enum { LONGEST_RULE = 256 }; /* as there */

static const uint8_t REPLACEMENT[] = {0xEF, 0xBF, 0xBD}, MARK[] = {0xE2, 0x96, 0x81};

int tokenizer_character(const uint8_t *text, size_t size) {
    const uint8_t first = text[0];
    if (first < 0x80) return 1;
    if (first < 0xC2 || first > 0xF4) return -1;
    const int bytes = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80; /* overlong forms, surrogates, past U+10FFFF */
    uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    for (int i = 1; i < bytes; i++) {
        if ((size_t)i >= size || text[i] < low || text[i] > high) return -i;
        low = 0x80;
        high = 0xBF;
    }
    return bytes;
}

size_t tokenizer_replaced(const char *text, size_t bytes) {
    size_t count = 0;
    for (size_t at = 0; at < bytes;) {
        const int size = tokenizer_character((const uint8_t *)text + at, bytes - at);
        count += size < 0;
        at += (size_t)(size < 0 ? -size : size);
    }
    return count;
}

int tokenizer_repair(Bytes *text, Room *room) {
    const size_t count = tokenizer_replaced((const char *)text->at, text->size);
    if (!count) return 0;
    Writer writer = {NULL, 0, text->size + 2 * count}; /* 3 bytes for each of `count` parts of 1 byte or more */
    writer.at = (uint8_t *)take(room, writer.capacity, 1);
    if (!writer.at) return TOKENIZER_WORKSPACE;
    for (size_t at = 0; at < text->size;) {
        const int size = tokenizer_character(text->at + at, text->size - at);
        if (size < 0) put(&writer, REPLACEMENT, sizeof REPLACEMENT);
        else put(&writer, text->at + at, (size_t)size);
        at += (size_t)(size < 0 ? -size : size);
    }
    text->at = writer.at;
    text->size = writer.size;
    return 0;
}

/* The bytes of the longest rule that a text begins with, and what replaces them; 0 for none, TOKENIZER_DAMAGED. */
static int longest_rule(const Tokenizer *t, const uint8_t *text, size_t size, Bytes *replacement) {
    if (!t->rules.count) return 0;
    uint32_t node = trie_root(t->rules), value = 0;
    int longest = 0, i = 0;
    for (; i < LONGEST_RULE && (size_t)i < size; i++) {
        const int found = trie_step(t->rules, &node, text[i], &value);
        if (found == LOST_NODE) return TOKENIZER_DAMAGED;
        if (found == NO_NODE) break;
        if (found == END_NODE) longest = i + 1;
    }
    if (i == LONGEST_RULE && size > LONGEST_RULE) return TOKENIZER_DAMAGED;
    if (!longest) return 0;
    if (value >= t->replacement_bytes) return TOKENIZER_DAMAGED;
    const size_t left = t->replacement_bytes - value, limit = 4 * LONGEST_RULE;
    replacement->at = t->replacements + value;
    const uint8_t *end = (const uint8_t *)memchr(replacement->at, 0, left < limit ? left : limit);
    if (!end) return TOKENIZER_DAMAGED;
    replacement->size = (size_t)(end - replacement->at);
    return longest;
}

/* What a text begins with, rewritten, and how many of its bytes that is; or TOKENIZER_DAMAGED. */
static int next_part(const Tokenizer *t, const uint8_t *text, size_t size, Bytes *part) {
    part->at = text;
    part->size = t->symbols.count ? trie_longest(t->symbols, text, size, t->longest) : 0;
    if (part->size) return (int)part->size;
    const int rule = longest_rule(t, text, size, part);
    if (rule) return rule;
    const int character = tokenizer_character(text, size);
    if (character > 0) {
        part->size = (size_t)character;
        return character;
    }
    part->at = REPLACEMENT; /* inside a character, whose first bytes a strange rule took away */
    part->size = sizeof REPLACEMENT;
    return 1;
}

/* Appends a part, its spaces as marks. */
static void put_part(Writer *writer, Bytes part, Bytes mark) {
    while (part.size) {
        const uint8_t *space = (const uint8_t *)memchr(part.at, ' ', part.size);
        const size_t size = space ? (size_t)(space - part.at) : part.size;
        put(writer, part.at, size);
        if (!space) return;
        put(writer, mark.at, mark.size);
        part.at += size + 1;
        part.size -= size + 1;
    }
}

/* Appends the normalized text, which need not be UTF-8; 0, or an error. */
static int rewrite(const Tokenizer *t, Bytes text, Writer *writer) {
    Bytes mark = {t->flags & ESCAPE ? MARK : (const uint8_t *)" ", t->flags & ESCAPE ? sizeof MARK : 1};
    const int trim = (t->flags & TRIM) != 0, dummy = (t->flags & DUMMY) != 0, suffix = (t->flags & SUFFIX) != 0;
    int after_space = trim, leading = trim, any = 0;
    while (text.size) {
        Bytes part;
        const int taken = next_part(t, text.at, text.size, &part);
        if (taken < 0) return taken;
        text.at += taken;
        text.size -= (size_t)taken;
        if (leading && part.size == 1 && part.at[0] == ' ') continue;
        leading = 0;
        if (!any++ && dummy && !suffix) put(writer, mark.at, mark.size);
        for (; after_space && part.size && part.at[0] == ' '; part.size--) part.at++;
        if (part.size) after_space = trim && part.at[part.size - 1] == ' ';
        put_part(writer, part, mark);
    }
    if (writer->size > writer->capacity) return TOKENIZER_WORKSPACE;
    while (trim && writer->size >= mark.size && !memcmp(writer->at + writer->size - mark.size, mark.at, mark.size))
        writer->size -= mark.size;
    if (any && dummy && suffix) put(writer, mark.at, mark.size);
    return writer->size > writer->capacity ? TOKENIZER_WORKSPACE : 0;
}

int tokenizer_normalize(const Tokenizer *t, Bytes *text, Room *room) {
    Writer writer = {room->at, 0, room->bytes};
    const int failed = rewrite(t, *text, &writer);
    if (failed) return failed;
    text->at = writer.at;
    text->size = writer.size;
    if (!take(room, writer.size, 1)) return TOKENIZER_WORKSPACE;
    return tokenizer_repair(text, room);
}
