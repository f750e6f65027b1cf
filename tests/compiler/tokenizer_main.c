/* For the sanitizers: all memory has just the size that it needs. Arguments: tables, texts, damage or nothing.
 *
 * Texts and damage are records of a u32 size and so many bytes. Prints the ids, the size and the text of each;
 * with damage, a record of which is (u32 offset, u8 mask) or (u32 size), how many of the damaged tables were refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"

static uint8_t *copy(const uint8_t *from, size_t bytes) {
    uint8_t *to = (uint8_t *)malloc(bytes ? bytes : 1);
    if (!to) exit(3);
    if (bytes) memcpy(to, from, bytes);
    return to;
}

static uint8_t *read_file(const char *name, size_t *bytes) {
    FILE *file = fopen(name, "rb");
    if (!file) exit(3);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    uint8_t *data = (uint8_t *)malloc(*bytes + 1);
    if (!data || fread(data, 1, *bytes, file) != *bytes) exit(3);
    fclose(file);
    return data;
}

static uint32_t number(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return value;
}

static void run(const Tokenizer *t, const uint8_t *text, size_t bytes, int print) {
    const size_t most = tokenizer_workspace(t, bytes), size = most < 1 << 20 ? most : 1 << 20; /* damaged: too much */
    char *exact = (char *)copy(text, bytes);
    void *workspace = malloc(size);
    int count = tokenizer_encode(t, exact, bytes, NULL, 0, workspace, size);
    int32_t *ids = (int32_t *)malloc(count > 0 ? (size_t)count * sizeof *ids : 1);
    const int again = tokenizer_encode(t, exact, bytes, ids, count, workspace, size);
    if (again != count || (print && count < 0)) exit(4);
    const int length = tokenizer_decode(t, ids, count, NULL, 0);
    char *out = (char *)malloc(length > 0 ? (size_t)length : 1);
    if (length > 1) tokenizer_decode(t, ids, count, out, (size_t)length - 1);
    if (length > 0) tokenizer_decode(t, ids, count, out, (size_t)length);
    if (print) {
        for (int i = 0; i < count; i++) printf("%d ", (int)ids[i]);
        printf("\n%d\n", length);
        fwrite(out, 1, (size_t)length, stdout);
        printf("\n");
    }
    free(out);
    free(ids);
    free(workspace);
    free(exact);
}

static int run_all(const uint8_t *tables, size_t table_bytes, const uint8_t *texts, size_t bytes, int print) {
    Tokenizer t;
    if (tokenizer_open(&t, tables, table_bytes)) return -1;
    for (size_t at = 0; at < bytes; at += 4 + number(texts + at)) run(&t, texts + at + 4, number(texts + at), print);
    for (uint32_t i = 0; !print && i < t.vocabulary; i++) {
        const int32_t id = (int32_t)i;
        char out[8];
        tokenizer_decode(&t, &id, 1, out, sizeof out);
    }
    return 0;
}

int main(int arguments, char **argument) {
    size_t table_bytes, text_bytes, bytes;
    if (arguments < 3) return 2;
    uint8_t *tables = read_file(argument[1], &table_bytes), *texts = read_file(argument[2], &text_bytes);
    if (arguments == 3) {
        uint8_t *exact = copy(tables, table_bytes);
        if (run_all(exact, table_bytes, texts, text_bytes, 1)) return 5;
        free(exact);
    } else {
        uint8_t *damage = read_file(argument[3], &bytes);
        int refused = 0;
        for (size_t at = 0; at < bytes; at += 4 + number(damage + at)) {
            const int flips = number(damage + at) == 5;
            const uint32_t where = number(damage + at + 4);
            const size_t left = flips ? table_bytes : where;
            uint8_t *damaged = copy(tables, left);
            if (flips) damaged[where] ^= damage[at + 8];
            refused += run_all(damaged, left, texts, text_bytes, 0) != 0;
            free(damaged);
        }
        printf("%d\n", refused);
        free(damage);
    }
    free(tables);
    free(texts);
    return 0;
}
