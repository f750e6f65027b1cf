/* Asks the extension from several connections in as many threads at once: threads EXTENSION DATABASE THREADS TIMES SQL.
 * Prints what the first thread was answered, a line for each row; exit status 1 where another had another answer. */
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 16, ROOM = 1 << 20 };

static char **arguments;
static int times;

/* Adds a row to the answer, whose size is before it. */
static int take(void *answer, int count, char **values, char **names) {
    (void)names;
    char *text = (char *)answer;
    size_t used = strlen(text);
    for (int i = 0; i < count; i++)
        used += (size_t)snprintf(text + used, ROOM - used, "%s%s", values[i] ? values[i] : "NULL", i + 1 < count ? "|" : "\n");
    return used >= ROOM - 1;
}

/* A connection with the extension; NULL where it cannot be had, which is told. */
static sqlite3 *connection(void) {
    sqlite3 *database = NULL;
    char *message = NULL;
    if (!sqlite3_open_v2(arguments[2], &database, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL)
        && !sqlite3_db_config(database, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL)
        && !sqlite3_load_extension(database, arguments[1], NULL, &message))
        return database;
    fprintf(stderr, "error: %s\n", message ? message : sqlite3_errmsg(database));
    sqlite3_free(message);
    sqlite3_close(database);
    return NULL;
}

/* A connection's answer to the statement, the last time that it asked. */
static void *ask(void *own) {
    sqlite3 *database = (sqlite3 *)own;
    char *answer = (char *)calloc(ROOM, 1), *message = NULL;
    for (int i = 0; answer && i < times; i++) {
        answer[0] = '\0';
        if (!sqlite3_exec(database, arguments[5], take, answer, &message)) continue;
        snprintf(answer, ROOM, "error: %s\n", message);
        sqlite3_free(message);
        break;
    }
    sqlite3_close(database);
    return answer;
}

int main(int count, char **values) {
    pthread_t threads[MOST];
    sqlite3 *connections[MOST];
    char *answers[MOST] = {NULL};
    const int size = count == 6 ? atoi(values[3]) : 0;
    int status = 0;
    if (size < 1 || size > MOST) return 2;
    arguments = values;
    times = atoi(values[4]);
    for (int i = 0; i < size; i++) /* one after the other: each notes again, for all, where SQLite's functions are */
        if (!(connections[i] = connection())) return 2;
    for (int i = 0; i < size; i++)
        if (pthread_create(&threads[i], NULL, ask, connections[i])) return 2;
    for (int i = 0; i < size; i++) pthread_join(threads[i], (void **)&answers[i]);
    for (int i = 0; i < size; i++)
        if (!answers[i] || strcmp(answers[i], answers[0]) || !strncmp(answers[i], "error: ", 7)) status = 1;
    for (int i = 0; i < size; i++) {
        if (answers[i] && (!i || status)) fputs(answers[i], stdout);
        free(answers[i]);
    }
    return status;
}
