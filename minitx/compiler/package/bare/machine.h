/* What the example needs of a machine. */
#ifndef MACHINE_H
#define MACHINE_H

#include <stddef.h>

void machine_write(const char *text);

/* What the program was started with, with a NUL behind it; 0 where it is longer. */
int machine_arguments(char *text, size_t capacity);

/* The most bytes of the stack that were used so far. */
size_t machine_stack(void);

#endif
