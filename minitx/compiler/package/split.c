/* Sentences and their parts: minitx/text/split.py in C. Characters and words are as characters.h has them. */
#include "split.h"

#include <string.h>

#include "characters.h"
#include "tables.h"

enum { REPLACEMENT_CHARACTER = 0xFFFD };
#define COUNT(array) (sizeof(array) / sizeof *(array))
const size_t SPLIT_GUESS = GUESS;

/* ---- characters ---- */

typedef struct {
    uint32_t code, classes;
    size_t size; /* bytes; 0 behind the end of a text */
} Character;

static uint32_t classes_of(uint32_t code) {
    size_t low = 0, high = COUNT(CHANGES);
    while (high - low > 1) {
        const size_t middle = (low + high) / 2;
        if (CHANGES[middle] >> 8 <= code) low = middle;
        else high = middle;
    }
    return SETS[CHANGES[low] & 0xFF];
}

/* The character at a place. */
static Character character(const uint8_t *text, size_t at, size_t end) {
    Character c = {REPLACEMENT_CHARACTER, 0, 0};
    if (at >= end) return c;
    const int size = tokenizer_character(text + at, end - at);
    c.size = (size_t)(size < 0 ? -size : size);
    if (size == 1) c.code = text[at];
    else if (size > 1) c.code = text[at] & (0xFFu >> (size + 1));
    for (int i = 1; i < size; i++) c.code = c.code << 6 | (text[at + (size_t)i] & 0x3F);
    c.classes = classes_of(c.code);
    return c;
}

/* The character that ends at a place behind `start`. Bytes that are none are one each where they begin none either. */
static Character before(const uint8_t *text, size_t start, size_t at) {
    for (size_t size = 1; size <= 4 && size <= at - start; size++) {
        if ((text[at - size] & 0xC0) == 0x80) continue;
        const Character c = character(text, at - size, at);
        if (c.size == size) return c;
        break;
    }
    return character(text, at - 1, at);
}

/* The place behind the characters of these classes that are there. */
static size_t pass(const uint8_t *text, size_t at, size_t end, uint32_t classes) {
    for (Character c; at < end && (c = character(text, at, end)).classes & classes;) at += c.size;
    return at;
}

/* The same backwards. */
static size_t pass_back(const uint8_t *text, size_t start, size_t at, uint32_t classes) {
    for (Character c; at > start && (c = before(text, start, at)).classes & classes;) at -= c.size;
    return at;
}

/* The place `count` characters on, or where there are fewer the end, and how many they are. */
static size_t forward(const uint8_t *text, size_t at, size_t end, size_t *count) {
    size_t passed = 0;
    for (; passed < *count && at < end; passed++) at += character(text, at, end).size;
    *count = passed;
    return at;
}

/* ---- words ---- */

/* The kinds of a word, in any case. */
static uint32_t kinds_of(const uint8_t *text, size_t at, size_t end) {
    uint8_t lower[WORD_BYTES];
    size_t size = 0;
    for (Character c; at < end; at += c.size) {
        c = character(text, at, end);
        uint32_t code = c.code;
        for (size_t i = 0; i < COUNT(CAPITALS); i++)
            if (CAPITALS[i].code == code) code = CAPITALS[i].lower;
        const size_t bytes = code < 0x80 ? 1 : 2;
        if (code >= 0x800 || size + bytes > sizeof lower) return 0;
        lower[size] = (uint8_t)(bytes == 1 ? code : 0xC0 | code >> 6);
        if (bytes == 2) lower[size + 1] = (uint8_t)(0x80 | (code & 0x3F));
        size += bytes;
    }
    for (size_t i = 0; i < COUNT(WORDS); i++)
        if (WORDS[i].size == size && !memcmp(WORDS[i].text, lower, size)) return WORDS[i].kinds;
    return 0;
}

/* Whether a word is groups of up to `most` characters of these classes, with a full stop between them. */
static int groups(const uint8_t *text, size_t at, size_t end, uint32_t classes, size_t most) {
    for (;;) {
        size_t count = 0;
        for (Character c; (c = character(text, at, end)).classes & classes; at += c.size) count++;
        if (count < 1 || count > most) return 0;
        if (at == end) return 1;
        if (text[at++] != '.') return 0;
    }
}

/* Whether a word is a number of an item in a list. */
static int is_number(const uint8_t *text, size_t at, size_t end) {
    size_t count = 4;
    const int letter = groups(text, at, end, LETTER, 1) && character(text, at, end).size == end - at;
    const int roman = at < end && pass(text, at, end, ROMAN) == end && forward(text, at, end, &count) == end;
    return letter || roman || groups(text, at, end, DECIMAL, 3);
}

/* Whether a sentence ends with a word, its first or not, before white space and the characters from `next` on. */
static int ends(const Sentences *s, size_t word, int first, size_t next) {
    const uint8_t *text = s->text;
    const size_t end = pass_back(text, word, s->end, CLOSER), stop = pass_back(text, word, end, STOP);
    const size_t body = pass(text, word, stop, OPENER);
    next = pass(text, next, s->bytes, OPENER);
    const uint32_t following = character(text, next, s->bytes).classes;
    if (end > word && before(text, word, end).classes & WIDE_STOP) return 1;
    if (stop == end || following & (LOWER | CONTINUER)) return 0;
    if (end - stop != 1 || text[stop] != '.') return 1;
    const uint32_t kinds = kinds_of(text, body, stop);
    if (kinds & ABBREVIATION || (first && is_number(text, body, stop))) return 0;
    if (kinds & BEFORE_NUMBER) return !(following & DIGIT);
    if (!(kinds & EITHER) && !groups(text, body, stop, LETTER, 1)) return 1;
    const size_t start = next;
    for (Character c; (c = character(text, next, s->bytes)).size && !(c.classes & (SPACE | WORD_END));) next += c.size;
    return (kinds_of(text, start, next) & STARTER) != 0;
}

/* ---- sentences ---- */

/* Comes to the characters at a place. */
static void enter(Sentences *s, size_t at) {
    Character c;
    s->token = s->at = at;
    while ((c = character(s->text, at, s->bytes)).size && !(c.classes & SPACE)) at += c.size;
    s->end = at;
    for (s->line_end = 0; (c = character(s->text, at, s->bytes)).classes & SPACE; at += c.size)
        s->line_end |= (c.classes & LINE_END) != 0;
    s->after = at;
}

/* The end of a sentence at a stop that needs no white space; 0 if no more is among the characters come to. */
static size_t wide_stop(Sentences *s) {
    while (s->at < s->end) {
        const Character c = character(s->text, s->at, s->end);
        const int point = c.classes & POINT && character(s->text, s->at + c.size, s->end).classes & DECIMAL;
        if (!(c.classes & WIDE_STOP) || point) {
            s->at += c.size;
            continue;
        }
        const size_t stop = pass(s->text, s->at, s->end, WIDE_STOP), end = pass(s->text, stop, s->end, CLOSER);
        const int quoted = end > stop; /* then what comes next may say whose words they were */
        s->at = end;
        if (end < s->end && (!quoted || character(s->text, end, s->end).classes & OPENER)) return end;
    }
    return 0;
}

int split_sentence(Sentences *s, Part *sentence) {
    if (!s->begun) {
        s->begun = 1;
        s->start = pass(s->text, 0, s->bytes, SPACE);
        enter(s, s->start);
        *sentence = (Part){0, 0, s->start};
        if (s->start) return 1;
    }
    while (s->token < s->bytes) {
        const size_t stop = wide_stop(s);
        *sentence = (Part){s->start, stop, stop};
        if (!stop) {
            const size_t word = s->start > s->token ? s->start : s->token;
            const int ended = s->after == s->bytes || s->line_end || ends(s, word, s->token <= s->start, s->after);
            *sentence = (Part){s->start, s->end, s->after};
            enter(s, s->after);
            if (!ended) continue;
        }
        s->start = sentence->after;
        return 1;
    }
    return 0;
}

/* ---- parts ---- */

/* The place behind as many characters as fit, at least one, and how many: doubled from a guess on, then halved between. */
static size_t longest(const uint8_t *text, size_t start, size_t end, size_t *guess, Fits *fits, void *asked) {
    size_t fitting = 0, failing = *guess;
    size_t stop = forward(text, start, end, &failing);
    while (fits(asked, start, stop)) {
        *guess = fitting = failing;
        if (stop == end) return end;
        failing *= 2;
        stop = forward(text, start, end, &failing);
    }
    while (failing - fitting > 1) {
        size_t middle = (fitting + failing) / 2;
        stop = forward(text, start, end, &middle);
        if (fits(asked, start, stop)) fitting = middle;
        else failing = middle;
    }
    *guess = fitting ? fitting : 1;
    return forward(text, start, end, guess);
}

static int joined(Character left, Character right) { return left.classes & JOINER || right.classes & JOINS; }

/* The best place to cut behind at most `count` characters, which become those before it. There is more behind them. */
static size_t cut(const uint8_t *text, size_t start, size_t end, size_t *count) {
    size_t place = *count;
    for (size_t row = 0; row < COUNT(CUTS); row++) {
        const size_t least = (size_t)(CUTS[row].share * (double)*count);
        size_t at = start, found = 0;
        Character c = character(text, at, end);
        for (size_t i = 1; i <= *count; i++) {
            at += c.size;
            const Character next = character(text, at, end);
            if (i >= least && c.classes & (next.classes & SPACE ? CUTS[row].spaced : CUTS[row].always)) {
                found = at;
                place = i;
            }
            c = next;
        }
        *count = place;
        if (found) return found;
    }
    size_t at = forward(text, start, end, count), uncut = at;
    Character left = before(text, start, at), right = character(text, at, end);
    for (place = *count; joined(left, right); left = before(text, start, at)) {
        if (place == 1) return uncut;
        place--;
        at -= left.size;
        right = left;
    }
    *count = place;
    return at;
}

Part split_part(const uint8_t *text, size_t start, size_t end, size_t *guess, Fits *fits, void *asked) {
    size_t stop = longest(text, start, end, guess, fits, asked), count = *guess;
    if (stop < end) {
        stop = cut(text, start, end, &count);
        while (count > 1 && !fits(asked, start, stop)) {
            count /= 2;
            stop = cut(text, start, end, &count);
        }
    }
    stop = pass_back(text, start, stop, SPACE);
    return (Part){start, stop, pass(text, stop, end, SPACE)};
}
