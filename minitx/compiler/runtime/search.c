/* Greedy and beam search. A hypothesis is a chain from its last token back, since those of one sentence share prefixes:
 * links[time][sentence][place] is a token and the place, of the beam, of the token before.
 */
#include "runtime/search.h"

#include <math.h>
#include <string.h>

#include "kernels/sizes.h"

typedef struct {
    int32_t token, before;
} Link;

typedef struct {
    double score;
    int32_t length, place; /* tokens, and the place of the last one */
} Ended;

struct Search {
    Step step;
    Options options;
    const Limits *limits;
    int position, count; /* steps so far, sentences under way */
    double *totals;      /* (sentences,beam): log-probabilities of the hypotheses under way */
    Ended *ended;        /* (sentences,beam): best first */
    int32_t *ends;       /* (sentences): how many of these there are */
    int32_t *active;     /* (count): the sentences under way */
    int32_t *rows;       /* (count,beam): the row that each row was in the last step */
    uint8_t *spare;      /* (sentences,beam): room for what one buffer has of each row */
    Link *links;         /* (length,sentences,beam) */
};

static double power(double n, double alpha) { return pow(n, alpha); }
static double wu(double n, double alpha) { return pow((5.0 + n) / 6.0, alpha); }
static double (*const PENALTIES[])(double, double) = {[PENALTY_POWER] = power, [PENALTY_WU] = wu};

/* The score of a hypothesis of `length` tokens, the end included. */
static double normalise(const Search *s, double total, int length) {
    return total / PENALTIES[s->options.penalty](length, s->options.alpha);
}

static size_t widest(const Layout *layout) {
    size_t bytes = sizeof(int32_t); /* of sources and slots */
    for (const Cell *cell = layout->cells; cell->bytes; cell++)
        if (cell->bytes > bytes) bytes = cell->bytes;
    return bytes;
}

size_t search_bytes(const Layout *layout, int sentences, int beam, int length) {
    const size_t row = sizeof(double) + sizeof(Ended) + sizeof(int32_t) + widest(layout) + sizeof(Link) * (size_t)length;
    return sizeof(Search) + (size_t)sentences * (2 * sizeof(int32_t) + (size_t)beam * row);
}

static void *take(uint8_t **memory, size_t bytes) {
    *memory += bytes;
    return *memory - bytes;
}

Search *search_start(void *memory, const Step *step, const Options *options, const Limits *limits) {
    const int beam = options->beam, sentences = step->sizes[SENTENCES];
    const size_t rows = (size_t)sentences * (size_t)beam;
    uint8_t *at = memory;
    Search *s = take(&at, sizeof *s);
    *s = (Search){.step = *step, .options = *options, .limits = limits, .count = sentences};
    s->totals = take(&at, rows * sizeof *s->totals);
    s->ended = take(&at, rows * sizeof *s->ended);
    s->ends = take(&at, (size_t)sentences * sizeof *s->ends);
    s->active = take(&at, (size_t)sentences * sizeof *s->active);
    s->rows = take(&at, rows * sizeof *s->rows);
    s->spare = take(&at, rows * widest(step->layout));
    s->links = (Link *)at;
    int32_t *tokens = step->buffers[step->layout->tokens], *sources = step->buffers[step->layout->sources];
    for (int i = 0; i < sentences; i++) {
        s->ends[i] = 0;
        s->active[i] = i;
        for (int r = i * beam; r < (i + 1) * beam; r++) {
            tokens[r] = options->start;
            sources[r] = i;
            s->rows[r] = r;
            s->totals[r] = r == i * beam ? 0 : -INFINITY; /* all start alike: only one may go on */
        }
    }
    for (const Cell *cell = step->layout->cells; cell->bytes; cell++)
        memset(step->buffers[cell->buffer], 0, rows * cell->bytes);
    return s;
}

/* The links of a sentence at a time. */
static Link *links(const Search *s, int time, int sentence) {
    return s->links + ((size_t)time * (size_t)s->step.sizes[SENTENCES] + (size_t)sentence) * (size_t)s->options.beam;
}

/* A hypothesis that ended goes among the best of its sentence, behind those as good, if it is one of them. */
static void end(Search *s, int sentence, Ended hypothesis) {
    Ended *ended = s->ended + sentence * s->options.beam;
    int i = s->ends[sentence];
    if (i < s->options.beam) s->ends[sentence]++;
    else if (!(ended[--i].score < hypothesis.score)) return;
    for (; i > 0 && ended[i - 1].score < hypothesis.score; i--) ended[i] = ended[i - 1];
    ended[i] = hypothesis;
}

/* Takes the likeliest token, or the runner-up where the end is held back; whether the sentence goes on. */
static int advance_greedy(Search *s, int sentence, const int32_t *ids, const float *scores) {
    const Limits limits = s->limits[sentence];
    const int length = s->position + 1;
    const int held_back = length <= limits.minimum && s->step.sizes[TOP] > 1 && scores[1] > -INFINITY;
    const int column = held_back && ids[0] == s->options.end;
    double *total = &s->totals[sentence];
    *total += (double)scores[column];
    *links(s, s->position, sentence) = (Link){ids[column], 0};
    const int ended = ids[column] == s->options.end;
    if (!ended && length < limits.maximum) return 1;
    end(s, sentence, (Ended){normalise(s, *total, length), length - ended, 0});
    return 0;
}

/* Whether nothing under way can still get among the ended hypotheses; see `Beams.done`. */
static int done(const Search *s, int sentence) {
    const int beam = s->options.beam, maximum = s->limits[sentence].maximum;
    const double best = s->totals[sentence * beam];
    if (s->position + 1 >= maximum || best == -INFINITY) return 1;
    return s->ends[sentence] == beam && s->ended[(sentence + 1) * beam - 1].score >= normalise(s, best, maximum);
}

/* Takes the best of the candidates (beam,TOP), of equal ones the first; whether the sentence goes on. */
static int advance_beams(Search *s, int sentence, const int32_t *ids, const float *scores) {
    const int beam = s->options.beam, top = s->step.sizes[TOP], length = s->position + 1;
    const Limits limits = s->limits[sentence];
    double *totals = s->totals + sentence * beam, kept[MAX_BEAM];
    Link *chosen = links(s, s->position, sentence);
    int columns[MAX_BEAM] = {0}, count = 0; /* candidates of each row that were taken */
    while (count < beam) {
        int row = 0;
        double best = -INFINITY;
        for (int r = 0; r < beam; r++) {
            const double total = columns[r] < top ? totals[r] + (double)scores[r * top + columns[r]] : -INFINITY;
            if (total > best) {
                best = total;
                row = r;
            }
        }
        if (best == -INFINITY) break;
        const int32_t token = ids[row * top + columns[row]++];
        if (token != s->options.end) {
            chosen[count] = (Link){token, row};
            kept[count++] = best;
        } else if (length > limits.minimum) {
            end(s, sentence, (Ended){normalise(s, best, length), length - 1, row});
        }
    }
    if (length == limits.maximum) /* no room for the end: as they are */
        for (int i = 0; i < count; i++) end(s, sentence, (Ended){normalise(s, kept[i], length), length, i});
    for (int i = 0; i < beam; i++) {
        totals[i] = i < count ? kept[i] : -INFINITY;
        if (i >= count) chosen[i] = (Link){0, 0};
    }
    return !done(s, sentence);
}

/* Element i of an array becomes the old element rows[i]. */
static inline void gather(uint8_t *array, size_t bytes, const int32_t *rows, int count, uint8_t *spare) {
    for (int i = 0; i < count; i++)
        if (rows[i] != i) memcpy(spare + (size_t)i * bytes, array + (size_t)rows[i] * bytes, bytes);
    for (int i = 0; i < count; i++)
        if (rows[i] != i) memcpy(array + (size_t)i * bytes, spare + (size_t)i * bytes, bytes);
}

/* Row i becomes the old row rows[i]. Caches stay in place: `slots` points there. */
static void reorder(Search *s, int count) {
    const Layout *layout = s->step.layout;
    void *const *buffers = s->step.buffers;
    gather(buffers[layout->sources], sizeof(int32_t), s->rows, count, s->spare);
    for (const Cell *cell = layout->cells; cell->bytes; cell++)
        gather(buffers[cell->buffer], cell->bytes, s->rows, count, s->spare);
    if (layout->slots < 0) return;
    const size_t stride = (size_t)s->step.sizes[CAPACITY] * sizeof(int32_t);
    uint8_t *slots = buffers[layout->slots];
    for (int t = 0; t < s->position; t++, slots += stride) gather(slots, sizeof(int32_t), s->rows, count, s->spare);
}

/* The candidates that the next step has to give for each row. */
static int candidates(const Search *s) {
    int wanted = s->options.beam + 1; /* the end, and one for every beam */
    if (s->options.beam == 1) {       /* the runner-up only where the end may be held back */
        wanted = 1;
        for (int i = 0; i < s->count; i++)
            if (s->position < s->limits[s->active[i]].minimum) wanted = 2;
    }
    return wanted < s->step.layout->vocabulary ? wanted : s->step.layout->vocabulary;
}

int search_prepare(Search *s) {
    const Step *step = &s->step;
    if (!s->count) return SEARCH_DONE;
    step->sizes[ROWS] = s->count * s->options.beam;
    step->sizes[POSITION] = s->position;
    step->sizes[TOP] = candidates(s);
    if (step->layout->slots >= 0) {
        int32_t *slots = step->buffers[step->layout->slots];
        slots += (size_t)s->position * (size_t)step->sizes[CAPACITY];
        for (int r = 0; r < step->sizes[ROWS]; r++) slots[r] = r;
    }
    return SEARCH_GOES_ON;
}

int search_step(Search *s) {
    if (search_prepare(s) == SEARCH_DONE) return SEARCH_DONE;
    const int failed = s->step.run(s->step.model, s->step.buffers, s->step.sizes);
    return failed ? failed : search_advance(s);
}

const int32_t *search_rows(const Search *s) { return s->rows; }

int search_advance(Search *s) {
    const int beam = s->options.beam;
    const Layout *layout = s->step.layout;
    const int32_t *ids = s->step.buffers[layout->ids];
    const float *scores = s->step.buffers[layout->scores];
    int32_t *tokens = s->step.buffers[layout->tokens];
    for (int i = 0; i < s->step.sizes[ROWS] * s->step.sizes[TOP]; i++)
        if (isnan(scores[i])) return SEARCH_NAN;
    int going = 0;
    for (int i = 0; i < s->count; i++) {
        const int sentence = s->active[i], first = i * beam * s->step.sizes[TOP];
        if (!(beam == 1 ? advance_greedy : advance_beams)(s, sentence, ids + first, scores + first)) continue;
        const Link *chosen = links(s, s->position, sentence);
        for (int place = 0; place < beam; place++) {
            tokens[going * beam + place] = chosen[place].token;
            s->rows[going * beam + place] = i * beam + chosen[place].before;
        }
        s->active[going++] = sentence;
    }
    s->count = going;
    s->position++;
    reorder(s, going * beam);
    return going ? SEARCH_GOES_ON : SEARCH_DONE;
}

int search_hypothesis(const Search *s, int sentence, int rank, int32_t *tokens, double *score) {
    if (rank >= s->ends[sentence]) return -1;
    const Ended ended = s->ended[sentence * s->options.beam + rank];
    for (int time = ended.length - 1, place = ended.place; time >= 0; time--) {
        const Link link = links(s, time, sentence)[place];
        tokens[time] = link.token;
        place = link.before;
    }
    *score = ended.score;
    return ended.length;
}
