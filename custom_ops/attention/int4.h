// Blocks of a 4-bit cache: which groups of keys are coded, and where their codes lie.
#ifndef QFA_ATTENTION_INT4_H_
#define QFA_ATTENTION_INT4_H_

#include <stdint.h>

#include "attention/encode.h"
#include "attention/plan.h"
#include "attention/side.h"
#include "kernels/kernels.h"

namespace qfa {

inline constexpr int kGroupsOfBlock = kKeyBlock / kInt4KeyGroup;

// 32 keys: their codes, or, while the group is not complete, numbers behind the mean and the
// rotation, zeros for keys that are not there.
struct Int4Keys {
  const uint8_t* codes;
  int64_t code_stride;
  const void* scale;
  const int8_t* zero_point;
  const float* numbers;  // null, or [32][D]
};

// Takes the groups of a block. What is joined goes to the present cache, if that is wanted and
// `writes`; each block must then be taken once.
void take_int4_keys(const Plan& plan, const Kernels& kernels, const Side& side, int64_t key_block,
                    bool writes, const WorkerScratch& scratch, Int4Keys (&groups)[kGroupsOfBlock]);

// Takes the values of a block; rows that cannot be seen may hold anything.
Int4Values take_int4_values(const Plan& plan, const Kernels& kernels, const Side& side,
                            int64_t key_block, bool writes, const WorkerScratch& scratch);

// The same as int8 codes with a scale per token, in `tile`; see take_codes.
CodeRows take_int4_as_codes(const Plan& plan, const Kernels& kernels, const Side& side,
                            bool holds_keys, int64_t key_block, bool writes, int64_t padded,
                            const WorkerScratch& scratch, int8_t* tile, float* scale);

// Whether the open keys must be kept before they are written where they are read.
bool keeps_open_keys(const qfa_attention& a);

// Copies the open keys of one key/value head to where the blocks will look for them.
void keep_open_keys(const Plan& plan, int64_t kv_head);

}  // namespace qfa

#endif  // QFA_ATTENTION_INT4_H_
