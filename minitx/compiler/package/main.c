/* The command: texts as arguments, or lines of standard input, to their translations, a line each. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "MODEL_NAME.h"

static const char HELP[] =
    "usage: MODEL_NAME [--beam N] [--max-length N] [--threads N] [--weights FILE] [--ids] [TEXT ...]\n"
    "\n"
    "MODEL_TITLE. Each TEXT, or without any each line of standard input, becomes a line of output.\n"
    "\n"
    "  --beam N        hypotheses that are kept at a time (default: the model's; 1 is greedy search)\n"
    "  --max-length N  longest translation of a sentence, in tokens\n"
    "  --threads N     1 to MODEL_THREADS (default: 1)\n"
    "  --weights FILE  the weight file (default: MODEL_DEFAULT)\n"
    "  --ids           lines are source tokens, the end included, and become target tokens\n"
    "\n"
    "examples:\n"
    "  MODEL_NAME \"How are you today?\"\n"
    "  MODEL_NAME --beam 4 < letters.txt > translated.txt\n";

typedef struct {
    minitx_limits limits;
    minitx_options options;
    const char *weights;
    int ids;
} Arguments;

static int fail(const char *what, const char *why, int status) {
    fprintf(stderr, "MODEL_NAME: error: %s%s%s\n", what ? what : "", what ? ": " : "", why);
    return status;
}

/* Reads the options; gives the index of the first text, or minus an exit status less 1. */
static int parse(int count, char **values, Arguments *a) {
    int i = 1;
    for (; i < count && values[i][0] == '-' && values[i][1]; i++) {
        int *number = !strcmp(values[i], "--beam")         ? &a->options.beam
                      : !strcmp(values[i], "--max-length") ? &a->options.maximum
                      : !strcmp(values[i], "--threads")    ? &a->limits.threads
                                                           : NULL;
        if (!strcmp(values[i], "--")) return i + 1;
        if (!strcmp(values[i], "--help") || !strcmp(values[i], "-h")) return fputs(HELP, stdout) < 0 ? -2 : -1;
        if (!strcmp(values[i], "--ids")) {
            a->ids = 1;
            continue;
        }
        if (!number && strcmp(values[i], "--weights")) return -1 - fail(values[i], "no such option; see --help", 2);
        if (i + 1 == count) return -1 - fail(values[i], "needs a value; see --help", 2);
        const char *value = values[++i];
        if (number) {
            char *end;
            const long n = strtol(value, &end, 10);
            if (n < 1 || n > 1000000 || *end) return -1 - fail(value, "must be a number from 1", 2);
            *number = (int)n;
        } else {
            a->weights = value;
        }
    }
    return i;
}

/* Opens the weights that were named, or linked in, or those beside this program, or those that were installed. */
static int open_weights(minitx_model **model, const Arguments *a, const char *program, const char **tried) {
    static char path[4096];
    size_t linked;
    *tried = a->weights;
    if (a->weights) return minitx_open(model, a->weights, &a->limits);
    if (minitx_embedded(&linked)) return minitx_open_embedded(model, &a->limits);
    *tried = path;
    const ssize_t own = readlink("/proc/self/exe", path, sizeof path - 64);
    if (own > 0) path[own] = '\0';
    else snprintf(path, sizeof path - 64, "%s", program);
    char *slash = strrchr(path, '/');
    strcpy(slash ? slash + 1 : path, "MODEL_NAME.weights");
    if (access(path, F_OK)) *tried = MODEL_WEIGHTS;
    return minitx_open(model, *tried, &a->limits);
}

/* A line of ids to one of ids. */
static int write_ids(minitx_model *model, const Arguments *a, char *text) {
    static int32_t source[MODEL_LONGEST], target[MODEL_LONGEST];
    int count = 0, length = 0;
    for (char *at = text, *end; count < MODEL_LONGEST; at = end) {
        const long id = strtol(at, &end, 10);
        if (end == at) break;
        source[count++] = (int32_t)(id < -1 || id > INT32_MAX ? -1 : id);
    }
    const int error = minitx_generate(model, source, count, &a->options, target, MODEL_LONGEST, &length, NULL);
    for (int i = 0; !error && i < length; i++) printf("%s%d", i ? " " : "", (int)target[i]);
    return error;
}

/* Writes the translation of a text, in memory that grows as it has to. */
static int write_text(minitx_model *model, const Arguments *a, char *text, size_t bytes) {
    static char *out;
    static size_t capacity;
    if (a->ids) return write_ids(model, a, text);
    for (size_t needed = 4 * bytes + 4096;;) {
        if (needed > capacity) {
            free(out);
            capacity = 0;
            out = (char *)malloc(needed);
            if (!out) return MINITX_NO_MEMORY;
            capacity = needed;
        }
        const int error = minitx_translate(model, text, bytes, &a->options, out, capacity, &needed);
        if (!error) fwrite(out, 1, needed - 1, stdout);
        if (error != MINITX_OUTPUT) return error;
    }
}

static int finish(int error) {
    putchar('\n');
    fflush(stdout);
    return error ? fail(NULL, minitx_message(error), 1) : 0;
}

int main(int count, char **values) {
    Arguments a = {{0, 0, 0, 0}, {0, 0, NULL, NULL}, NULL, 0};
    minitx_model *model;
    const char *tried;
    const int first = parse(count, values, &a);
    int status = 0;
    if (first < 0) return -first - 1;
    a.limits.beam = a.options.beam;
    int error = open_weights(&model, &a, values[0], &tried);
    if (error) return fail(tried, error == MINITX_NO_FILE ? strerror(errno) : minitx_message(error), 1);
    for (int i = first; i < count; i++) status |= finish(write_text(model, &a, values[i], strlen(values[i])));
    char *line = NULL;
    size_t room = 0;
    for (ssize_t bytes; first == count && (bytes = getline(&line, &room, stdin)) >= 0;) {
        if (bytes && line[bytes - 1] == '\n') bytes--;
        if (bytes && line[bytes - 1] == '\r') bytes--;
        line[bytes] = '\0';
        status |= finish(write_text(model, &a, line, (size_t)bytes));
    }
    free(line);
    minitx_close(model);
    return status || fflush(stdout) || ferror(stdout);
}
