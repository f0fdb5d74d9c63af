// Codes of blocks of keys and values, from numbers or from a cache of codes.
#ifndef QFA_ATTENTION_ENCODE_H_
#define QFA_ATTENTION_ENCODE_H_

#include <stdint.h>

#include "attention/plan.h"
#include "attention/side.h"
#include "kernels/kernels.h"

namespace qfa {

// Codes of a row of numbers of `dtype`, behind the mean and the rotation of `side`; returns their
// scale. Codes from `channels` to `padded` are zeros. A row under scales per channel has the
// scale 1.
float encode_row(const Kernels& kernels, const Side& side, qfa_dtype dtype, const char* source,
                 int64_t padded, float* row, int8_t* codes);

// 64 rows of codes as they lie, and their scales.
struct CodeRows {
  const int8_t* codes;
  int64_t stride;
  const float* scale;
};

// Takes the 64 tokens of a block from the numbers or codes of `side`. Rows come to `tile`, of
// `padded` codes each, and their scales to `scale`, unless they can be read where they are
// (`may_borrow`). Tokens that cannot be seen are zeros with the scale 1. `writes`: what is joined
// goes to the present cache, if that is wanted; each block must then be taken once.
CodeRows take_codes(const Plan& plan, const Kernels& kernels, const Side& side, int64_t key_block,
                    bool may_borrow, bool writes, int64_t padded, float* row, int8_t* tile,
                    float* scale);

// Where the scores of 64 keys start: see scores_fn.
void start_scores(const Plan& plan, const Kernels& kernels, const CodeRows& keys,
                  int32_t* score_start);

}  // namespace qfa

#endif  // QFA_ATTENTION_ENCODE_H_
