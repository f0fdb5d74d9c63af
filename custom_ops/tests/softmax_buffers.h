// The buffers of a softmax block, each between forbidden pages, with content drawn from a seed.
#ifndef QFA_TESTS_SOFTMAX_BUFFERS_H_
#define QFA_TESTS_SOFTMAX_BUFFERS_H_

#include <math.h>
#include <string.h>

#include "guarded.h"
#include "kernels/kernels.h"
#include "kernels/score_zero.h"
#include "problem.h"

namespace qfa::test {

struct SoftmaxBuffers {
  Guarded scores{kKeyBlock * kLanes * 4}, query_scale{kLanes * 4};
  Guarded key_scale{kKeyBlock * 4}, value_log2{kKeyBlock * 4}, value_inverse{kKeyBlock * 4};
  Guarded limits{kLanes * 4}, bias{kKeyBlock * kLanes * 4}, weights{kKeyBlock * kLanes};
  Guarded running_max{kLanes * 4}, running_sum{kLanes * 4}, keep{kLanes * 4}, gain{kLanes * 4};
  int32_t score_zero = 0;
};

inline void fill_softmax(SoftmaxBuffers& b, uint64_t seed, bool special) {
  Random random(seed);
  memset(b.weights.data(), 0xee, b.weights.size());
  b.score_zero = seed % 2 == 0 ? kScoreZero : 0;
  for (int i = 0; i < kKeyBlock * kLanes; ++i) {
    b.scores.as<int32_t>()[i] = b.score_zero + static_cast<int32_t>(random.normal() * 3000.0f);
    const uint32_t kind = random.below(8);
    b.bias.as<float>()[i] = kind == 0 ? -INFINITY : (kind == 1 ? 0.0f : random.normal());
  }
  for (int j = 0; j < kKeyBlock; ++j) {
    b.key_scale.as<float>()[j] = fabsf(random.normal()) + 0.1f;
    const float value_scale = fabsf(random.normal()) * 0.01f + 1e-4f;
    b.value_log2.as<float>()[j] = log2f(value_scale);
    b.value_inverse.as<float>()[j] = 1.0f / value_scale;
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    // Every eighth lane has exponents far below the smallest normal number.
    const float scale = lane % 8 == 7 ? 0.05f : (lane % 5 + 1) * 1e-3f;
    b.query_scale.as<float>()[lane] = score_scale(scale);
    b.limits.as<int32_t>()[lane] = static_cast<int32_t>(random.below(kKeyBlock + 1));
    b.running_max.as<float>()[lane] = lane % 3 == 0 ? -INFINITY : random.normal() * 10.0f;
    b.running_sum.as<float>()[lane] = lane % 3 == 0 ? 0.0f : fabsf(random.normal()) * 100.0f;
    b.keep.as<float>()[lane] = b.gain.as<float>()[lane] = -1.0f;
  }
  if (!special) return;
  b.query_scale.as<float>()[1] = NAN;
  b.query_scale.as<float>()[17] = score_scale(INFINITY);
  b.query_scale.as<float>()[2] = score_scale(1e30f);
  b.query_scale.as<float>()[3] = score_scale(-1e-3f);
  b.query_scale.as<float>()[5] = 0.0f;
  b.limits.as<int32_t>()[4] = 0;
  b.key_scale.as<float>()[5] = NAN;
  b.bias.as<float>()[6 * kLanes + 9] = INFINITY;
  b.bias.as<float>()[7 * kLanes + 10] = NAN;
}

inline SoftmaxBlock softmax_block(SoftmaxBuffers& b, int keys, int vectors, bool limits,
                                  bool bias) {
  return {keys,
          vectors,
          b.scores.as<int32_t>(),
          b.score_zero,
          b.query_scale.as<float>(),
          b.key_scale.as<float>(),
          b.value_log2.as<float>(),
          b.value_inverse.as<float>(),
          limits ? b.limits.as<int32_t>() : nullptr,
          bias ? b.bias.as<float>() : nullptr,
          b.weights.as<uint8_t>(),
          b.running_max.as<float>(),
          b.running_sum.as<float>(),
          b.keep.as<float>(),
          b.gain.as<float>()};
}

// Codes of lanes that are NaN may be anything.
inline bool equal_weights(SoftmaxBuffers& a, SoftmaxBuffers& b, int vectors) {
  for (int i = 0; i < kKeyBlock * kLanes; ++i) {
    const int lane = i % kGroupBytes / 4;
    if (lane >= vectors * kVectorLanes || isnan(b.running_sum.as<float>()[lane])) continue;
    if (a.weights.data()[i] != b.weights.data()[i]) return false;
  }
  return true;
}

}  // namespace qfa::test

#endif  // QFA_TESTS_SOFTMAX_BUFFERS_H_
