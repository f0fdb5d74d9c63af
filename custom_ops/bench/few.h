// Times the kernels for a few queries, as decoding uses them.
#ifndef QFA_BENCH_FEW_H_
#define QFA_BENCH_FEW_H_

#include "qfa/qfa.h"

namespace qfa::bench {

// Prints a table for each instruction set of this processor, or for `only`, if it is not null.
void print_few(const char* only);

}  // namespace qfa::bench

#endif  // QFA_BENCH_FEW_H_
