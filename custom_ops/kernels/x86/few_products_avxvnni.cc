// Integer products of a few queries with the 256-bit dot product of AVX-VNNI.
#include <immintrin.h>

#include "kernels/x86/few_products.h"

namespace qfa {
namespace {

struct DotProduct {
  using Keys = __m256i;
  using Values = __m256i;
  static constexpr int kQueryBytes = kPart;
  static constexpr int kMostQueries = 2;
  static constexpr int kWeightInts = kGroups;

  // sum += four unsigned codes of each lane times four signed codes. In assembly because GCC 12
  // copies accumulators around the intrinsic.
  static QFA_INLINE void dot(__m256i unsigned_codes, __m256i signed_codes, __m256i& sum) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(unsigned_codes), "x"(signed_codes));
  }
  // A key's codes count as unsigned, 128 too much.
  static QFA_INLINE __m256i middle() { return _mm256_set1_epi8(-128); }

  static QFA_INLINE void lay_out_query(__m256i codes, int8_t* to) { store(to, codes); }
  static QFA_INLINE int32_t offset(const int8_t* codes, int64_t width) {
    __m256i sum = _mm256_setzero_si256();
    for (int64_t c = 0; c < width; c += kPart) dot(middle(), load(codes + c), sum);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    four = _mm_hadd_epi32(four, four);
    return -_mm_cvtsi128_si32(_mm_hadd_epi32(four, four));
  }
  static QFA_INLINE Keys keys(__m256i codes) { return _mm256_xor_si256(codes, middle()); }
  static QFA_INLINE void add_keys(Keys keys, const int8_t* query, __m256i& sum) {
    dot(keys, load(query), sum);
  }

  static QFA_INLINE void lay_out_weights(const uint8_t* weights, int32_t* to) {
    store(to, load(weights));
    store(to + 8, load(weights + kPart));
  }
  static QFA_INLINE Values values(__m256i codes) { return codes; }
  static QFA_INLINE __m256i weight(const int32_t* laid_out, int group) {
    return _mm256_set1_epi32(laid_out[group]);
  }
  static QFA_INLINE void add_values(Values values, __m256i weight, __m256i& sum) {
    dot(weight, values, sum);
  }
};

}  // namespace

void few_scores_avxvnni(const int8_t* keys, int64_t key_stride, int64_t width,
                        const int8_t* queries, int query_count, int key_count, int32_t* scores) {
  few_scores_of<DotProduct>(keys, key_stride, width, queries, query_count, key_count, scores);
}

void few_accumulate_avxvnni(const int8_t* values, int64_t value_stride, int64_t channels,
                            const uint8_t* weights, int query_count, const float* keep,
                            const float* gain, float* output) {
  few_accumulate_of<DotProduct>(values, value_stride, channels, weights, query_count, keep, gain,
                                output);
}

}  // namespace qfa
