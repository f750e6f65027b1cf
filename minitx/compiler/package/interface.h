/* MODEL_TITLE: text to text in C, made by minitx MODEL_VERSION. How to use it: README.md beside this file.
 *
 * An open model is all in one block of memory, which is taken when it is opened; no call after that allocates. There is
 * no global state: models that were opened apart from each other may run in different threads at once. One model runs
 * one call at a time.
 *
 *     minitx_model *model;
 *     char text[1000];
 *     int error = minitx_open(&model, "MODEL_NAME.weights", NULL);
 *     if (!error) error = minitx_translate(model, "How are you?", 12, NULL, text, sizeof text, NULL);
 *     if (error) fprintf(stderr, "%s\n", minitx_message(error));
 *     else puts(text);
 */
#ifndef MINITX_PACKAGE_H
#define MINITX_PACKAGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32) && defined(__GNUC__)
#define MINITX_API __declspec(dllexport)
#elif defined(__GNUC__)
#define MINITX_API __attribute__((visibility("default")))
#else
#define MINITX_API
#endif

enum {
    MINITX_OK,
    MINITX_NO_FILE,     /* the file cannot be opened or mapped: errno says why; on Windows its path is UTF-8 */
    MINITX_NO_MEMORY,   /* the system gives no more */
    MINITX_NOT_WEIGHTS, /* the data is no weight file, or of another byte order, or not at a multiple of 64 */
    MINITX_VERSION,     /* the weight file is of another version of minitx's format */
    MINITX_OTHER_MODEL, /* the weight file is of another model than this code */
    MINITX_TRUNCATED,   /* the weight file is shorter, or longer, than it says */
    MINITX_DAMAGED,     /* the checksum of the weight file is wrong, or what lies in it */
    MINITX_PROCESSOR,   /* no code for this processor was compiled in */
    MINITX_LIMITS,      /* limits out of range */
    MINITX_WORKSPACE,   /* the workspace is too small, or not at a multiple of 64 */
    MINITX_OPTIONS,     /* options out of range, or a beam above the limits */
    MINITX_TOKEN,       /* a token that is not in the vocabulary */
    MINITX_LONG,        /* a sentence or a translation is longer than the limits */
    MINITX_OUTPUT,      /* the output is longer than its buffer: the size that it needs was given */
    MINITX_NAN,         /* the model gives no numbers: its weights are damaged */
    MINITX_STOPPED,     /* the callback said so */
    MINITX_NONE,        /* a hypothesis that there is not: there are fewer */
    MINITX_BEGIN,       /* a step of a search that was not begun, or after something else was translated */
    MINITX_NOT_LINKED,  /* no weights are linked in: the package was exported without --embed */
    MINITX_ERRORS
};

/* What is wrong and what to do, in English. */
MINITX_API const char *minitx_message(int error);

typedef struct minitx_model minitx_model;

enum { MINITX_MAX_BEAM = 64 }; /* of any limits */

/* The longest source and target of one sentence, in tokens, and the most hypotheses of a beam. 0 stands for the
 * default: the model's longest (MODEL_LONGEST), and 4 or the model's own beam. Threads: 1 to MODEL_THREADS, 0 is 1. */
typedef struct {
    int source, target, beam, threads;
} minitx_limits;

/* The weight file that is linked in, where it was exported with --embed, and its bytes; else NULL and 0. It is at a
 * multiple of 64, as minitx_workspace and minitx_open_in want it. */
MINITX_API const void *minitx_embedded(size_t *bytes);

#define MINITX_FREESTANDING MODEL_FREESTANDING /* 1: exported for machines without a system, where nothing allocates */
#if !MINITX_FREESTANDING

/* Opens a weight file, which is used where it lies, by a memory map. NULL stands for the default limits. */
MINITX_API int minitx_open(minitx_model **model, const char *path, const minitx_limits *limits);

/* The same over weights in memory, at a multiple of 64, which have to stay there and as they are. */
MINITX_API int minitx_open_memory(minitx_model **model, const void *weights, size_t bytes, const minitx_limits *limits);

/* The same over the weights that are linked in, of which no copy is made; or MINITX_NOT_LINKED. */
MINITX_API int minitx_open_embedded(minitx_model **model, const minitx_limits *limits);

#endif

/* Opens weights in memory without taking any: the model lives in `workspace`, at a multiple of 64, which is free again after
 * minitx_close. Of more than one thread the system may take memory for its own. */
MINITX_API int minitx_open_in(minitx_model **model, const void *weights, size_t bytes, const minitx_limits *limits,
                              void *workspace, size_t workspace_bytes);

/* Bytes of a workspace for these weights and limits. */
MINITX_API int minitx_workspace(const void *weights, size_t bytes, const minitx_limits *limits, size_t *needed);

MINITX_API void minitx_close(minitx_model *model);

/* The instruction set that this processor runs: which of those that are compiled in. */
MINITX_API const char *minitx_set(const minitx_model *model);

/* What a model is and was opened with. */
typedef struct {
    minitx_limits limits;                      /* with the defaults in place */
    int source_vocabulary, target_vocabulary;  /* tokens */
    int32_t start, end; /* the tokens that a translation begins with, -1 for none, and that ends it and a source */
    int beam;           /* the model's own */
} minitx_facts;
MINITX_API void minitx_about(const minitx_model *model, minitx_facts *facts);

/* How a sentence is searched; zeros stand for the model's own. */
typedef struct {
    int beam;    /* hypotheses that are kept at a time; 1 is greedy search */
    int maximum; /* tokens of a translation */
    int (*piece)(void *user, const char *text, size_t bytes); /* of greedy search is told each piece of a text as it is
                                                               found; anything but 0 stops */
    void *user;
    int minimum;  /* tokens of a translation before which it does not end */
    int no_split; /* each line is translated as one sentence, and one that is longer than the limits is an error */
} minitx_options;

/* The translation of a UTF-8 text of so many bytes, with a NUL behind it; NULL stands for the default options. The text
 * is translated sentence by sentence, and white space between them stays; a sentence that is longer than the limits is
 * cut, best after a clause. `needed`, which may be NULL, is given the bytes of the translation with the NUL, also where
 * `out` is too small: then it holds nothing that counts. What is not UTF-8 is read as U+FFFD. */
MINITX_API int minitx_translate(minitx_model *model, const char *text, size_t bytes, const minitx_options *options,
                                char *out, size_t capacity, size_t *needed);

/* A translation, with a NUL behind it, and its score: the sum over its sentences of the log-probability over the length
 * penalty. */
typedef struct {
    const char *text;
    size_t bytes;
    double score;
} minitx_translation;

/* The `best` best translations, best first, one behind another in `out`. `translations` has room for so many; there may
 * be fewer, and `found` is given how many. The n-th is made of the n-th hypotheses of the sentences. A beam below `best`
 * becomes `best`. No callback is called. */
MINITX_API int minitx_translate_best(minitx_model *model, const char *text, size_t bytes, const minitx_options *options,
                                     int best, char *out, size_t capacity, size_t *needed,
                                     minitx_translation *translations, int *found);

/* How many U+FFFD stand for what of a text is not UTF-8. */
MINITX_API size_t minitx_replaced(const char *text, size_t bytes);

/* The same on ids: from source tokens, the end included, to the best hypothesis, without the end, and its score, which
 * may be NULL. `needed` is the number of its tokens. No callback is called. */
MINITX_API int minitx_generate(minitx_model *model, const int32_t *source, int count, const minitx_options *options,
                               int32_t *target, int capacity, int *needed, double *score);

/* The same of a hypothesis of the last minitx_generate, from 0 for the best: there are no more than the beam, and none
 * after another call that searches or steps. */
MINITX_API int minitx_hypothesis(minitx_model *model, int rank, int32_t *target, int capacity, int *needed,
                                 double *score);

/* For a search of one's own, step by step. minitx_begin reads the source tokens, the end included and at least one, and
 * there is one row, a hypothesis without tokens. minitx_step feeds each row its next token, at first `start` of
 * minitx_facts, and gives the `top` likeliest tokens behind it, best first, and their log-probabilities: top for the
 * first row, then for the second, and so on; `top` is 80 at most, and no more than the vocabulary. minitx_reorder makes
 * row i the old row rows[i], of which there may be more than before, up to the beam of the limits, or fewer. A row has no
 * more steps than the target of the limits. */
MINITX_API int minitx_begin(minitx_model *model, const int32_t *source, int count);
MINITX_API int minitx_step(minitx_model *model, const int32_t *tokens, int top, int32_t *ids, float *scores);
MINITX_API int minitx_reorder(minitx_model *model, const int32_t *rows, int count);

/* The source tokens of one sentence, the end included, of which no more than `capacity` are written. */
MINITX_API int minitx_encode(minitx_model *model, const char *text, size_t bytes, int32_t *ids, int capacity,
                             int *needed);

/* The text of target tokens, with a NUL behind it. */
MINITX_API int minitx_decode(const minitx_model *model, const int32_t *ids, int count, char *out, size_t capacity,
                             size_t *needed);

#ifdef __cplusplus
}
#endif

#endif
