#include "attention/close.h"

#include <math.h>

#include "attention/dtype.h"
#include "kernels/exp2.h"
#include "kernels/reference/exp2.h"

namespace qfa {

float sink_of(const qfa_attention& a, int64_t head) {
  if (a.sink == nullptr) return -INFINITY;
  const float logit = element_at(a.sink, a.sink_dtype, a.sink_per_head != 0 ? head : 0);
  return logit <= kLowestBias ? -INFINITY : logit;
}

void close_rows(const Plan& plan, const QueryRows& rows, const float* running_max,
                const float* running_sum, float step, float* factor) {
  const qfa_attention& a = plan.request;
  for (int lane = 0; lane < kLanes; ++lane) {
    const float sum = running_sum[lane];
    factor[lane] = sum == 0.0f ? 0.0f : 1.0f / (step * sum);
    if (a.sink == nullptr || lane >= rows.count || sum == 0.0f) continue;
    const float sink = sink_of(a, rows.head[lane]) * kLog2E;
    // The sum counts in units of 2^running_max; the scale of V is in both.
    const float seen = running_max[lane];
    const float joined = sink > seen ? sink : seen;
    const float keep = exp2_of_nonpositive(seen - joined);
    const float total = fmaf(sum, keep, exp2_of_nonpositive(sink - joined));
    factor[lane] = keep / (step * total);
  }
}

}  // namespace qfa
