/* What the library needs of <math.h>, for machines without a C library. */
#ifndef MINITX_BARE_MATH_H
#define MINITX_BARE_MATH_H

#define INFINITY __builtin_inff()
#define isnan(x) __builtin_isnan(x)
#define pow minitx_bare_power

/* x to the power a, of 1 <= x < 2^31 and 0 <= a <= 10: see power.c. */
double minitx_bare_power(double x, double a);

/* The square root of a float, where the processor has no instruction for it. */
float minitx_bare_root(float x);

#endif
