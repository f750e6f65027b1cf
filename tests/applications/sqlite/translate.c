/* A SQLite extension: SELECT translate('en-pt', text) FROM notes.
 *
 * Its models are packages that minitx exported with --embed; models.h, which the Makefile writes, has a line of MODEL for
 * each. A connection opens a model when it is first asked for, and closes it when it ends itself. Every connection has
 * models of its own, and SQLite runs one call at a time of one connection, so nothing here needs a lock. The weights are
 * the extension's file, of which the system keeps one copy for all.
 */
#include <sqlite3ext.h>
#include <stdint.h>
#include <string.h>

SQLITE_EXTENSION_INIT1

/* Each package has types of its own; these functions hide them. */
#define MODEL(NAME, PREFIX)                                                                                           \
    static int sql_begin_##PREFIX(void **opened) {                                                                    \
        PREFIX##_model *model;                                                                                        \
        const int error = PREFIX##_open_embedded(&model, NULL);                                                       \
        *opened = model;                                                                                              \
        return error;                                                                                                 \
    }                                                                                                                 \
    static int sql_text_##PREFIX(void *model, const char *text, size_t bytes, char *out, size_t room,                 \
                                 size_t *needed) {                                                                    \
        return PREFIX##_translate((PREFIX##_model *)model, text, bytes, NULL, out, room, needed);                     \
    }                                                                                                                 \
    static void sql_end_##PREFIX(void *model) { PREFIX##_close((PREFIX##_model *)model); }
#include "models.h"
#undef MODEL

typedef struct {
    const char *name;
    int (*begin)(void **model);
    int (*text)(void *model, const char *text, size_t bytes, char *out, size_t room, size_t *needed);
    void (*end)(void *model);
    const char *(*message)(int error);
} Package;

#define MODEL(NAME, PREFIX) {NAME, sql_begin_##PREFIX, sql_text_##PREFIX, sql_end_##PREFIX, PREFIX##_message},
static const Package packages[] = {
#define ROWS
#include "models.h"
};
#undef MODEL
enum { COUNT = sizeof packages / sizeof *packages };

/* What a connection has: its models, NULL until they are asked for. */
typedef struct {
    void *models[COUNT];
} Connection;

static void disconnect(void *connection) {
    Connection *own = (Connection *)connection;
    for (int i = 0; i < COUNT; i++)
        if (own->models[i]) packages[i].end(own->models[i]);
    sqlite3_free(own);
}

static void fail(sqlite3_context *context, const char *name, const char *why) {
    char *message = sqlite3_mprintf("translate: %s: %s", name, why);
    if (message) sqlite3_result_error(context, message, -1);
    else sqlite3_result_error_nomem(context);
    sqlite3_free(message);
}

static void fail_unknown(sqlite3_context *context, const char *name) {
    sqlite3_str *why = sqlite3_str_new(NULL);
    sqlite3_str_appendall(why, "there is no such model; there are");
    for (int i = 0; i < COUNT; i++) sqlite3_str_appendf(why, "%s %s", i ? "," : "", packages[i].name);
    char *text = sqlite3_str_finish(why);
    if (text) fail(context, name, text);
    else sqlite3_result_error_nomem(context);
    sqlite3_free(text);
}

/* The number of the package of that name, whose model is open then; -1 after an error, which the context was given. */
static int opened(sqlite3_context *context, Connection *own, const char *name) {
    int i = 0;
    while (i < COUNT && strcmp(packages[i].name, name)) i++;
    if (i == COUNT) {
        fail_unknown(context, name);
        return -1;
    }
    if (own->models[i]) return i;
    const int error = packages[i].begin(&own->models[i]);
    if (!error) return i;
    own->models[i] = NULL;
    fail(context, name, packages[i].message(error));
    return -1;
}

/* translate(model, text): NULL where one of them is. */
static void translate(sqlite3_context *context, int count, sqlite3_value **values) {
    (void)count;
    Connection *own = (Connection *)sqlite3_user_data(context);
    if (sqlite3_value_type(values[0]) == SQLITE_NULL || sqlite3_value_type(values[1]) == SQLITE_NULL) return;
    const char *name = (const char *)sqlite3_value_text(values[0]), *text = (const char *)sqlite3_value_text(values[1]);
    const size_t bytes = (size_t)sqlite3_value_bytes(values[1]);
    if (!name || !text) {
        sqlite3_result_error_nomem(context);
        return;
    }
    const int i = opened(context, own, name);
    if (i < 0) return;
    for (size_t room = 2 * bytes + 64, needed = 0;; room = needed) {
        char *out = (char *)sqlite3_malloc64(room);
        if (!out) {
            sqlite3_result_error_nomem(context);
            return;
        }
        const int error = packages[i].text(own->models[i], text, bytes, out, room, &needed);
        if (!error) {
            sqlite3_result_text64(context, out, needed - 1, sqlite3_free, SQLITE_UTF8);
            return;
        }
        sqlite3_free(out);
        if (needed > room) continue; /* the output was longer than its buffer: this is what it needs */
        fail(context, name, packages[i].message(error));
        return;
    }
}

__attribute__((visibility("default"))) int sqlite3_translate_init(sqlite3 *database, char **message,
                                                                  const sqlite3_api_routines *api) {
    SQLITE_EXTENSION_INIT2(api);
    (void)message;
    Connection *own = (Connection *)sqlite3_malloc64(sizeof *own);
    if (!own) return SQLITE_NOMEM;
    memset(own, 0, sizeof *own);
    /* SQLite calls `disconnect` also where this fails */
    return sqlite3_create_function_v2(database, "translate", 2, SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS,
                                      own, translate, NULL, NULL, disconnect);
}
