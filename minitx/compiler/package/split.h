/* A text into its sentences, and a sentence that is too long into parts: minitx/text/split.py in C.
 *
 * Places are offsets of bytes. What is not UTF-8 counts as minitx reads it, as U+FFFD. Nothing is allocated, and no text
 * is gone through more than some times, however it is made.
 */
#ifndef MINITX_SPLIT_H
#define MINITX_SPLIT_H

#include <stddef.h>
#include <stdint.h>

/* A text, and how far its sentences were given. */
typedef struct {
    const uint8_t *text;
    size_t bytes;
    size_t start;             /* of the sentence under way */
    size_t token, end, after; /* the characters without white space that it has come to, and the white space behind */
    size_t at;                /* from where in them stops are looked for that need no white space */
    int begun, line_end;      /* line_end: whether that white space has one */
} Sentences;

/* What is translated at a time, from `start` to `end`, and white space behind it, to `after`. */
typedef struct {
    size_t start, end, after;
} Part;

/* The next sentence; 0 behind the last. The first may be white space alone. */
int split_sentence(Sentences *sentences, Part *sentence);

/* Whether the model can take so much of a text. */
typedef int Fits(void *asked, size_t start, size_t end);

/* The part that a sentence begins with, which fits, or is one character. `guess` is a number of characters that may fit,
 * at first SPLIT_GUESS; it is given a better one for the next part, which begins where this one's white space ends. */
Part split_part(const uint8_t *text, size_t start, size_t end, size_t *guess, Fits *fits, void *asked);
extern const size_t SPLIT_GUESS;

#endif
