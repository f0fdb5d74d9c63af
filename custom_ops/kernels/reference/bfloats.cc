// Attention in bfloat16 in plain C++; see bfloats.h.
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/reference/half.h"

namespace qfa {

void pack_bfloats_scalar(const uint16_t* rows, int64_t width, uint16_t* packed) {
  for (int64_t c = 0; c < width; ++c) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      packed[(c / 2 * kLanes + lane) * 2 + c % 2] = rows[lane * width + c];
    }
  }
}

void transpose_bfloats_scalar(const uint16_t* rows, int64_t row_stride, int64_t channels,
                              uint16_t* columns) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t j = 0; j < kKeyBlock; ++j) columns[c * kKeyBlock + j] = rows[j * row_stride + c];
  }
}

void bfloat_scores_scalar(const uint16_t* keys, int64_t width, const uint16_t* packed,
                          int key_count, int vectors, float* scores) {
  for (int64_t j = 0; j < key_count; ++j) {
    for (int64_t lane = 0; lane < vectors * kVectorLanes; ++lane) {
      float sum = 0.0f;
      for (int64_t c = 0; c < width; ++c) {
        const uint16_t query = packed[(c / 2 * kLanes + lane) * 2 + c % 2];
        sum = fmaf(float_from_bfloat(keys[j * width + c]), float_from_bfloat(query), sum);
      }
      scores[j * kLanes + lane] = sum;
    }
  }
}

void bfloat_softmax_scalar(const FloatBlock& block, const float* key_scale,
                           const float* value_scale, uint16_t* weights) {
  const int lanes = block.vectors * kVectorLanes;
  for (int j = 0; j < block.keys; ++j) {
    for (int lane = 0; lane < lanes; ++lane) block.scores[j * kLanes + lane] *= key_scale[j];
  }
  float_softmax_scalar(block);
  memset(weights, 0, kKeyBlock * kLanes * sizeof(uint16_t));
  for (int j = 0; j < block.keys; ++j) {
    for (int lane = 0; lane < lanes; ++lane) {
      weights[(j / 2 * kLanes + lane) * 2 + j % 2] =
          bfloat_from_float(block.scores[j * kLanes + lane] * value_scale[j]);
    }
  }
}

void bfloat_accumulate_scalar(const uint16_t* values, int64_t channels, const uint16_t* weights,
                              const float* keep, int vectors, float* output) {
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t lane = 0; lane < vectors * kVectorLanes; ++lane) {
      float sum = 0.0f;
      for (int64_t j = 0; j < kKeyBlock; ++j) {
        const uint16_t weight = weights[(j / 2 * kLanes + lane) * 2 + j % 2];
        sum = fmaf(float_from_bfloat(values[c * kKeyBlock + j]), float_from_bfloat(weight), sum);
      }
      float& target = output[c * kLanes + lane];
      target = fmaf(target, keep[lane], sum);
    }
  }
}

}  // namespace qfa
