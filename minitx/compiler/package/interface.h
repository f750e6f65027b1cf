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

#if defined(__GNUC__)
#define MINITX_API __attribute__((visibility("default")))
#else
#define MINITX_API
#endif

enum {
    MINITX_OK,
    MINITX_NO_FILE,     /* the file cannot be opened or mapped: errno says why */
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
    MINITX_LONG,        /* a sentence is longer than the limits */
    MINITX_OUTPUT,      /* the output is longer than its buffer: the size that it needs was given */
    MINITX_NAN,         /* the model gives no numbers: its weights are damaged */
    MINITX_STOPPED,     /* the callback said so */
    MINITX_ERRORS
};

/* What is wrong and what to do, in English. */
MINITX_API const char *minitx_message(int error);

typedef struct minitx_model minitx_model;

/* The longest source and target of one sentence, in tokens, and the most hypotheses of a beam. 0 stands for the
 * default: the model's longest (MODEL_LONGEST), and 4 or the model's own beam. Threads: 1 to MODEL_THREADS, 0 is 1. */
typedef struct {
    int source, target, beam, threads;
} minitx_limits;

/* Opens a weight file, which is used where it lies, by a memory map. NULL stands for the default limits. */
MINITX_API int minitx_open(minitx_model **model, const char *path, const minitx_limits *limits);

/* The same over weights in memory, at a multiple of 64, which have to stay there and as they are. */
MINITX_API int minitx_open_memory(minitx_model **model, const void *weights, size_t bytes, const minitx_limits *limits);

/* The same without taking any memory: the model lives in `workspace`, at a multiple of 64, which is free again after
 * minitx_close. Of more than one thread the system may take memory for its own. */
MINITX_API int minitx_open_in(minitx_model **model, const void *weights, size_t bytes, const minitx_limits *limits,
                              void *workspace, size_t workspace_bytes);

/* Bytes of a workspace for these weights and limits. */
MINITX_API int minitx_workspace(const void *weights, size_t bytes, const minitx_limits *limits, size_t *needed);

MINITX_API void minitx_close(minitx_model *model);

/* The instruction set that this processor runs: which of those that are compiled in. */
MINITX_API const char *minitx_set(const minitx_model *model);

/* How a sentence is searched; zeros stand for the model's own. */
typedef struct {
    int beam;    /* hypotheses that are kept at a time; 1 is greedy search */
    int maximum; /* tokens of a translation */
    int (*piece)(void *user, const char *text, size_t bytes); /* of greedy search is told each piece of a text as it is
                                                               found; anything but 0 stops */
    void *user;
} minitx_options;

/* The translation of a UTF-8 text of so many bytes, with a NUL behind it; NULL stands for the default options. Each line
 * is translated as one sentence, and line ends stay. `needed`, which may be NULL, is given the bytes of the translation
 * with the NUL, also where `out` is too small: then it holds nothing that counts. What is not UTF-8 is read as U+FFFD. */
MINITX_API int minitx_translate(minitx_model *model, const char *text, size_t bytes, const minitx_options *options,
                                char *out, size_t capacity, size_t *needed);

/* How many U+FFFD stand for what of a text is not UTF-8. */
MINITX_API size_t minitx_replaced(const char *text, size_t bytes);

/* The same on ids: from source tokens, the end included, to the best hypothesis, without the end, and its score, which
 * may be NULL. `needed` is the number of its tokens. No callback is called. */
MINITX_API int minitx_generate(minitx_model *model, const int32_t *source, int count, const minitx_options *options,
                               int32_t *target, int capacity, int *needed, double *score);

/* The source tokens of one sentence, the end included, of which no more than `capacity` are written. */
MINITX_API int minitx_encode(minitx_model *model, const char *text, size_t bytes, int32_t *ids, int capacity,
                             int *needed);

/* The text of target tokens, with a NUL behind it. */
MINITX_API int minitx_decode(const minitx_model *model, const int32_t *ids, int count, char *out, size_t capacity,
                             size_t *needed);

/* The same search while the model runs elsewhere, such as on a GPU: the caller gives what a step of the model gives. */
typedef struct {
    int rows;                /* hypotheses under way; 0: the search is done */
    int top;                 /* candidates that are wanted of each */
    int position;            /* tokens before these */
    const int32_t *tokens;   /* (rows): what each is fed; -1 is no token */
    const int32_t *before;   /* (rows): the row that each was a turn before */
    const uint16_t *allowed; /* a bit for each target token that may come; NULL: all may */
    int32_t *ids;            /* (rows,top): to be written, the likeliest next tokens, best first */
    float *scores;           /* (rows,top): and their log-probabilities */
} minitx_turn;

/* Begins with source tokens; then, as long as there are rows, gives ids and scores of a turn and is told of the next. No
 * other call may come between but minitx_decode. */
MINITX_API int minitx_begin(minitx_model *model, const int32_t *source, int count, const minitx_options *options,
                            minitx_turn *turn);
MINITX_API int minitx_advance(minitx_model *model, minitx_turn *turn);

/* What was found, when the search is done: see minitx_generate. */
MINITX_API int minitx_result(minitx_model *model, int32_t *target, int capacity, int *needed, double *score);

#ifdef __cplusplus
}
#endif

#endif
