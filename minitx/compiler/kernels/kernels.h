/* All hand-written kernels. Every one is called by all threads of a team and does its own thread's share; what one
 * writes another may read after a barrier. Nothing is allocated, and there is no state. */
#include "attend.h"
#include "embed.h"
#include "linear.h"
#include "norm.h"
#include "quantize.h"
#include "shortlist.h"
#include "top.h"
