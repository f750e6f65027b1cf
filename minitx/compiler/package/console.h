/* What the command needs of an operating system: its arguments and its own place in UTF-8, and plain streams. */
#ifndef MINITX_CONSOLE_H
#define MINITX_CONSOLE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <fcntl.h>
#include <io.h>
#include <windows.h>

#include <shellapi.h>

#define FOLDER_ENDS "/\\"

/* UTF-8, in memory that stays; NULL where there is none. */
static char *narrow(const wchar_t *wide) {
    const int bytes = WideCharToMultiByte(CP_UTF8, 0, wide, -1, NULL, 0, NULL, NULL);
    char *text = bytes > 0 ? (char *)malloc((size_t)bytes) : NULL;
    if (text) WideCharToMultiByte(CP_UTF8, 0, wide, -1, text, bytes, NULL, NULL);
    return text;
}

/* Text passes as it is; the arguments become UTF-8. 0 where there is no memory for that. */
static int console_start(int *count, char ***values) {
    wchar_t **wide = CommandLineToArgvW(GetCommandLineW(), count);
    _setmode(_fileno(stdin), _O_BINARY);
    _setmode(_fileno(stdout), _O_BINARY);
    SetConsoleOutputCP(CP_UTF8);
    SetConsoleCP(CP_UTF8);
    *values = wide ? (char **)calloc((size_t)*count + 1, sizeof **values) : NULL;
    for (int i = 0; *values && i < *count; i++)
        if (!((*values)[i] = narrow(wide[i]))) return 0;
    LocalFree(wide);
    return *values != NULL;
}

/* The path of this program, "" where it does not fit; `name` is what it was called by. */
static void console_program(char *path, size_t room, const char *name) {
    wchar_t wide[MAX_PATH];
    const DWORD length = GetModuleFileNameW(NULL, wide, MAX_PATH);
    (void)name;
    const int fits = length > 0 && length < MAX_PATH;
    if (!fits || !WideCharToMultiByte(CP_UTF8, 0, wide, -1, path, (int)room, NULL, NULL)) *path = '\0';
}

#else
#ifdef __APPLE__
#include <stdint.h>
int _NSGetExecutablePath(char *path, uint32_t *room); /* of mach-o/dyld.h, which wants more than POSIX */
#else
#include <unistd.h>
#endif

#define FOLDER_ENDS "/"

static int console_start(int *count, char ***values) {
    (void)count, (void)values;
    return 1;
}

static void console_program(char *path, size_t room, const char *name) {
#ifdef __APPLE__
    uint32_t size = (uint32_t)room;
    if (!_NSGetExecutablePath(path, &size)) return;
#else
    const ssize_t own = readlink("/proc/self/exe", path, room - 1);
    if (own > 0) {
        path[own] = '\0';
        return;
    }
#endif
    snprintf(path, room, "%s", name);
}
#endif

/* What a file beside a program of this path is called, in the place of the path. */
static void console_beside(char *path, const char *file) {
    char *name = path;
    for (char *at = path; *at; at++)
        if (strchr(FOLDER_ENDS, *at)) name = at + 1;
    strcpy(name, file);
}

/* Reads a line into memory that grows as it has to, without its end and with a NUL behind it. Its bytes; -1 where there
 * is no more of them, -2 where there is no memory. */
static long long console_line(char **line, size_t *room) {
    size_t bytes = 0;
    for (int byte;; (*line)[bytes++] = (char)byte) {
        if (bytes == *room) {
            char *larger = (char *)realloc(*line, 2 * bytes + 256);
            if (!larger) return -2;
            *line = larger;
            *room = 2 * bytes + 256;
        }
        byte = getc(stdin);
        if (byte == EOF && !bytes) return -1;
        if (byte == EOF || byte == '\n') break;
    }
    if (bytes && (*line)[bytes - 1] == '\r') bytes--;
    (*line)[bytes] = '\0';
    return (long long)bytes;
}

#endif
