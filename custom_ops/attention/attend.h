// Flash attention of one block of queries over all keys that it can see.
#ifndef QFA_ATTENTION_ATTEND_H_
#define QFA_ATTENTION_ATTEND_H_

#include "attention/plan.h"
#include "kernels/kernels.h"

namespace qfa {

void attend(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t query_block,
            const HeadCodes& codes, const WorkerScratch& scratch);

}  // namespace qfa

#endif  // QFA_ATTENTION_ATTEND_H_
