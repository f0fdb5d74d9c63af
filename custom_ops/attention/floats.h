// Attention in float32: nothing is quantized. The counterparts of encode_key_block and attend.
#ifndef QFA_ATTENTION_FLOATS_H_
#define QFA_ATTENTION_FLOATS_H_

#include "attention/plan.h"
#include "kernels/kernels.h"

namespace qfa {

// Widens 64 keys and values of one key/value head (of B * Hkv).
void widen_key_block(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t key_block,
                     const HeadFloats& floats);

void attend_floats(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t query_block,
                   const HeadFloats& floats, const WorkerScratch& scratch);

}  // namespace qfa

#endif  // QFA_ATTENTION_FLOATS_H_
