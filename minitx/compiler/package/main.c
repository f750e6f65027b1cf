/* The command: texts as arguments, or lines of standard input, to their translations, a line each. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "MODEL_NAME.h"
#include "console.h"

static const char HELP[] =
    "usage: MODEL_NAME [OPTION ...] [TEXT ...]\n"
    "\n"
    "MODEL_TITLE. Each TEXT, or without any each line of standard input, becomes a line of output.\n"
    "\n"
    "  --beam N        hypotheses that are kept at a time (default: the model's; 1 is greedy search)\n"
    "  --n-best N      translations of each line to print, a line each\n"
    "  --scores        print the score and a tab before each translation\n"
    "  --max-length N  longest translation of a sentence, in tokens\n"
    "  --min-length N  shortest one\n"
    "  --no-split      take each line as one sentence, however long\n"
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
    int ids, best, scores;
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
                      : !strcmp(values[i], "--n-best")     ? &a->best
                      : !strcmp(values[i], "--max-length") ? &a->options.maximum
                      : !strcmp(values[i], "--min-length") ? &a->options.minimum
                      : !strcmp(values[i], "--threads")    ? &a->limits.threads
                                                           : NULL;
        if (!strcmp(values[i], "--")) return i + 1;
        if (!strcmp(values[i], "--help") || !strcmp(values[i], "-h")) return fputs(HELP, stdout) < 0 ? -2 : -1;
        int *flag = !strcmp(values[i], "--ids")        ? &a->ids
                    : !strcmp(values[i], "--scores")   ? &a->scores
                    : !strcmp(values[i], "--no-split") ? &a->options.no_split
                                                       : NULL;
        if (flag) {
            *flag = 1;
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
    console_program(path, sizeof path - sizeof "MODEL_NAME.weights", program);
    console_beside(path, "MODEL_NAME.weights");
    const int error = minitx_open(model, path, &a->limits);
    if (error != MINITX_NO_FILE || errno != ENOENT) return error;
    *tried = MODEL_WEIGHTS;
    return minitx_open(model, *tried, &a->limits);
}

static void begin_line(const Arguments *a, int rank, double score) {
    if (rank) putchar('\n');
    if (a->scores) printf("%.4f\t", score);
}

/* A line of ids to one of ids for each hypothesis. */
static int write_ids(minitx_model *model, const Arguments *a, char *text) {
    static int32_t source[MODEL_LONGEST], target[MODEL_LONGEST];
    int count = 0, length = 0;
    double score = 0;
    for (char *at = text, *end; count < MODEL_LONGEST; at = end) {
        const long id = strtol(at, &end, 10);
        if (end == at) break;
        source[count++] = (int32_t)(id < -1 || id > INT32_MAX ? -1 : id);
    }
    int error = minitx_generate(model, source, count, &a->options, target, MODEL_LONGEST, &length, &score);
    for (int rank = 0; !error && rank < a->best; rank++) {
        if (rank && minitx_hypothesis(model, rank, target, MODEL_LONGEST, &length, &score)) break;
        begin_line(a, rank, score);
        for (int i = 0; i < length; i++) printf("%s%d", i ? " " : "", (int)target[i]);
    }
    return error;
}

/* Writes the translations of a text, in memory that grows as it has to. */
static int write_text(minitx_model *model, const Arguments *a, char *text, size_t bytes) {
    static char *out;
    static size_t capacity;
    static minitx_translation found[MINITX_MAX_BEAM];
    int count;
    if (a->ids) return write_ids(model, a, text);
    for (size_t needed = (4 * bytes + 4096) * (size_t)a->best;;) {
        if (needed > capacity) {
            free(out);
            capacity = 0;
            out = (char *)malloc(needed);
            if (!out) return MINITX_NO_MEMORY;
            capacity = needed;
        }
        const int error = minitx_translate_best(model, text, bytes, &a->options, a->best, out, capacity, &needed, found,
                                                &count);
        for (int rank = 0; !error && rank < count; rank++) {
            begin_line(a, rank, found[rank].score);
            fwrite(found[rank].text, 1, found[rank].bytes, stdout);
        }
        if (error != MINITX_OUTPUT) return error;
    }
}

static int finish(int error) {
    putchar('\n');
    fflush(stdout);
    return error ? fail(NULL, minitx_message(error), 1) : 0;
}

int main(int count, char **values) {
    Arguments a = {.best = 1};
    minitx_model *model;
    const char *tried;
    if (!console_start(&count, &values)) return fail(NULL, minitx_message(MINITX_NO_MEMORY), 1);
    const int first = parse(count, values, &a);
    int status = 0;
    if (first < 0) return -first - 1;
    a.limits.beam = a.best > a.options.beam && a.best > 1 ? a.best : a.options.beam;
    int error = open_weights(&model, &a, values[0], &tried);
    if (error) return fail(tried, error == MINITX_NO_FILE ? strerror(errno) : minitx_message(error), 1);
    for (int i = first; i < count; i++) status |= finish(write_text(model, &a, values[i], strlen(values[i])));
    char *line = NULL;
    size_t room = 0;
    long long bytes = -1;
    while (first == count && (bytes = console_line(&line, &room)) >= 0)
        status |= finish(write_text(model, &a, line, (size_t)bytes));
    if (bytes < -1) status = fail(NULL, minitx_message(MINITX_NO_MEMORY), 1);
    free(line);
    minitx_close(model);
    return status || fflush(stdout) || ferror(stdout);
}
