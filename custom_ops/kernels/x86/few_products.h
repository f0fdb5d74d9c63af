// Integer products of a few queries in registers of 256 bits, for sets that differ in how they
// multiply. A Product says
//   kQueryBytes, lay_out_query(codes, to)      32 codes of a query, as a factor
//   offset(codes, width)                       what the sums of a query start from
//   Keys, keys(codes)                          32 codes of a key, as the other factor
//   add_keys(keys, query, sum)                 adds eight sums of products
//   kWeightInts, lay_out_weights(weights, to)  64 weights of a query, as factors
//   kMostQueries                               whose sums of channels stay in registers, up to 4
//   Values, values(codes)                      codes of eight channels of four keys
//   weight(laid_out, group)                    weights 4 * group to 4 * group + 3, as a factor
//   add_values(values, weight, sum)            adds eight sums of products
#ifndef QFA_KERNELS_X86_FEW_PRODUCTS_H_
#define QFA_KERNELS_X86_FEW_PRODUCTS_H_

#include <immintrin.h>

#include "kernels/kernels.h"
#include "kernels/x86/few_ahead.h"

namespace qfa {
namespace {

// Rows of K are up to this long.
constexpr int64_t kMostWidth = 1024;
constexpr int64_t kPart = 32;  // bytes of a register
constexpr int kGroups = kKeyBlock / 4;

QFA_INLINE __m256i load(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

QFA_INLINE void store(void* to, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(to), x); }

// Scores of four keys and `queries` queries; `laid_out` has `pitch` bytes for each query.
template <class Product, int queries>
QFA_INLINE void score_four(const int8_t* keys, int64_t stride, int64_t width,
                           const int8_t* laid_out, int64_t pitch, const int32_t* offset,
                           bool fetches, RowsAhead& ahead, int32_t* scores) {
  __m256i sum[queries][4];
#pragma GCC unroll 2
  for (int q = 0; q < queries; ++q) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) sum[q][k] = _mm256_setzero_si256();
  }
  for (int64_t c = 0; c < width; c += kPart, laid_out += Product::kQueryBytes) {
    if (fetches) ahead.fetch<4 * kPart / kLine>();
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const typename Product::Keys codes = Product::keys(load(keys + k * stride + c));
#pragma GCC unroll 2
      for (int q = 0; q < queries; ++q) {
        Product::add_keys(codes, laid_out + q * pitch, sum[q][k]);
      }
    }
  }
#pragma GCC unroll 2
  for (int q = 0; q < queries; ++q) {
    const __m256i first = _mm256_hadd_epi32(sum[q][0], sum[q][1]);
    const __m256i second = _mm256_hadd_epi32(sum[q][2], sum[q][3]);
    const __m256i halves = _mm256_hadd_epi32(first, second);
    const __m128i four =
        _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(scores + q * kKeyBlock),
                     _mm_add_epi32(four, _mm_set1_epi32(offset[q])));
  }
}

template <class Product>
void few_scores_of(const int8_t* keys, int64_t stride, int64_t width, const int8_t* queries,
                   int query_count, int key_count, int32_t* scores) {
  alignas(32) int8_t laid_out[kMostFew * kMostWidth / kPart * Product::kQueryBytes];
  const int64_t pitch = width / kPart * Product::kQueryBytes;
  int32_t offset[kMostFew];
  for (int q = 0; q < query_count; ++q) {
    const int8_t* codes = queries + q * width;
    int8_t* to = laid_out + q * pitch;
    for (int64_t c = 0; c < width; c += kPart, to += Product::kQueryBytes) {
      Product::lay_out_query(load(codes + c), to);
    }
    offset[q] = Product::offset(codes, width);
  }
  RowsAhead ahead(keys, stride, width);
  for (int j = 0; j < key_count; j += 4, keys += 4 * stride) {
    int q = 0;
    for (; q + 2 <= query_count; q += 2) {
      score_four<Product, 2>(keys, stride, width, laid_out + q * pitch, pitch, offset + q, q == 0,
                             ahead, scores + q * kKeyBlock + j);
    }
    if (q < query_count) {
      score_four<Product, 1>(keys, stride, width, laid_out + q * pitch, pitch, offset + q, q == 0,
                             ahead, scores + q * kKeyBlock + j);
    }
  }
}

// Sums of 32 channels; register v of a query holds channels 4 * v to 4 * v + 3 of each 16.
template <int queries>
using ChannelSums = int32_t[queries][4][8];

// Registers `from` to `from + count` of the sums: four rows of V are interleaved, so that 32 bits
// hold four keys of one channel.
template <class Product, int queries, int from, int count>
QFA_INLINE void sum_channels(const int8_t* values, int64_t stride, const int32_t* weights,
                             bool fetches, RowsAhead& ahead, ChannelSums<queries>& sums) {
  __m256i sum[count][queries];
#pragma GCC unroll 4
  for (int v = 0; v < count; ++v) {
#pragma GCC unroll 4
    for (int q = 0; q < queries; ++q) sum[v][q] = _mm256_setzero_si256();
  }
  for (int group = 0; group < kGroups; ++group, values += 4 * stride) {
    if (from == 0 && fetches) ahead.fetch<4 * kPart / kLine>();
    const __m256i row[4] = {load(values), load(values + stride), load(values + 2 * stride),
                            load(values + 3 * stride)};
    __m256i channels[4];
    if (from == 0) {
      const __m256i low01 = _mm256_unpacklo_epi8(row[0], row[1]);
      const __m256i low23 = _mm256_unpacklo_epi8(row[2], row[3]);
      channels[0] = _mm256_unpacklo_epi16(low01, low23);
      channels[1] = _mm256_unpackhi_epi16(low01, low23);
    }
    if (from + count == 4) {
      const __m256i high01 = _mm256_unpackhi_epi8(row[0], row[1]);
      const __m256i high23 = _mm256_unpackhi_epi8(row[2], row[3]);
      channels[2] = _mm256_unpacklo_epi16(high01, high23);
      channels[3] = _mm256_unpackhi_epi16(high01, high23);
    }
    typename Product::Values codes[count];
#pragma GCC unroll 4
    for (int v = 0; v < count; ++v) codes[v] = Product::values(channels[from + v]);
#pragma GCC unroll 4
    for (int q = 0; q < queries; ++q) {
      const auto weight = Product::weight(weights + q * Product::kWeightInts, group);
#pragma GCC unroll 4
      for (int v = 0; v < count; ++v) Product::add_values(codes[v], weight, sum[v][q]);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < count; ++v) {
#pragma GCC unroll 4
    for (int q = 0; q < queries; ++q) store(sums[q][from + v], sum[v][q]);
  }
}

// Adds 32 channels of one query to its output.
QFA_INLINE void join(const int32_t (&sums)[4][8], float keep, float gain, float* output) {
  const __m256 kept = _mm256_set1_ps(keep), gained = _mm256_set1_ps(gain);
  const __m256i sum[4] = {load(sums[0]), load(sums[1]), load(sums[2]), load(sums[3])};
  const __m256i products[4] = {_mm256_permute2x128_si256(sum[0], sum[1], 0x20),
                               _mm256_permute2x128_si256(sum[2], sum[3], 0x20),
                               _mm256_permute2x128_si256(sum[0], sum[1], 0x31),
                               _mm256_permute2x128_si256(sum[2], sum[3], 0x31)};
  for (int v = 0; v < 4; ++v) {
    const __m256 old = _mm256_mul_ps(_mm256_loadu_ps(output + 8 * v), kept);
    const __m256 added = _mm256_cvtepi32_ps(products[v]);
    _mm256_storeu_ps(output + 8 * v, _mm256_fmadd_ps(gained, added, old));
  }
}

template <class Product, int queries>
void accumulate_queries(const int8_t* values, int64_t stride, int64_t channels,
                        const int32_t* weights, const float* keep, const float* gain, bool fetches,
                        float* output) {
  RowsAhead ahead(values, stride, channels);
  for (int64_t c = 0; c < channels; c += kPart) {
    alignas(32) ChannelSums<queries> sums;
    if constexpr (queries <= 2) {
      sum_channels<Product, queries, 0, 4>(values + c, stride, weights, fetches, ahead, sums);
    } else {
      sum_channels<Product, queries, 0, 2>(values + c, stride, weights, fetches, ahead, sums);
      sum_channels<Product, queries, 2, 2>(values + c, stride, weights, fetches, ahead, sums);
    }
    for (int q = 0; q < queries; ++q) join(sums[q], keep[q], gain[q], output + q * channels + c);
  }
}

template <class Product>
void few_accumulate_of(const int8_t* values, int64_t stride, int64_t channels,
                       const uint8_t* weights, int query_count, const float* keep,
                       const float* gain, float* output) {
  alignas(32) int32_t laid_out[kMostFew * Product::kWeightInts];
  for (int q = 0; q < query_count; ++q) {
    Product::lay_out_weights(weights + q * kKeyBlock, laid_out + q * Product::kWeightInts);
  }
  constexpr int kAtOnce = Product::kMostQueries;
  for (int q = 0; q < query_count; q += kAtOnce) {
    constexpr decltype(&accumulate_queries<Product, 1>) kBy[] = {
        accumulate_queries<Product, 1>, accumulate_queries<Product, 2>,
        accumulate_queries<Product, 3>, accumulate_queries<Product, 4>};
    const int left = query_count - q;
    kBy[(left < kAtOnce ? left : kAtOnce) - 1](values, stride, channels,
                                               laid_out + q * Product::kWeightInts, keep + q,
                                               gain + q, q == 0, output + q * channels);
  }
}

}  // namespace
}  // namespace qfa

#endif  // QFA_KERNELS_X86_FEW_PRODUCTS_H_
