// The two products of a few queries in float32 with AVX-512.
#include <immintrin.h>

#include "kernels/kernels.h"
#include "kernels/x86/few_ahead.h"

namespace qfa {
namespace {

constexpr int kWidth = 16;

// Transposes 16 x 16 floats held in 16 vectors.
QFA_INLINE void transpose(__m512 (&x)[16]) {
  __m512 y[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 4) {
    x[i] = _mm512_shuffle_ps(y[i], y[i + 2], 0x44);
    x[i + 1] = _mm512_shuffle_ps(y[i], y[i + 2], 0xee);
    x[i + 2] = _mm512_shuffle_ps(y[i + 1], y[i + 3], 0x44);
    x[i + 3] = _mm512_shuffle_ps(y[i + 1], y[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 2
    for (int half = 0; half < 16; half += 8) {
      y[half + i] = _mm512_shuffle_f32x4(x[half + i], x[half + 4 + i], 0x88);
      y[half + 4 + i] = _mm512_shuffle_f32x4(x[half + i], x[half + 4 + i], 0xdd);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    x[i] = _mm512_shuffle_f32x4(y[i], y[8 + i], 0x88);
    x[8 + i] = _mm512_shuffle_f32x4(y[i], y[8 + i], 0xdd);
  }
}

// Adds the products of up to 16 channels, `count` of them, to the scores of 16 keys. Sums wait in
// memory while those of other keys go on, so that no sum waits for itself.
template <int queries, bool whole>
QFA_INLINE void score_channels(const float* keys, int64_t width, const float* rows, int count,
                               bool is_first, float* scores) {
  const __mmask16 live =
      whole ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1 << count) - 1);
  __m512 channel[16], sum[queries];
#pragma GCC unroll 16
  for (int k = 0; k < 16; ++k) {
    channel[k] =
        whole ? _mm512_loadu_ps(keys + k * width) : _mm512_maskz_loadu_ps(live, keys + k * width);
  }
  transpose(channel);
#pragma GCC unroll 8
  for (int q = 0; q < queries; ++q) {
    sum[q] = is_first ? _mm512_setzero_ps() : _mm512_loadu_ps(scores + q * kKeyBlock);
  }
#pragma GCC unroll 16
  for (int c = 0; c < 16; ++c) {
    if (!whole && c == count) break;
#pragma GCC unroll 8
    for (int q = 0; q < queries; ++q) {
      sum[q] = _mm512_fmadd_ps(channel[c], _mm512_set1_ps(rows[q * width + c]), sum[q]);
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < queries; ++q) _mm512_storeu_ps(scores + q * kKeyBlock, sum[q]);
}

template <int queries>
void scores_of(const float* keys, int64_t width, const float* rows, int key_count, float* scores) {
  FloatsAhead ahead(keys, width);
  const auto of_keys = [&](int64_t c, const auto& score) {
    for (int j = 0; j < key_count; j += kWidth) {
      ahead.fetch<kWidth>();
      score(keys + j * width + c, rows + c, c == 0, scores + j);
    }
  };
  int64_t c = 0;
  for (; c + kWidth <= width; c += kWidth) {
    of_keys(c, [&](const float* from, const float* by, bool is_first, float* to) {
      score_channels<queries, true>(from, width, by, kWidth, is_first, to);
    });
  }
  if (c == width) return;
  const int left = static_cast<int>(width - c);
  of_keys(c, [&](const float* from, const float* by, bool is_first, float* to) {
    score_channels<queries, false>(from, width, by, left, is_first, to);
  });
}

// `span` registers of channels.
template <int queries, int span>
QFA_INLINE void accumulate_span(const float* values, int64_t width, const float* weights,
                                int key_count, const float* keep, FloatsAhead& ahead,
                                float* output) {
  __m512 sum[queries][span];
#pragma GCC unroll 8
  for (int q = 0; q < queries; ++q) {
#pragma GCC unroll 8
    for (int v = 0; v < span; ++v) sum[q][v] = _mm512_setzero_ps();
  }
  for (int j = 0; j < key_count; ++j, values += width) {
    ahead.fetch<span>();
    __m512 channels[span];
#pragma GCC unroll 8
    for (int v = 0; v < span; ++v) channels[v] = _mm512_loadu_ps(values + v * kWidth);
#pragma GCC unroll 8
    for (int q = 0; q < queries; ++q) {
      const __m512 weight = _mm512_set1_ps(weights[q * kKeyBlock + j]);
#pragma GCC unroll 8
      for (int v = 0; v < span; ++v) sum[q][v] = _mm512_fmadd_ps(channels[v], weight, sum[q][v]);
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < queries; ++q) {
    const __m512 kept = _mm512_set1_ps(keep[q]);
#pragma GCC unroll 8
    for (int v = 0; v < span; ++v) {
      float* to = output + q * width + v * kWidth;
      _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_loadu_ps(to), kept, sum[q][v]));
    }
  }
}

template <int queries>
void accumulate_of(const float* values, int64_t width, const float* weights, int key_count,
                   const float* keep, float* output) {
  FloatsAhead ahead(values, width);
  int64_t c = 0;
  const auto spans_of = [&]<int span>() {
    for (; c + span * kWidth <= width; c += span * kWidth) {
      accumulate_span<queries, span>(values + c, width, weights, key_count, keep, ahead,
                                     output + c);
    }
  };
  // As many sums as registers hold, and what is left.
  if constexpr (queries <= 2) spans_of.template operator()<8>();
  if constexpr (queries <= 4) spans_of.template operator()<4>();
  spans_of.template operator()<2>();
  spans_of.template operator()<1>();
}

}  // namespace

void few_float_scores_avx512vnni(const float* keys, int64_t channels, const float* queries,
                                 int query_count, int key_count, float* scores) {
  constexpr decltype(&scores_of<1>) kBy[kMostFew] = {scores_of<1>, scores_of<2>, scores_of<3>,
                                                     scores_of<4>, scores_of<5>, scores_of<6>,
                                                     scores_of<7>, scores_of<8>};
  kBy[query_count - 1](keys, channels, queries, key_count, scores);
}

void few_float_accumulate_avx512vnni(const float* values, int64_t channels, const float* weights,
                                     int query_count, int key_count, const float* keep,
                                     float* output) {
  constexpr decltype(&accumulate_of<1>) kBy[kMostFew] = {
      accumulate_of<1>, accumulate_of<2>, accumulate_of<3>, accumulate_of<4>,
      accumulate_of<5>, accumulate_of<6>, accumulate_of<7>, accumulate_of<8>};
  kBy[query_count - 1](values, channels, weights, key_count, keep, output);
}

}  // namespace qfa
