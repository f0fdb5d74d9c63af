// Products of one block with a few queries in float32.
#include <arm_neon.h>

#include "kernels/kernels.h"

#define QFA_INLINE inline __attribute__((always_inline))

namespace qfa {
namespace {

// Four channels of four keys become four keys of four channels.
QFA_INLINE void transpose(float32x4_t (&x)[4]) {
  float32x4_t y[4];
  for (int i = 0; i < 4; i += 2) {
    y[i] = vtrn1q_f32(x[i], x[i + 1]);
    y[i + 1] = vtrn2q_f32(x[i], x[i + 1]);
  }
  const auto doubles = [&](int i) { return vreinterpretq_f64_f32(y[i]); };
  for (int i = 0; i < 2; ++i) {
    x[i] = vreinterpretq_f32_f64(vtrn1q_f64(doubles(i), doubles(i + 2)));
    x[i + 2] = vreinterpretq_f32_f64(vtrn2q_f64(doubles(i), doubles(i + 2)));
  }
}

// Sums of `count` queries and 4 * registers keys or channels.
template <int count, int registers>
struct Sums {
  float32x4_t at[count][registers];
};

template <int step, int count, int registers>
QFA_INLINE void add(Sums<count, registers>& sums, int v, float32x4_t x,
                    const float32x4_t (&factors)[count]) {
#pragma GCC unroll 8
  for (int q = 0; q < count; ++q) {
    sums.at[q][v] = vfmaq_laneq_f32(sums.at[q][v], x, factors[q], step);
  }
}

template <int count, int registers>
QFA_INLINE Sums<count, registers> zeros() {
  Sums<count, registers> sums;
  for (int q = 0; q < count; ++q) {
    for (int v = 0; v < registers; ++v) sums.at[q][v] = vdupq_n_f32(0.0f);
  }
  return sums;
}

template <int count, int registers>
void score(const float* keys, int64_t channels, const float* queries, int key_count,
           float* scores) {
  for (int j = 0; j < key_count; j += 4 * registers) {
    Sums<count, registers> sums = zeros<count, registers>();
    const float* key = keys + j * channels;
    int64_t c = 0;
    for (; c + 4 <= channels; c += 4) {
      float32x4_t factors[count];
#pragma GCC unroll 8
      for (int q = 0; q < count; ++q) factors[q] = vld1q_f32(queries + q * channels + c);
#pragma GCC unroll 4
      for (int v = 0; v < registers; ++v) {
        float32x4_t x[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) x[i] = vld1q_f32(key + (4 * v + i) * channels + c);
        transpose(x);
        add<0>(sums, v, x[0], factors);
        add<1>(sums, v, x[1], factors);
        add<2>(sums, v, x[2], factors);
        add<3>(sums, v, x[3], factors);
      }
    }
    for (; c < channels; ++c) {
      float32x4_t factors[count];
      for (int q = 0; q < count; ++q) factors[q] = vdupq_n_f32(queries[q * channels + c]);
      for (int v = 0; v < registers; ++v) {
        const float* four = key + 4 * v * channels + c;
        const float x[4] = {four[0], four[channels], four[2 * channels], four[3 * channels]};
        add<0>(sums, v, vld1q_f32(x), factors);
      }
    }
    for (int q = 0; q < count; ++q) {
      for (int v = 0; v < registers; ++v) {
        vst1q_f32(scores + q * kKeyBlock + j + 4 * v, sums.at[q][v]);
      }
    }
  }
}

template <int count, int registers>
void accumulate(const float* values, int64_t channels, const float* weights, int key_count,
                const float* keep, float* output) {
  for (int64_t c = 0; c < channels; c += 4 * registers) {
    Sums<count, registers> sums = zeros<count, registers>();
    const float* row = values + c;
    const auto add_row = [&]<int step>(const float32x4_t(&factors)[count])
                             __attribute__((always_inline)) {
#pragma GCC unroll 4
                               for (int v = 0; v < registers; ++v)
                                 add<step>(sums, v, vld1q_f32(row + 4 * v), factors);
                               row += channels;
                             };
    for (int j = 0; j < key_count; j += 4) {
      float32x4_t factors[count];
#pragma GCC unroll 8
      for (int q = 0; q < count; ++q) factors[q] = vld1q_f32(weights + q * kKeyBlock + j);
      add_row.template operator()<0>(factors);
      add_row.template operator()<1>(factors);
      add_row.template operator()<2>(factors);
      add_row.template operator()<3>(factors);
    }
    for (int q = 0; q < count; ++q) {
      for (int v = 0; v < registers; ++v) {
        float* target = output + q * channels + c + 4 * v;
        vst1q_f32(target, vfmaq_n_f32(sums.at[q][v], vld1q_f32(target), keep[q]));
      }
    }
  }
}

// Calls `of` for all queries, at most four at once: of.operator()<count>(first).
template <typename Of>
QFA_INLINE void for_queries(int query_count, const Of& of) {
  int first = 0;
  for (; first + 4 < query_count; first += 4) of.template operator()<4>(first);
  switch (query_count - first) {
    case 1:
      return of.template operator()<1>(first);
    case 2:
      return of.template operator()<2>(first);
    case 3:
      return of.template operator()<3>(first);
    default:
      return of.template operator()<4>(first);
  }
}

}  // namespace

void few_float_scores_neondot(const float* keys, int64_t channels, const float* queries,
                              int query_count, int key_count, float* scores) {
  for_queries(query_count, [&]<int count>(int first) {
    score<count, 4>(keys, channels, queries + first * channels, key_count,
                    scores + first * kKeyBlock);
  });
}

void few_float_accumulate_neondot(const float* values, int64_t channels, const float* weights,
                                  int query_count, int key_count, const float* keep,
                                  float* output) {
  for_queries(query_count, [&]<int count>(int first) {
    accumulate<count, 4>(values, channels, weights + first * kKeyBlock, key_count, keep + first,
                         output + first * channels);
  });
}

}  // namespace qfa
