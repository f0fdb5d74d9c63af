// The end of the online softmax: the sink joins, and the weights are divided by their sum.
#ifndef QFA_ATTENTION_CLOSE_H_
#define QFA_ATTENTION_CLOSE_H_

#include "attention/plan.h"
#include "attention/rows.h"

namespace qfa {

// The logit that is one more key of a query head; -inf where there is none, which is any logit that
// would mask a key as a bias (see kLowestBias).
float sink_of(const qfa_attention& a, int64_t head);

// factor[lane] = 1 / (step * sum), where sum includes the sink; 0 for a row that saw no key. `step`
// is what a weight of 1 counts in the accumulated output.
void close_rows(const Plan& plan, const QueryRows& rows, const float* running_max,
                const float* running_sum, float step, float* factor);

}  // namespace qfa

#endif  // QFA_ATTENTION_CLOSE_H_
