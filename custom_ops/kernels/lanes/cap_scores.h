// Scores under a softcap: see cap_scores_fn.
#ifndef QFA_KERNELS_LANES_CAP_SCORES_H_
#define QFA_KERNELS_LANES_CAP_SCORES_H_

#include "kernels/kernels.h"
#include "kernels/lanes/lanes.h"

namespace qfa {
namespace {

template <int lanes>
void cap_lanes(const CapBlock& b) {
  const float cap = b.cap, inverse = b.inverse;
  float query_scale[lanes];
  for (int lane = 0; lane < lanes; ++lane) query_scale[lane] = b.query_scale[lane];
  for (int j = 0; j < b.keys; ++j) {
    const int32_t* scores = b.scores + j * kLanes;
    float* tile = b.tile + j * kLanes;
    const int32_t correction = b.correction[j];
    const float key_scale = b.key_scale[j];
    for (int lane = 0; lane < lanes; ++lane) {
      const float t = static_cast<float>(scores[lane] + correction) * query_scale[lane];
      const float capped = cap * tanh_lane(t * key_scale * inverse);
      const float bias = tile[lane];
      tile[lane] = bias == -__builtin_inff() ? bias : bias + capped;
    }
  }
}

inline void cap_block(const CapBlock& b) {
  b.vectors == 1 ? cap_lanes<kVectorLanes>(b) : cap_lanes<kLanes>(b);
}

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_LANES_CAP_SCORES_H_
