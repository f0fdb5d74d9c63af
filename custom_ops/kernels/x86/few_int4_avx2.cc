// A few queries against 4-bit codes with AVX2.
#include "kernels/x86/few_int4_256.h"

namespace qfa {
namespace {

struct Dot {
  static __m256i add(__m256i sum, __m256i a, __m256i x, __m256i b, __m256i y) {
    const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(a, x), _mm256_maddubs_epi16(b, y));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

}  // namespace

void few_int4_scores_avx2(const uint8_t* codes, int64_t code_stride, const void* scale,
                          const int8_t* zero_point, int64_t channels, const float* queries,
                          int query_count, float* scores) {
  FewInt4<Dot>::scores(codes, code_stride, scale, zero_point, channels, queries, query_count,
                       scores);
}

void few_int4_accumulate_avx2(const Int4Values& values, const float* weights, int query_count,
                              int key_count, const float* keep, float* output,
                              int64_t output_stride) {
  FewInt4<Dot>::accumulate(values, weights, query_count, key_count, keep, output, output_stride);
}

}  // namespace qfa
