// A few queries against 4-bit codes, in plain C++; see formats.h.
#include <math.h>
#include <string.h>

#include <bit>

#include "kernels/kernels.h"
#include "kernels/reference/block_sum.h"
#include "kernels/reference/half.h"

namespace qfa {
namespace {

float scale_at(const void* scale, int64_t index) {
  uint16_t half;
  memcpy(&half, static_cast<const char*>(scale) + 2 * index, 2);
  return float_from_half(half);
}

int code_at(const uint8_t* codes, int64_t c) {
  return c % 2 == 0 ? codes[c / 2] & 15 : codes[c / 2] >> 4;
}

}  // namespace

void few_int4_scores_scalar(const uint8_t* codes, int64_t code_stride, const void* scale,
                            const int8_t* zero_point, int64_t channels, const float* queries,
                            int query_count, float* scores) {
  constexpr int64_t kMost = 1024;
  float folded[kMost];
  int8_t folded_codes[kMost];
  for (int64_t q = 0; q < query_count; ++q) {
    for (int64_t c = 0; c < channels; ++c) {
      folded[c] = queries[q * channels + c] * scale_at(scale, c);
    }
    const float row_scale = quantize_row_scalar(folded, channels, 0.0f, folded_codes);
    for (int64_t j = 0; j < kInt4KeyGroup; ++j) {
      int32_t sum = 0;
      for (int64_t c = 0; c < channels; ++c) {
        sum += folded_codes[c] * (code_at(codes + j * code_stride, c) - zero_point[c]);
      }
      scores[q * kKeyBlock + j] = static_cast<float>(sum) * row_scale;
    }
  }
}

void few_int4_accumulate_scalar(const Int4Values& values, const float* weights, int query_count,
                                int key_count, const float* keep, float* output,
                                int64_t output_stride) {
  for (int64_t q = 0; q < query_count; ++q) {
    for (int64_t start = 0; start < values.channels; start += values.group) {
      const int64_t g = start / values.group;
      float scaled[kKeyBlock];
      uint32_t greatest = 0;  // as an integer a negative number orders above infinity, as NaN does
      for (int64_t j = 0; j < key_count; ++j) {
        const float y = weights[q * kKeyBlock + j];
        scaled[j] = y == 0.0f ? 0.0f : y * scale_at(values.scale, j * values.scale_stride + g);
        const uint32_t bits = std::bit_cast<uint32_t>(scaled[j]);
        if (bits > greatest) greatest = bits;
      }
      const float most = std::bit_cast<float>(greatest);
      float step = most / 255.0f, inverse = 255.0f / most;
      if (step < kSmallestScale) step = kSmallestScale, inverse = 1.0f / kSmallestScale;
      if (greatest >= 0x7f800000u) step = NAN;
      uint8_t weight_codes[kKeyBlock] = {};
      for (int64_t j = 0; j < key_count && step == step; ++j) {
        weight_codes[j] =
            static_cast<uint8_t>(std::bit_cast<uint32_t>(fmaf(scaled[j], inverse, 0x1p23f)));
      }
      const int64_t rest = values.channels - start;
      for (int64_t c = start; c < start + (rest < values.group ? rest : values.group); ++c) {
        int32_t product = 0;
        for (int64_t j = 0; j < key_count; ++j) {
          const int code = code_at(values.codes + j * values.code_stride, c);
          product += weight_codes[j] * (code - values.zero_point[j * values.scale_stride + g]);
        }
        float& target = output[q * output_stride + c];
        target = fmaf(step, static_cast<float>(product), target * keep[q]);
      }
    }
  }
}

}  // namespace qfa
