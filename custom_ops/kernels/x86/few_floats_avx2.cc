// The two products of a few queries in float32 with AVX2.
#include <immintrin.h>

#include "kernels/kernels.h"
#include "kernels/x86/few_ahead.h"

namespace qfa {
namespace {

constexpr int kWidth = 8;

// Transposes 8 x 8 floats held in 8 vectors.
QFA_INLINE void transpose(__m256 (&x)[8]) {
  __m256 y[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    x[i] = _mm256_shuffle_ps(y[i], y[i + 2], 0x44);
    x[i + 1] = _mm256_shuffle_ps(y[i], y[i + 2], 0xee);
    x[i + 2] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0x44);
    x[i + 3] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256 low = x[i], high = x[4 + i];
    x[i] = _mm256_permute2f128_ps(low, high, 0x20);
    x[4 + i] = _mm256_permute2f128_ps(low, high, 0x31);
  }
}

// Adds the products of up to 8 channels, `count` of them, to the scores of 8 keys. Sums wait in
// memory while those of other keys go on, so that no sum waits for itself.
template <bool whole>
QFA_INLINE void score_channels(const float* keys, int64_t width, const float* rows, int queries,
                               int count, bool is_first, float* scores) {
  const __m256i live =
      _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  __m256 channel[8];
#pragma GCC unroll 8
  for (int k = 0; k < 8; ++k) {
    channel[k] =
        whole ? _mm256_loadu_ps(keys + k * width) : _mm256_maskload_ps(keys + k * width, live);
  }
  transpose(channel);
  const auto add = [&]<int at_once>(int q) {
    __m256 sum[at_once];
#pragma GCC unroll 4
    for (int i = 0; i < at_once; ++i) {
      sum[i] = is_first ? _mm256_setzero_ps() : _mm256_loadu_ps(scores + (q + i) * kKeyBlock);
    }
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c) {
      if (!whole && c == count) break;
#pragma GCC unroll 4
      for (int i = 0; i < at_once; ++i) {
        sum[i] = _mm256_fmadd_ps(channel[c], _mm256_set1_ps(rows[(q + i) * width + c]), sum[i]);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < at_once; ++i) _mm256_storeu_ps(scores + (q + i) * kKeyBlock, sum[i]);
  };
  int q = 0;
  for (; q + 4 <= queries; q += 4) add.template operator()<4>(q);
  for (; q < queries; ++q) add.template operator()<1>(q);
}

// `span` registers of channels.
template <int queries, int span>
QFA_INLINE void accumulate_span(const float* values, int64_t width, const float* weights,
                                int key_count, const float* keep, FloatsAhead& ahead,
                                float* output) {
  __m256 sum[queries][span];
#pragma GCC unroll 8
  for (int q = 0; q < queries; ++q) {
#pragma GCC unroll 8
    for (int v = 0; v < span; ++v) sum[q][v] = _mm256_setzero_ps();
  }
  for (int j = 0; j < key_count; ++j, values += width) {
    if (span > 1 || j % 2 == 0) ahead.fetch<span == 1 ? 1 : span / 2>();
    __m256 channels[span];
#pragma GCC unroll 8
    for (int v = 0; v < span; ++v) {
      channels[v] = _mm256_loadu_ps(values + v * kWidth);
      // Loaded once for all queries, which GCC would not do by itself.
      if (queries > 1) __asm__("" : "+x"(channels[v]));
    }
#pragma GCC unroll 8
    for (int q = 0; q < queries; ++q) {
      const __m256 weight = _mm256_set1_ps(weights[q * kKeyBlock + j]);
#pragma GCC unroll 8
      for (int v = 0; v < span; ++v) sum[q][v] = _mm256_fmadd_ps(channels[v], weight, sum[q][v]);
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < queries; ++q) {
    const __m256 kept = _mm256_set1_ps(keep[q]);
#pragma GCC unroll 8
    for (int v = 0; v < span; ++v) {
      float* to = output + q * width + v * kWidth;
      _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_loadu_ps(to), kept, sum[q][v]));
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
  if constexpr (queries == 1) spans_of.template operator()<8>();
  if constexpr (queries <= 2) spans_of.template operator()<4>();
  if constexpr (queries <= 4) spans_of.template operator()<2>();
  spans_of.template operator()<1>();
}

}  // namespace

void few_float_scores_avx2(const float* keys, int64_t channels, const float* queries,
                           int query_count, int key_count, float* scores) {
  FloatsAhead ahead(keys, channels);
  for (int64_t c = 0; c < channels; c += kWidth) {
    const int64_t left = channels - c;
    for (int j = 0; j < key_count; j += kWidth) {
      ahead.fetch<kWidth / 2>();
      const float* from = keys + j * channels + c;
      if (left >= kWidth) {
        score_channels<true>(from, channels, queries + c, query_count, kWidth, c == 0, scores + j);
      } else {
        score_channels<false>(from, channels, queries + c, query_count, static_cast<int>(left),
                              c == 0, scores + j);
      }
    }
  }
}

void few_float_accumulate_avx2(const float* values, int64_t channels, const float* weights,
                               int query_count, int key_count, const float* keep, float* output) {
  constexpr decltype(&accumulate_of<1>) kBy[kMostFew] = {
      accumulate_of<1>, accumulate_of<2>, accumulate_of<3>, accumulate_of<4>,
      accumulate_of<5>, accumulate_of<6>, accumulate_of<7>, accumulate_of<8>};
  kBy[query_count - 1](values, channels, weights, key_count, keep, output);
}

}  // namespace qfa
