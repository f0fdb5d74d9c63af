// A few queries against 4-bit codes with AVX-VNNI.
#include "kernels/x86/few_int4_256.h"

namespace qfa {
namespace {

struct Dot {
  static __m256i add(__m256i sum, __m256i a, __m256i x, __m256i b, __m256i y) {
    return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(sum, a, x), b, y);
  }
};

}  // namespace

void few_int4_scores_avxvnni(const uint8_t* codes, int64_t code_stride, const void* scale,
                             const int8_t* zero_point, int64_t channels, const float* queries,
                             int query_count, float* scores) {
  FewInt4<Dot>::scores(codes, code_stride, scale, zero_point, channels, queries, query_count,
                       scores);
}

void few_int4_accumulate_avxvnni(const Int4Values& values, const float* weights, int query_count,
                                 int key_count, const float* keep, float* output,
                                 int64_t output_stride) {
  FewInt4<Dot>::accumulate(values, weights, query_count, key_count, keep, output, output_stride);
}

}  // namespace qfa
