/* Translates each line of what the program was started with, and tells what memory it took.
 *
 * The first line may be options: --beam N, and --ids, for lines of source tokens, the end included.
 */
#include "MODEL_NAME.h"
#include "machine.h"

enum { LINE = 4096, MOST = MODEL_LONGEST };

static _Alignas(64) unsigned char workspace[WORKSPACE] __attribute__((section(".workspace")));
static char arguments[LINE], text[LINE];
static int32_t source[MOST], target[MOST];

static void write_number(long number) {
    char digits[24], *at = digits + sizeof digits - 1;
    *at = '\0';
    unsigned long left = number < 0 ? 0ul - (unsigned long)number : (unsigned long)number;
    do *--at = (char)('0' + left % 10);
    while (left /= 10);
    if (number < 0) *--at = '-';
    machine_write(at);
}

static long read_number(const char **at) {
    long number = 0;
    while (**at == ' ') ++*at;
    for (; **at >= '0' && **at <= '9' && number < 1000000000 / 10; ++*at) number = 10 * number + (**at - '0');
    return number;
}

/* Steps over a word, if the text begins with it. */
static int skip(const char **at, const char *word) {
    const char *a = *at;
    while (*a == ' ') a++;
    for (; *word; word++)
        if (*a++ != *word) return 0;
    *at = a;
    return 1;
}

static int write_ids(minitx_model *model, const char *line, const char *end, const minitx_options *options) {
    int count = 0, length = 0;
    for (; line < end && count < MOST; source[count++] = (int32_t)read_number(&line))
        if (*line != ' ' && (*line < '0' || *line > '9')) return MINITX_TOKEN;
    const int error = minitx_generate(model, source, count, options, target, MOST, &length, NULL);
    for (int i = 0; !error && i < length; i++) {
        if (i) machine_write(" ");
        write_number(target[i]);
    }
    return error;
}

static int write_line(minitx_model *model, const char *line, const char *end, const minitx_options *options) {
    const int error = minitx_translate(model, line, (size_t)(end - line), options, text, sizeof text, NULL);
    if (!error) machine_write(text);
    return error;
}

static int translate(minitx_model *model, const char *at) {
    minitx_options options = {0, 0, NULL, NULL};
    int ids = 0, given = 0;
    for (;; given = 1) {
        if (skip(&at, "--beam")) options.beam = (int)read_number(&at);
        else if (skip(&at, "--ids")) ids = 1;
        else break;
    }
    if (given && *at == '\n') at++;
    for (;;) {
        const char *end = at;
        while (*end && *end != '\n') end++;
        const int error = (ids ? write_ids : write_line)(model, at, end, &options);
        machine_write("\n");
        if (error) return error;
        if (!*end) return MINITX_OK;
        at = end + 1;
    }
}

int main(void) {
    const minitx_limits limits = {LONGEST_SOURCE, LONGEST_TARGET, BEAM, 1};
    size_t bytes, needed = 0;
    const void *weights = minitx_embedded(&bytes);
    minitx_model *model = NULL;
    int error = minitx_workspace(weights, bytes, &limits, &needed);
    if (!error) error = minitx_open_in(&model, weights, bytes, &limits, workspace, sizeof workspace);
    if (!error && !machine_arguments(arguments, sizeof arguments)) error = MINITX_LONG;
    if (!error) error = translate(model, arguments);
    if (error) machine_write(minitx_message(error));
    machine_write(error ? "\nworkspace " : "workspace ");
    write_number((long)needed);
    machine_write(", stack ");
    write_number((long)machine_stack());
    machine_write("\n");
    return error;
}
