// Attention in float32: nothing is quantized.
#ifndef QFA_ATTENTION_FLOATS_H_
#define QFA_ATTENTION_FLOATS_H_

#include "attention/online.h"
#include "attention/plan.h"
#include "kernels/kernels.h"

namespace qfa {

// 64 keys and values as numbers.
struct FloatTile {
  float* keys;    // [64][D]
  float* values;  // [64][value_channels]
  float* spoil;   // [64]; see FloatBlock
};

// Takes 64 keys and values of one key/value head (of B * Hkv) into `tile`; those that cannot be
// seen are zeros. `writes`: what is joined goes to the present cache, if that is wanted; each block
// must then be taken once.
void widen_key_block(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t key_block,
                     bool writes, const WorkerScratch& scratch, const FloatTile& tile);

// What the softmax of a block in float32 needs; the scores are those of the worker.
FloatBlock float_block(const Attending& by, const KeyBlock& b, const float* spoil, Lanes& lanes);

// Takes the lanes through one block, into lanes.chunk.
void attend_float_block(const Attending& by, const FloatTile& tile, const KeyBlock& b,
                        Lanes& lanes);

// Computes the output rows of one block of queries of one key/value head, whose keys are widened.
void attend_floats(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t query_block,
                   const HeadFloats& floats, const WorkerScratch& scratch);

}  // namespace qfa

#endif  // QFA_ATTENTION_FLOATS_H_
