// Attention on 8-bit floats, which bfloat16 holds exactly: rows of Q, K and V are coded with a
// scale each, and their codes widened to bfloat16.
#ifndef QFA_ATTENTION_BFLOATS_H_
#define QFA_ATTENTION_BFLOATS_H_

#include "attention/online.h"
#include "attention/plan.h"
#include "kernels/kernels.h"

namespace qfa {

// Codes and packs query rows into scratch.bfloat_queries; lanes without a row get zeros.
void pack_bfloat_queries(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                         const WorkerScratch& scratch, float* query_scale);

// Takes 64 keys and values of one key/value head (of B * Hkv) into `tile`; those that cannot be
// seen are zeros. `writes`: what is joined goes to the present cache, if that is wanted; each block
// must then be taken once.
void take_bfloat_block(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t key_block,
                       bool writes, const WorkerScratch& scratch, const BfloatBlock& tile);

// Takes the lanes through one block, into lanes.chunk.
void attend_bfloat_block(const Attending& by, const BfloatBlock& tile, const KeyBlock& b,
                         Lanes& lanes);

// Computes the output rows of one block of queries of one key/value head, whose keys are taken.
void attend_bfloats(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t query_block,
                    const BfloatBlock& head, const WorkerScratch& scratch);

}  // namespace qfa

#endif  // QFA_ATTENTION_BFLOATS_H_
