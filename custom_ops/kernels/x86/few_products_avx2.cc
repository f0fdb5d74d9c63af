// Integer products of a few queries with AVX2, exact: the byte multiply-add of AVX2 saturates at 16
// bits, so bytes are split into even and odd ones, widened, and multiplied in pairs of words.
#include <immintrin.h>

#include "kernels/x86/few_products.h"

namespace qfa {
namespace {

struct WordProduct {
  struct Codes {
    __m256i even, odd;
  };
  using Keys = Codes;
  using Values = Codes;
  static constexpr int kQueryBytes = 2 * kPart;
  static constexpr int kMostQueries = 4;
  static constexpr int kWeightInts = 2 * kGroups;

  static QFA_INLINE Codes split(__m256i codes) {
    return {_mm256_srai_epi16(_mm256_slli_epi16(codes, 8), 8), _mm256_srai_epi16(codes, 8)};
  }

  static QFA_INLINE void add(const Codes& codes, __m256i even, __m256i odd, __m256i& sum) {
    const __m256i products =
        _mm256_add_epi32(_mm256_madd_epi16(codes.even, even), _mm256_madd_epi16(codes.odd, odd));
    sum = _mm256_add_epi32(sum, products);
  }

  static QFA_INLINE void lay_out_query(__m256i codes, int8_t* to) {
    const Codes query = split(codes);
    store(to, query.even);
    store(to + kPart, query.odd);
  }
  static QFA_INLINE int32_t offset(const int8_t*, int64_t) { return 0; }
  static QFA_INLINE Keys keys(__m256i codes) { return split(codes); }
  static QFA_INLINE void add_keys(const Keys& keys, const int8_t* query, __m256i& sum) {
    add(keys, load(query), load(query + kPart), sum);
  }

  static QFA_INLINE void lay_out_weights(const uint8_t* weights, int32_t* to) {
    for (int i = 0; i < kGroups; i += 8) {
      const __m256i eight = load(weights + 4 * i);
      store(to + i, _mm256_and_si256(eight, _mm256_set1_epi16(0xff)));
      store(to + kGroups + i, _mm256_srli_epi16(eight, 8));
    }
  }
  static QFA_INLINE Values values(__m256i codes) { return split(codes); }
  static QFA_INLINE Codes weight(const int32_t* laid_out, int group) {
    return {_mm256_set1_epi32(laid_out[group]), _mm256_set1_epi32(laid_out[kGroups + group])};
  }
  static QFA_INLINE void add_values(const Values& values, const Codes& weight, __m256i& sum) {
    add(values, weight.even, weight.odd, sum);
  }
};

}  // namespace

void few_scores_avx2(const int8_t* keys, int64_t key_stride, int64_t width, const int8_t* queries,
                     int query_count, int key_count, int32_t* scores) {
  few_scores_of<WordProduct>(keys, key_stride, width, queries, query_count, key_count, scores);
}

void few_accumulate_avx2(const int8_t* values, int64_t value_stride, int64_t channels,
                         const uint8_t* weights, int query_count, const float* keep,
                         const float* gain, float* output) {
  few_accumulate_of<WordProduct>(values, value_stride, channels, weights, query_count, keep, gain,
                                 output);
}

}  // namespace qfa
