// Integer products of a few queries with VNNI: rows of K and V are read once, as they lie.
#include <immintrin.h>

#include "kernels/kernels.h"
#include "kernels/x86/few_ahead.h"

namespace qfa {
namespace {

// Rows of K are up to this long.
constexpr int64_t kMostWidth = 1024;

// Loops over the rows of usual models are unrolled: kernels are made for each length of these, and
// for all others with 0.
constexpr int64_t kUsual[] = {64, 128};

__m512i load(const void* from) { return _mm512_loadu_si512(from); }

// sum += four unsigned codes of each lane times four signed codes. In assembly because GCC 12
// copies accumulators around the intrinsic.
QFA_INLINE void dot(__m512i& sum, __m512i unsigned_codes, __m512i signed_codes) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_codes), "v"(signed_codes));
}

// Scores. Within each 128 bits, four groups of four channels of four keys are transposed: register
// i then holds group i of each key, in the order of keys. Each query is laid out likewise, group i
// of each 128 bits four times, and a sum holds four keys times four parts of the channels.
template <int queries>
struct Packed {
  // A key's codes count as unsigned, 128 too much: what that adds is taken off beforehand.
  alignas(64) int32_t offset[queries][16];
  alignas(64) int8_t groups[kMostWidth / 64][4][queries][64];
};

template <int queries>
QFA_INLINE void pack(const int8_t* rows, int64_t width, Packed<queries>& packed) {
  const __m512i middle = _mm512_set1_epi8(-128);
  for (int q = 0; q < queries; ++q) {
    __m512i sum = _mm512_setzero_si512();
    for (int64_t c = 0; c < width; c += 64) {
      const __m512i codes = load(rows + q * width + c);
      dot(sum, middle, codes);
      auto& to = packed.groups[c / 64];
      _mm512_store_si512(to[0][q], _mm512_shuffle_epi32(codes, _MM_PERM_AAAA));
      _mm512_store_si512(to[1][q], _mm512_shuffle_epi32(codes, _MM_PERM_BBBB));
      _mm512_store_si512(to[2][q], _mm512_shuffle_epi32(codes, _MM_PERM_CCCC));
      _mm512_store_si512(to[3][q], _mm512_shuffle_epi32(codes, _MM_PERM_DDDD));
    }
    sum = _mm512_add_epi32(sum, _mm512_shuffle_epi32(sum, _MM_PERM_CDAB));
    sum = _mm512_add_epi32(sum, _mm512_shuffle_epi32(sum, _MM_PERM_BADC));
    _mm512_store_si512(packed.offset[q], _mm512_sub_epi32(_mm512_setzero_si512(), sum));
  }
}

// group[i]: group i of the channels of four keys, as unsigned codes.
QFA_INLINE void load_keys(const int8_t* keys, int64_t stride, __m512i (&group)[4]) {
  const __m512i middle = _mm512_set1_epi8(-128);
  __m512i key[4];
  for (int k = 0; k < 4; ++k) key[k] = _mm512_xor_si512(middle, load(keys + k * stride));
  const __m512i low01 = _mm512_unpacklo_epi32(key[0], key[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(key[2], key[3]);
  const __m512i high01 = _mm512_unpackhi_epi32(key[0], key[1]);
  const __m512i high23 = _mm512_unpackhi_epi32(key[2], key[3]);
  group[0] = _mm512_unpacklo_epi64(low01, low23);
  group[1] = _mm512_unpackhi_epi64(low01, low23);
  group[2] = _mm512_unpacklo_epi64(high01, high23);
  group[3] = _mm512_unpackhi_epi64(high01, high23);
}

// Sums of eight keys, in two parts each: 128 bits hold keys 0-3, again 0-3, 4-7 and 4-7.
template <int queries>
QFA_INLINE void score_eight(const int8_t* keys, int64_t stride, int64_t width,
                            const Packed<queries>& packed, RowsAhead& ahead,
                            __m512i (&halves)[queries]) {
  __m512i sum[2][queries];
#pragma GCC unroll 8
  for (int q = 0; q < queries; ++q) {
    sum[0][q] = sum[1][q] = _mm512_load_si512(packed.offset[q]);
  }
  for (int64_t c = 0; c < width; c += 64) {
    ahead.fetch<8>();
    __m512i group[2][4];
    load_keys(keys + c, stride, group[0]);
    load_keys(keys + 4 * stride + c, stride, group[1]);
    const auto& from = packed.groups[c / 64];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 8
      for (int q = 0; q < queries; ++q) {
        const __m512i query = _mm512_load_si512(from[i][q]);
        dot(sum[0][q], group[0][i], query);
        dot(sum[1][q], group[1][i], query);
      }
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < queries; ++q) {
    const __m512i outer = _mm512_mask_blend_epi32(0xff00, sum[0][q], sum[1][q]);
    const __m512i inner = _mm512_shuffle_i32x4(sum[0][q], sum[1][q], 0x4e);
    halves[q] = _mm512_add_epi32(outer, inner);
  }
}

template <int queries, int64_t fixed>
void scores_of(const int8_t* keys, int64_t stride, int64_t any_width, const int8_t* rows,
               int key_count, int32_t* scores) {
  const int64_t width = fixed != 0 ? fixed : any_width;
  Packed<queries> packed;
  pack(rows, width, packed);
  RowsAhead ahead(keys, stride, width);
  for (int j = 0; j < key_count; j += 16) {
    __m512i low[queries], high[queries];
    score_eight(keys + j * stride, stride, width, packed, ahead, low);
    score_eight(keys + (j + 8) * stride, stride, width, packed, ahead, high);
#pragma GCC unroll 8
    for (int q = 0; q < queries; ++q) {
      const __m512i even = _mm512_shuffle_i32x4(low[q], high[q], 0x88);
      const __m512i odd = _mm512_shuffle_i32x4(low[q], high[q], 0xdd);
      _mm512_storeu_si512(scores + q * kKeyBlock + j, _mm512_add_epi32(even, odd));
    }
  }
}

// Sums of 64 channels; register v of a query holds channels 4 * v to 4 * v + 3 of each 16.
template <int queries>
using ChannelSums = int32_t[queries][4][16];

// Registers `from` to `from + count` of the sums of `runs` times 64 channels: four rows of V are
// interleaved, so that 32 bits hold four keys of one channel.
template <int queries, int runs, int from, int count>
QFA_INLINE void sum_channels(const int8_t* values, int64_t stride, const uint8_t* weights,
                             RowsAhead& ahead, ChannelSums<queries> (&sums)[runs]) {
  __m512i sum[runs][count][queries];
#pragma GCC unroll 2
  for (int r = 0; r < runs; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < count; ++v) {
#pragma GCC unroll 8
      for (int q = 0; q < queries; ++q) sum[r][v][q] = _mm512_setzero_si512();
    }
  }
  for (int j = 0; j < kKeyBlock; j += 4) {
    if (from == 0) ahead.fetch<4 * runs>();
    __m512i channels[runs][4];
#pragma GCC unroll 2
    for (int r = 0; r < runs; ++r) {
      __m512i row[4];
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) row[k] = load(values + (j + k) * stride + 64 * r);
      if (from == 0) {
        const __m512i low01 = _mm512_unpacklo_epi8(row[0], row[1]);
        const __m512i low23 = _mm512_unpacklo_epi8(row[2], row[3]);
        channels[r][0] = _mm512_unpacklo_epi16(low01, low23);
        channels[r][1] = _mm512_unpackhi_epi16(low01, low23);
      }
      if (from + count == 4) {
        const __m512i high01 = _mm512_unpackhi_epi8(row[0], row[1]);
        const __m512i high23 = _mm512_unpackhi_epi8(row[2], row[3]);
        channels[r][2] = _mm512_unpacklo_epi16(high01, high23);
        channels[r][3] = _mm512_unpackhi_epi16(high01, high23);
      }
    }
#pragma GCC unroll 8
    for (int q = 0; q < queries; ++q) {
      int32_t four;
      __builtin_memcpy(&four, weights + q * kKeyBlock + j, 4);
      const __m512i weight = _mm512_set1_epi32(four);
#pragma GCC unroll 2
      for (int r = 0; r < runs; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < count; ++v) dot(sum[r][v][q], weight, channels[r][from + v]);
      }
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < runs; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < count; ++v) {
#pragma GCC unroll 8
      for (int q = 0; q < queries; ++q) _mm512_store_si512(sums[r][q][from + v], sum[r][v][q]);
    }
  }
}

// Adds 64 channels of one query to its output.
void join(const int32_t (&sums)[4][16], float keep, float gain, float* output) {
  const __m512 kept = _mm512_set1_ps(keep), gained = _mm512_set1_ps(gain);
  // 4 x 4 parts of 128 bits are transposed.
  const __m512i sum[4] = {load(sums[0]), load(sums[1]), load(sums[2]), load(sums[3])};
  const __m512i low01 = _mm512_shuffle_i32x4(sum[0], sum[1], 0x44);
  const __m512i low23 = _mm512_shuffle_i32x4(sum[2], sum[3], 0x44);
  const __m512i high01 = _mm512_shuffle_i32x4(sum[0], sum[1], 0xee);
  const __m512i high23 = _mm512_shuffle_i32x4(sum[2], sum[3], 0xee);
  const __m512i products[4] = {
      _mm512_shuffle_i32x4(low01, low23, 0x88), _mm512_shuffle_i32x4(low01, low23, 0xdd),
      _mm512_shuffle_i32x4(high01, high23, 0x88), _mm512_shuffle_i32x4(high01, high23, 0xdd)};
  for (int v = 0; v < 4; ++v) {
    const __m512 old = _mm512_mul_ps(_mm512_loadu_ps(output + 16 * v), kept);
    const __m512 added = _mm512_cvtepi32_ps(products[v]);
    _mm512_storeu_ps(output + 16 * v, _mm512_fmadd_ps(gained, added, old));
  }
}

// As many sums as registers hold stay there: all channels of a few queries, or half of those of
// many.
template <int queries, int runs>
QFA_INLINE void accumulate_runs(const int8_t* values, int64_t stride, int64_t channels,
                                const uint8_t* weights, const float* keep, const float* gain,
                                RowsAhead& ahead, float* output) {
  alignas(64) ChannelSums<queries> sums[runs];
  if constexpr (queries <= 4) {
    sum_channels<queries, runs, 0, 4>(values, stride, weights, ahead, sums);
  } else {
    sum_channels<queries, runs, 0, 2>(values, stride, weights, ahead, sums);
    sum_channels<queries, runs, 2, 2>(values, stride, weights, ahead, sums);
  }
  for (int r = 0; r < runs; ++r) {
    for (int q = 0; q < queries; ++q) {
      join(sums[r][q], keep[q], gain[q], output + q * channels + 64 * r);
    }
  }
}

template <int queries, int64_t fixed>
void accumulate_of(const int8_t* values, int64_t stride, int64_t any_channels,
                   const uint8_t* weights, const float* keep, const float* gain, float* output) {
  const int64_t channels = fixed != 0 ? fixed : any_channels;
  RowsAhead ahead(values, stride, channels);
  int64_t c = 0;
  if constexpr (queries <= 2) {
    for (; c + 128 <= channels; c += 128) {
      accumulate_runs<queries, 2>(values + c, stride, channels, weights, keep, gain, ahead,
                                  output + c);
    }
  }
  for (; c < channels; c += 64) {
    accumulate_runs<queries, 1>(values + c, stride, channels, weights, keep, gain, ahead,
                                output + c);
  }
}

template <int64_t fixed>
void scores_by(const int8_t* keys, int64_t stride, int64_t width, const int8_t* queries,
               int query_count, int key_count, int32_t* scores) {
  constexpr decltype(&scores_of<1, fixed>) kBy[kMostFew] = {
      scores_of<1, fixed>, scores_of<2, fixed>, scores_of<3, fixed>, scores_of<4, fixed>,
      scores_of<5, fixed>, scores_of<6, fixed>, scores_of<7, fixed>, scores_of<8, fixed>};
  kBy[query_count - 1](keys, stride, width, queries, key_count, scores);
}

template <int64_t fixed>
void accumulate_by(const int8_t* values, int64_t stride, int64_t channels, const uint8_t* weights,
                   int query_count, const float* keep, const float* gain, float* output) {
  constexpr decltype(&accumulate_of<1, fixed>) kBy[kMostFew] = {
      accumulate_of<1, fixed>, accumulate_of<2, fixed>, accumulate_of<3, fixed>,
      accumulate_of<4, fixed>, accumulate_of<5, fixed>, accumulate_of<6, fixed>,
      accumulate_of<7, fixed>, accumulate_of<8, fixed>};
  kBy[query_count - 1](values, stride, channels, weights, keep, gain, output);
}

}  // namespace

void few_scores_avx512vnni(const int8_t* keys, int64_t key_stride, int64_t width,
                           const int8_t* queries, int query_count, int key_count, int32_t* scores) {
  const auto by = width == kUsual[0]   ? scores_by<kUsual[0]>
                  : width == kUsual[1] ? scores_by<kUsual[1]>
                                       : scores_by<0>;
  by(keys, key_stride, width, queries, query_count, key_count, scores);
}

void few_accumulate_avx512vnni(const int8_t* values, int64_t value_stride, int64_t channels,
                               const uint8_t* weights, int query_count, const float* keep,
                               const float* gain, float* output) {
  const auto by = channels == kUsual[0]   ? accumulate_by<kUsual[0]>
                  : channels == kUsual[1] ? accumulate_by<kUsual[1]>
                                          : accumulate_by<0>;
  by(values, value_stride, channels, weights, query_count, keep, gain, output);
}

}  // namespace qfa
