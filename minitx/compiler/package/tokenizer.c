/* A tokenizer's tables, opened; texts to ids and ids to texts: minitx/text/sentencepiece.py and renumbered.py in C. */
#include "tables.h"

enum { LONGEST_PIECE = 4096, LARGEST_GROWTH = 16384, LARGEST_TEXT = 1 << 30 };

/* The numbers at the start, in order; then the offset and the count of each section. All is little-endian, and an
 * offset is a multiple of 8. On a machine of the other byte order the magic number is another. */
enum { MAGIC, VERSION, BYTES, KIND, FLAGS, UNKNOWN, LONGEST, GROWTH, NUMBERS };
enum { RULES, REPLACEMENTS, SYMBOLS, PIECES, SCORES, BONUSES, BYTE_IDS, IDS, OTHERS, SURFACES, TEXT, SECTIONS };
static const uint8_t ELEMENT[SECTIONS] = {4, 1, 4, 4, 4, 8, 4, 4, 4, 4, 1}; /* bytes */
static const uint32_t MAGIC_NUMBER = 0x4B54584D, VERSION_NUMBER = 1;         /* "MXTK" */

/* Of a surface, the text of an id: where it begins, and two bits. */
static const uint32_t PLACE = 0x3FFFFFFF, IS_BYTE = 0x80000000, HAS_MARK = 0x40000000;

static const void *section(const uint32_t *numbers, int which, uint32_t *count) {
    *count = numbers[NUMBERS + 2 * which + 1];
    return (const uint8_t *)numbers + numbers[NUMBERS + 2 * which];
}

static Trie trie(const uint32_t *numbers, int which) {
    Trie found;
    found.units = (const uint32_t *)section(numbers, which, &found.count);
    return found;
}

/* Whether the header is one, and every section lies within the data. */
static int sections_fit(const uint32_t *numbers, size_t bytes) {
    const size_t header = (NUMBERS + 2 * SECTIONS) * sizeof *numbers;
    if (bytes < header || (uintptr_t)numbers % 8) return 0;
    if (numbers[MAGIC] != MAGIC_NUMBER || numbers[VERSION] != VERSION_NUMBER || numbers[BYTES] > bytes) return 0;
    for (int i = 0; i < SECTIONS; i++) {
        const uint32_t offset = numbers[NUMBERS + 2 * i], count = numbers[NUMBERS + 2 * i + 1];
        if (offset % 8 || offset < header || offset > numbers[BYTES]) return 0;
        if (count > (numbers[BYTES] - offset) / ELEMENT[i]) return 0;
    }
    return 1;
}

/* Whether ids are from `least` on and in the vocabulary. */
static int within(const int32_t *ids, uint32_t count, int32_t least, uint32_t vocabulary) {
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] < least || ids[i] >= (int32_t)vocabulary) return 0;
    return 1;
}

/* Whether the surfaces follow each other in a text of so many bytes, and one of a byte has one byte. */
static int surfaces_fit(const uint32_t *surfaces, uint32_t vocabulary, uint32_t bytes) {
    for (uint32_t i = 0; i < vocabulary; i++) {
        const uint32_t start = surfaces[i] & PLACE, end = surfaces[i + 1] & PLACE;
        if (start > end || end > bytes) return 0;
        if (surfaces[i] & IS_BYTE ? end - start != 1 : surfaces[i] & HAS_MARK && end == start) return 0;
    }
    return 1;
}

int tokenizer_open(Tokenizer *t, const void *data, size_t bytes) {
    const uint32_t *numbers = (const uint32_t *)data;
    if (!sections_fit(numbers, bytes)) return TOKENIZER_DAMAGED;
    uint32_t byte_count, id_count, surface_count, text_bytes;
    t->kind = numbers[KIND];
    t->flags = numbers[FLAGS];
    t->unknown = numbers[UNKNOWN];
    t->longest = numbers[LONGEST];
    t->growth = numbers[GROWTH];
    t->rules = trie(numbers, RULES);
    t->replacements = (const uint8_t *)section(numbers, REPLACEMENTS, &t->replacement_bytes);
    t->symbols = trie(numbers, SYMBOLS);
    t->pieces = trie(numbers, PIECES);
    t->scores = (const float *)section(numbers, SCORES, &t->count);
    t->bonuses = (const double *)section(numbers, BONUSES, &t->bonus_count);
    t->bytes = (const int32_t *)section(numbers, BYTE_IDS, &byte_count);
    t->ids = (const int32_t *)section(numbers, IDS, &id_count);
    t->others = trie(numbers, OTHERS);
    t->surfaces = (const uint32_t *)section(numbers, SURFACES, &surface_count);
    t->text = (const uint8_t *)section(numbers, TEXT, &text_bytes);
    t->vocabulary = surface_count - 1;
    const int known = t->kind < SEGMENTERS && t->longest <= LONGEST_PIECE && t->growth <= LARGEST_GROWTH;
    if (!known || !surface_count || t->vocabulary > INT32_MAX || t->unknown >= t->count) return TOKENIZER_DAMAGED;
    if (id_count ? id_count != t->count : t->vocabulary != t->count) return TOKENIZER_DAMAGED;
    if (byte_count != 0 && byte_count != 256) return TOKENIZER_DAMAGED;
    if (!within(t->bytes, byte_count, 0, t->vocabulary)) return TOKENIZER_DAMAGED;
    if (id_count && (!within(t->ids, id_count, -1, t->vocabulary) || t->ids[t->unknown] < 0)) return TOKENIZER_DAMAGED;
    if (!surfaces_fit(t->surfaces, t->vocabulary, text_bytes)) return TOKENIZER_DAMAGED;
    if (!byte_count) t->bytes = NULL;
    if (!id_count) t->ids = NULL;
    return 0;
}

size_t tokenizer_workspace(const Tokenizer *t, size_t text_bytes) {
    /* the text repaired; what it becomes, as it is and repaired; the segmenter's own; 7 for each that is aligned */
    const size_t each = 4 + TOKENIZER_SEGMENTERS[t->kind].bytes;
    const size_t fixed = 64 + 16 * each + (t->flags & UNUSED ? sizeof(int32_t) * t->count : 0);
    const size_t a_byte = 3 + t->growth * each;
    return text_bytes < (SIZE_MAX - fixed) / a_byte ? text_bytes * a_byte + fixed : SIZE_MAX;
}

static void put_id(Output *output, int32_t id) {
    if (output->count < output->capacity) output->ids[output->count] = id;
    output->count++;
}

/* The id of a piece of the vocabulary that need not be one of the model's; -1 if it is in neither. */
static int32_t own_id(const Tokenizer *t, Bytes piece) {
    const int64_t value = trie_find(t->pieces, piece.at, piece.size);
    const int64_t other = trie_find(t->others, piece.at, piece.size);
    if (value >= 0 && value >> 2 < (int64_t)t->count) return t->ids[value >> 2];
    return other >= 0 && other < (int64_t)t->vocabulary ? (int32_t)other : -1;
}

static int32_t known(const Tokenizer *t, int32_t id) { return id < 0 ? t->ids[t->unknown] : id; }

static void output_run(Output *output) {
    const Tokenizer *t = output->tokenizer;
    if (!output->run.size) return;
    if (t->bytes)
        for (size_t i = 0; i < output->run.size; i++) put_id(output, t->bytes[output->run.at[i]]);
    else put_id(output, t->ids ? known(t, own_id(t, output->run)) : (int32_t)t->unknown);
    output->run.size = 0;
}

void tokenizer_piece(Output *output, const uint8_t *piece, size_t size, uint32_t id) {
    const Tokenizer *t = output->tokenizer;
    if (id == t->unknown) {
        if (!output->run.size) output->run.at = piece;
        output->run.size += size;
        return;
    }
    output_run(output);
    put_id(output, t->ids ? known(t, t->ids[id]) : (int32_t)id);
}

/* A language's code that a text begins with, `>>pt<<`, becomes its piece where there is one. */
static void take_code(Bytes *text, Output *output) {
    Bytes code = {text->at, 0};
    if (text->size < 4 || memcmp(text->at, ">>", 2)) return;
    for (code.size = 4; code.size <= text->size && memcmp(text->at + code.size - 2, "<<", 2); code.size++) {}
    const int32_t id = code.size <= text->size ? own_id(output->tokenizer, code) : -1;
    if (id < 0) return;
    put_id(output, id);
    text->at += code.size;
    text->size -= code.size;
}

int tokenizer_encode(const Tokenizer *t, const char *text, size_t bytes, int32_t *ids, int capacity, void *workspace,
                     size_t workspace_bytes) {
    const size_t odd = (8 - (uintptr_t)workspace % 8) % 8;
    if (workspace_bytes < odd) return TOKENIZER_WORKSPACE;
    Room room = {(uint8_t *)workspace + odd, workspace_bytes - odd};
    Output output = {t, ids, capacity, 0, {NULL, 0}};
    Bytes rest = {(const uint8_t *)text, bytes};
    if (bytes >= LARGEST_TEXT) return TOKENIZER_LONG;
    int failed = tokenizer_repair(&rest, &room);
    if (failed) return failed;
    if (t->ids) take_code(&rest, &output);
    failed = tokenizer_normalize(t, &rest, &room);
    if (failed) return failed;
    if (rest.size >= LARGEST_TEXT) return TOKENIZER_LONG;
    failed = TOKENIZER_SEGMENTERS[t->kind].segment(t, rest, &room, &output);
    if (failed) return failed;
    output_run(&output);
    return output.count;
}

/* Appends the character that byte pieces begin with, or U+FFFD for the first byte; how many of them that took. */
static int put_character(const Tokenizer *t, const int32_t *ids, int count, Writer *writer) {
    uint8_t bytes[4];
    size_t size = 0;
    for (; size < 4 && (int)size < count && (uint32_t)ids[size] < t->vocabulary; size++) {
        const uint32_t surface = t->surfaces[ids[size]];
        if (!(surface & IS_BYTE)) break;
        bytes[size] = t->text[surface & PLACE];
    }
    const int character = tokenizer_character(bytes, size);
    if (character > 0) put(writer, bytes, (size_t)character);
    else put(writer, "\xEF\xBF\xBD", 3);
    return character > 0 ? character : 1;
}

int tokenizer_decode(const Tokenizer *t, const int32_t *ids, int count, char *out, size_t capacity) {
    Writer writer = {(uint8_t *)out, 0, capacity};
    const int trim = (t->flags & TRIM) != 0;
    int leading = trim || t->flags & DUMMY; /* a space at the very start is not of the text */
    int bytes = 0;                          /* whether the last piece was that of a byte */
    for (int i = 0; i < count;) {
        if ((uint32_t)ids[i] >= t->vocabulary) return TOKENIZER_ID;
        const uint32_t surface = t->surfaces[ids[i]];
        if (surface & IS_BYTE) {
            i += put_character(t, ids + i, count - i, &writer);
            bytes = 1;
            continue;
        }
        uint32_t start = surface & PLACE;
        const uint32_t end = t->surfaces[ids[i] + 1] & PLACE;
        if (leading && !bytes && surface & HAS_MARK) {
            start++;
            leading = trim;
        }
        put(&writer, t->text + start, end - start);
        leading = leading && !bytes && start == end;
        bytes = 0;
        i++;
    }
    return writer.size >= LARGEST_TEXT ? TOKENIZER_LONG : (int)writer.size;
}
