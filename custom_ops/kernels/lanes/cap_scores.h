// Scores under a softcap: see cap_scores_fn.
#ifndef QFA_KERNELS_LANES_CAP_SCORES_H_
#define QFA_KERNELS_LANES_CAP_SCORES_H_

#include "kernels/kernels.h"
#include "kernels/lanes/lanes.h"

namespace qfa {
namespace {

template <class Vector>
void cap_block(const CapBlock& b) {
  const Vector cap = Vector::spread(b.cap), inverse = Vector::spread(b.inverse);
  const Vector lowest = Vector::spread(-__builtin_inff());
  for (int lane = 0; lane < b.vectors * kVectorLanes; lane += Vector::kWidth) {
    const Vector query_scale = Vector::load(b.query_scale + lane);
    const int32_t* scores = b.scores + lane;
    float* tile = b.tile + lane;
    for (int j = 0; j < b.keys; ++j, scores += kLanes, tile += kLanes) {
      const Vector t = Vector::from_ints(scores, -b.score_zero) * query_scale;
      const Vector capped = cap * tanh_lanes(t * Vector::spread(b.key_scale[j]) * inverse);
      const Vector bias = Vector::load(tile);
      Vector::select(Vector::equal(bias, lowest), bias, bias + capped).store(tile);
    }
  }
}

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_LANES_CAP_SCORES_H_
