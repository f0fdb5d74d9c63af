// Attention on int8 codes: blocks of keys against blocks of queries.
#ifndef QFA_ATTENTION_ATTEND_H_
#define QFA_ATTENTION_ATTEND_H_

#include "attention/encode.h"
#include "attention/online.h"
#include "attention/plan.h"
#include "attention/side.h"
#include "kernels/kernels.h"

namespace qfa {

// Takes keys, or values, of a block as int8 codes, whatever the cache holds; see take_codes. Values
// come to scratch.codes, in rows of `padded`, with scratch.value_scale.
CodeRows take_keys_as_codes(const Plan& plan, const Kernels& kernels, const Side& side,
                            int64_t key_block, bool may_borrow, bool writes,
                            const WorkerScratch& scratch, int8_t* tile, float* scale);
CodeRows take_values_as_codes(const Plan& plan, const Kernels& kernels, const Side& side,
                              int64_t key_block, bool writes, int64_t padded,
                              const WorkerScratch& scratch);

// One block of keys and values, ready for queries in lanes.
struct LaneCodes {
  const int8_t* keys;  // [64] rows
  int64_t key_stride;
  const int8_t* columns;       // [value_channels][64]
  const int32_t* score_start;  // [64], see scores_fn; as are the following
  const float* key_scale;
  const float* value_log2;
  const float* value_inverse;
};

// Takes lanes through one block, into lanes.chunk.
void attend_codes(const Attending& by, const LaneCodes& codes, const KeyBlock& b, Lanes& lanes);

// Quantizes 64 keys and values of one key/value head (of B * Hkv) into `codes`.
void encode_key_block(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t key_block,
                      const HeadCodes& codes, const WorkerScratch& scratch);

// Computes the output rows of one block of queries of one key/value head (of B * Hkv), whose keys
// are encoded.
void attend(const Plan& plan, const Kernels& kernels, int64_t kv_head, int64_t query_block,
            const HeadCodes& codes, const WorkerScratch& scratch);

}  // namespace qfa

#endif  // QFA_ATTENTION_ATTEND_H_
