// A whole run with given kernels: the entry point below the choice of an instruction set.
#ifndef QFA_ATTENTION_RUN_H_
#define QFA_ATTENTION_RUN_H_

#include "kernels/kernels.h"
#include "qfa/qfa.h"

namespace qfa {

qfa_status run_attention(const qfa_attention* request, const Kernels& kernels,
                         const qfa_executor* executor, const qfa_allocator* allocator);

}  // namespace qfa

#endif  // QFA_ATTENTION_RUN_H_
