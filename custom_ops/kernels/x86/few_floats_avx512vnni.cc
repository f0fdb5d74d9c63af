// The two products of a few queries in float32 with AVX-512.
#include <immintrin.h>

#include "kernels/kernels.h"
#include "kernels/x86/few_ahead.h"

namespace qfa {
namespace {

constexpr int kWidth = 16;

// The first eight of the channels of two keys side by side: a masked load of the second costs no
// shuffle.
template <bool whole>
QFA_INLINE __m512 load_pair(const float* first, const float* second, __mmask8 live) {
  if (!whole) {
    const __m512 low = _mm512_castps256_ps512(_mm256_maskz_loadu_ps(live, first));
    return _mm512_insertf32x8(low, _mm256_maskz_loadu_ps(live, second), 1);
  }
  const __m512 low = _mm512_castps256_ps512(_mm256_loadu_ps(first));
  return _mm512_mask_broadcast_f32x8(low, 0xff00, _mm256_loadu_ps(second));
}

// channel[c] = channel c of 16 keys, for 16 channels of which those in `live` exist.
template <bool whole>
QFA_INLINE void load_channels(const float* keys, int64_t width, __mmask16 live,
                              __m512 (&channel)[16]) {
#pragma GCC unroll 2
  for (int c = 0; c < 16; c += 8) {
    const auto of_half = static_cast<__mmask8>(live >> c);
    // y[k / 8][i]: channels c + i and c + 4 + i of keys k to k + 3, then of keys k + 4 to k + 7.
    __m512 y[2][4];
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const float* row = keys + 8 * half * width + c;
      __m512 x[4];
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        x[k] = load_pair<whole>(row + k * width, row + (k + 4) * width, of_half);
      }
      const __m512 low01 = _mm512_unpacklo_ps(x[0], x[1]), low23 = _mm512_unpacklo_ps(x[2], x[3]);
      const __m512 high01 = _mm512_unpackhi_ps(x[0], x[1]), high23 = _mm512_unpackhi_ps(x[2], x[3]);
      y[half][0] = _mm512_shuffle_ps(low01, low23, 0x44);
      y[half][1] = _mm512_shuffle_ps(low01, low23, 0xee);
      y[half][2] = _mm512_shuffle_ps(high01, high23, 0x44);
      y[half][3] = _mm512_shuffle_ps(high01, high23, 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      channel[c + i] = _mm512_shuffle_f32x4(y[0][i], y[1][i], 0x88);
      channel[c + 4 + i] = _mm512_shuffle_f32x4(y[0][i], y[1][i], 0xdd);
    }
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
  load_channels<whole>(keys, width, live, channel);
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
    for (int v = 0; v < span; ++v) {
      channels[v] = _mm512_loadu_ps(values + v * kWidth);
      // Loaded once for all queries, which GCC would not do by itself.
      if (queries > 1) __asm__("" : "+v"(channels[v]));
    }
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
