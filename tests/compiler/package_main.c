#define _POSIX_C_SOURCE 200809L
/* For the sanitizers, and to count allocations: all memory has just the size that it needs.
 *
 * Arguments: `texts` FILE WEIGHTS, or `damage` FILE WEIGHTS. FILE has records of a u32 size and so many bytes: texts, or
 * damage as u32 offsets and u8 masks, behind which the checksum is made right, or one u32 size at which the file ends.
 * Prints the code and the translation of each text, or how many of the damaged files were refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tiny.model.h"

enum { LEAST = 24 }; /* bytes of a file before what is checksummed */

static unsigned long allocations;
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_malloc(size_t bytes) { return allocations++, __real_malloc(bytes); }
void *__wrap_calloc(size_t count, size_t bytes) { return allocations++, __real_calloc(count, bytes); }
void *__wrap_realloc(void *memory, size_t bytes) { return allocations++, __real_realloc(memory, bytes); }
void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
    return allocations++, __real_aligned_alloc(alignment, bytes);
}

static void stop(const char *why) {
    fprintf(stderr, "package_main: %s\n", why);
    exit(3);
}

/* Memory of just so many bytes, at a multiple of 64. */
static unsigned char *exactly(size_t bytes) {
    void *memory;
    if (posix_memalign(&memory, 64, bytes ? bytes : 1)) stop("out of memory");
    return (unsigned char *)memory;
}

static unsigned char *read_file(const char *name, size_t *bytes) {
    FILE *file = fopen(name, "rb");
    if (!file) stop(name);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    unsigned char *data = exactly(*bytes);
    if (fread(data, 1, *bytes, file) != *bytes) stop(name);
    fclose(file);
    return data;
}

static uint32_t number(const unsigned char *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* Since there were so many allocations there may be no more. */
static void none_since(unsigned long then) {
    if (allocations != then) stop("something was allocated");
}

/* One text in memory of its own, with too little room for its translation, and with enough. */
static void run_text(tiny_model_model *model, const unsigned char *text, size_t bytes, unsigned turn) {
    static const int beams[] = {1, 1, 2, 4};
    const tiny_model_options options = {
        .beam = beams[turn % 4], .maximum = turn % 8 ? 2 : 6, .minimum = turn % 3 == 0 ? 2 : 0, .no_split = turn % 7 == 0};
    const int best = turn % 5 ? 1 : 1 + (int)(turn % 4);
    tiny_model_translation found[4];
    int count;
    size_t needed, again;
    char *exact = (char *)malloc(bytes ? bytes : 1);
    memcpy(exact, text, bytes);
    unsigned long then = allocations;
    int error = tiny_model_translate_best(model, exact, bytes, &options, best, NULL, 0, &needed, found, &count);
    none_since(then);
    if (error != TINY_MODEL_OUTPUT && error != TINY_MODEL_LONG) stop(tiny_model_message(error));
    for (size_t less = 0; error == TINY_MODEL_OUTPUT && less < 2; less++) {
        const size_t room = needed - 1 + less;
        char *out = (char *)malloc(room ? room : 1);
        then = allocations;
        const int status = tiny_model_translate_best(model, exact, bytes, &options, best, out, room, &again, found, &count);
        none_since(then);
        if (again != needed || status != (less ? TINY_MODEL_OK : TINY_MODEL_OUTPUT)) stop("another size the second time");
        if (less) {
            for (int i = 0; i < count; i++)
                if (found[i].text[found[i].bytes]) stop("no NUL behind a translation");
            printf("%d %zu ", count, needed);
            fwrite(out, 1, needed, stdout);
        }
        free(out);
    }
    printf(" %d\n", error == TINY_MODEL_OUTPUT ? 0 : error);
    free(exact);
}

/* A workspace of just the size that is needed, and the model in it. */
static int open_exactly(tiny_model_model **model, const unsigned char *weights, size_t bytes, unsigned char **memory) {
    const tiny_model_limits limits = {16, 12, 4, 1};
    size_t needed;
    const unsigned long then = allocations;
    int error = tiny_model_workspace(weights, bytes, &limits, &needed);
    none_since(then);
    *memory = NULL;
    if (error) return error;
    *memory = exactly(needed);
    if (tiny_model_open_in(model, weights, bytes, &limits, *memory, needed - 1) != TINY_MODEL_WORKSPACE)
        stop("a workspace that is too small is taken");
    const unsigned long before = allocations;
    error = tiny_model_open_in(model, weights, bytes, &limits, *memory, needed);
    none_since(before);
    return error;
}

static void make_whole(unsigned char *weights, size_t bytes) {
    uint64_t sum = 0, word;
    for (size_t i = LEAST; i + 8 <= bytes; i += 8) {
        memcpy(&word, weights + i, 8);
        sum += word * (2 * ((i - LEAST) / 8) + 1);
    }
    if (bytes >= LEAST) memcpy(weights + LEAST - 8, &sum, 8);
}

/* Damages a copy of the weights, opens it, and translates with it where it is taken; whether it is refused. */
static int run_damage(const unsigned char *weights, size_t bytes, const unsigned char *damage, size_t size) {
    static const unsigned char text[] = "abc de. Fg \xff h";
    const size_t left = size == 4 ? number(damage) : bytes;
    unsigned char *copy = exactly(left), *memory;
    memcpy(copy, weights, left);
    for (size_t i = 0; size != 4 && i < size; i += 5) copy[number(damage + i)] ^= damage[i + 4];
    make_whole(copy, left);
    tiny_model_model *model;
    const int error = open_exactly(&model, copy, left, &memory);
    char out[64];
    size_t needed;
    if (!error) tiny_model_translate(model, (const char *)text, sizeof text - 1, NULL, out, sizeof out, &needed);
    if (!error) tiny_model_close(model);
    free(memory);
    free(copy);
    return error != 0;
}

int main(int count, char **values) {
    size_t bytes, weight_bytes;
    if (count != 4) return 2;
    unsigned char *records = read_file(values[2], &bytes), *weights = read_file(values[3], &weight_bytes), *memory;
    const int damage = !strcmp(values[1], "damage");
    tiny_model_model *model = NULL;
    if (!damage && open_exactly(&model, weights, weight_bytes, &memory)) stop("not opened");
    int refused = 0;
    unsigned turn = 0;
    for (size_t at = 0; at + 4 <= bytes; at += 4 + number(records + at), turn++) {
        const size_t size = number(records + at);
        if (damage) refused += run_damage(weights, weight_bytes, records + at + 4, size);
        else run_text(model, records + at + 4, size, turn);
    }
    if (damage) printf("%d\n", refused);
    if (!damage) tiny_model_close(model);
    if (!damage) free(memory);
    free(records);
    free(weights);
    return 0;
}
