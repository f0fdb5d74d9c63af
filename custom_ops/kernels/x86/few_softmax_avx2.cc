// Softmax of a block of keys for a few queries with AVX2: lanes are keys. What is left of up to
// four queries, one number each, is joined side by side.
#include <immintrin.h>

#include "kernels/exp2.h"
#include "kernels/kernels.h"
#include "kernels/log2.h"

#define QFA_INLINE inline __attribute__((always_inline))

namespace qfa {
namespace {

constexpr int kAtOnce = 4;
constexpr int kWidth = 8;

QFA_INLINE __m256 exp2_of_nonpositive(__m256 x) {
  // A NaN becomes INT_MIN here, which the shift below turns into 0: NaN stays NaN.
  const __m256i exponent = _mm256_cvtps_epi32(x);
  const __m256 f = _mm256_sub_ps(x, _mm256_cvtepi32_ps(exponent));
  __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(kExp2C5), f, _mm256_set1_ps(kExp2C4));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2C3));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2C2));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2C1));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
  const __m256i bits = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(exponent, 23));
  const __m256 above = _mm256_cmp_ps(x, _mm256_set1_ps(kExp2Floor), _CMP_NLT_UQ);
  return _mm256_and_ps(_mm256_castsi256_ps(bits), above);
}

QFA_INLINE __m256 weight_exp2(__m256 x) {
  // As above, NaN stays NaN.
  const __m256i exponent = _mm256_cvttps_epi32(x);
  const __m256 f = _mm256_sub_ps(x, _mm256_cvtepi32_ps(exponent));
  __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(kWeightExp2C3), f, _mm256_set1_ps(kWeightExp2C2));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kWeightExp2C1));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
  const __m256i bits = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(exponent, 23));
  const __m256 above = _mm256_cmp_ps(x, _mm256_set1_ps(kExp2Floor), _CMP_NLT_UQ);
  return _mm256_and_ps(_mm256_castsi256_ps(bits), above);
}

QFA_INLINE __m128 exp2_of_four(__m128 x) {
  return _mm256_castps256_ps128(exp2_of_nonpositive(_mm256_set_m128(x, x)));
}

QFA_INLINE __m256 lowest() { return _mm256_set1_ps(-__builtin_inff()); }

// Exponents are measured against 0 where nothing is seen: all of them are -inf.
QFA_INLINE __m128 zero_for_nothing(__m128 largest) {
  return _mm_and_ps(largest, _mm_cmpneq_ps(largest, _mm_set1_ps(-__builtin_inff())));
}

// 16 numbers of a query, one for each key of 16.
struct Sixteen {
  __m256 low, high;
};

// Joins the 16 numbers of each of four queries in the order of BlockSum.
template <typename Join>
QFA_INLINE __m128 across(const Sixteen (&x)[kAtOnce], const Join& join) {
  const auto pairs = [&](__m256 a, __m256 b) {
    return join(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
  };
  const __m256 low = pairs(pairs(x[0].low, x[1].low), pairs(x[2].low, x[3].low));
  const __m256 high = pairs(pairs(x[0].high, x[1].high), pairs(x[2].high, x[3].high));
  const __m256 halves =
      join(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
  const __m256 whole = join(halves, _mm256_permute2f128_ps(halves, halves, 1));
  return _mm256_castps256_ps128(whole);
}

QFA_INLINE __m128 largest_of(const Sixteen (&x)[kAtOnce]) {
  return across(x, [](__m256 a, __m256 b) { return _mm256_max_ps(a, b); });
}

QFA_INLINE __m128 block_sum(const Sixteen (&x)[kAtOnce]) {
  return across(x, [](__m256 a, __m256 b) { return _mm256_add_ps(a, b); });
}

// One number for each of `count` queries.
class Four {
 public:
  explicit Four(int count)
      : live_(_mm_cmpgt_epi32(_mm_set1_epi32(count), _mm_setr_epi32(0, 1, 2, 3))) {}

  QFA_INLINE __m128 load(const float* from) const { return _mm_maskload_ps(from, live_); }
  QFA_INLINE void store(float* to, __m128 x) const { _mm_maskstore_ps(to, live_, x); }

 private:
  __m128i live_;
};

enum Masking { kNone, kLimits, kBias };

// The exponents of keys j to j + 7 after biases and limits.
template <Masking masking>
QFA_INLINE __m256 mask(__m256 u, int32_t limit, const float* bias_row, int j) {
  if (masking == kNone) return u;
  const __m256i keys =
      _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(j));
  __m256 seen = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(limit), keys));
  if (masking == kBias) {
    const __m256 bias = _mm256_loadu_ps(bias_row + j);
    seen = _mm256_and_ps(seen, _mm256_cmp_ps(bias, lowest(), _CMP_NEQ_UQ));
    u = _mm256_fmadd_ps(bias, _mm256_set1_ps(kLog2E), u);
  }
  return _mm256_blendv_ps(lowest(), u, seen);
}

// exponent(j) gives those of keys j to j + 7 before biases and limits. Writes them with biases and
// limits to u, and returns the largest of each 16.
template <Masking masking, typename Block, typename Exponent>
QFA_INLINE Sixteen exponents_of(const Block& b, int q, const Exponent& exponent, float* u) {
  const int32_t limit = b.limits != nullptr ? b.limits[q] : kKeyBlock;
  const float* bias = b.bias != nullptr ? b.bias + q * kKeyBlock : nullptr;
  Sixteen largest = {lowest(), lowest()};
  for (int j = 0; j < b.keys; j += 2 * kWidth) {
    const __m256 low = mask<masking>(exponent(j), limit, bias, j);
    const __m256 high = mask<masking>(exponent(j + kWidth), limit, bias, j + kWidth);
    _mm256_storeu_ps(u + j, low);
    _mm256_storeu_ps(u + j + kWidth, high);
    // The maximum takes its second operand when the first is NaN.
    largest.low = _mm256_max_ps(low, largest.low);
    largest.high = _mm256_max_ps(high, largest.high);
  }
  return largest;
}

// The low bytes of 16 integers.
QFA_INLINE __m128i low_bytes(__m256i low, __m256i high) {
  const __m256i byte = _mm256_set1_epi32(0xff);
  const __m256i words =
      _mm256_packus_epi32(_mm256_and_si256(low, byte), _mm256_and_si256(high, byte));
  const __m256i in_order = _mm256_permute4x64_epi64(words, 0xd8);
  return _mm_packus_epi16(_mm256_castsi256_si128(in_order), _mm256_extracti128_si256(in_order, 1));
}

template <Masking masking>
void softmax_of(const FewBlock& b, int first, int count) {
  alignas(32) float exponents[kAtOnce][kKeyBlock];
  Sixteen largest[kAtOnce];
  for (int i = 0; i < kAtOnce; ++i) {
    if (i >= count) {
      largest[i] = largest[0];
      continue;
    }
    const __m256 query_scale = _mm256_set1_ps(b.query_scale[first + i]);
    const auto* scores = reinterpret_cast<const __m256i*>(b.scores + (first + i) * kKeyBlock);
    const auto exponent = [&](int j) {
      const __m256 score = _mm256_cvtepi32_ps(_mm256_loadu_si256(scores + j / kWidth));
      return _mm256_fmadd_ps(_mm256_mul_ps(score, query_scale), _mm256_loadu_ps(b.key_scale + j),
                             _mm256_loadu_ps(b.value_log2 + j));
    };
    largest[i] = exponents_of<masking>(b, first + i, exponent, exponents[i]);
  }
  const __m128 most = largest_of(largest);
  alignas(16) float reference[kAtOnce];
  _mm_store_ps(reference, zero_for_nothing(most));

  const __m256 steps = _mm256_set1_ps(255.0f), shift = _mm256_set1_ps(0x1p23f);
  Sixteen part[kAtOnce];
  for (int i = 0; i < kAtOnce; ++i) {
    if (i >= count) {
      part[i] = part[0];
      continue;
    }
    const __m256 against = _mm256_set1_ps(reference[i]);
    Sixteen sum = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    auto* weights = reinterpret_cast<__m128i*>(b.weights + (first + i) * kKeyBlock);
    const auto weight = [&](int j, __m256& to) {
      const __m256 u = _mm256_load_ps(exponents[i] + j);
      const __m256 y = weight_exp2(_mm256_sub_ps(u, against));
      to = _mm256_fmadd_ps(y, _mm256_loadu_ps(b.value_inverse + j), to);
      return _mm256_castps_si256(_mm256_fmadd_ps(y, steps, shift));
    };
    for (int j = 0; j < kKeyBlock; j += 2 * kWidth, ++weights) {
      if (j >= b.keys) {
        _mm_storeu_si128(weights, _mm_setzero_si128());
        continue;
      }
      const __m256i low = weight(j, sum.low), high = weight(j + kWidth, sum.high);
      _mm_storeu_si128(weights, low_bytes(low, high));
    }
    part[i] = sum;
  }

  const Four four(count);
  const __m128 before = four.load(b.running_max + first);
  const __m128 joined = _mm_max_ps(most, before), base = zero_for_nothing(joined);
  const __m128 keep = exp2_of_four(_mm_sub_ps(before, base));
  const __m128 gain = exp2_of_four(_mm_sub_ps(most, base));
  const __m128 added = _mm_mul_ps(gain, block_sum(part));
  const __m128 total = four.load(b.running_sum + first);
  four.store(b.keep + first, keep);
  four.store(b.gain + first, gain);
  four.store(b.running_max + first, joined);
  four.store(b.running_sum + first, _mm_fmadd_ps(total, keep, added));
}

template <Masking masking>
void float_softmax_of(const FewFloatBlock& b, int first, int count) {
  Sixteen largest[kAtOnce];
  for (int i = 0; i < kAtOnce; ++i) {
    if (i >= count) {
      largest[i] = largest[0];
      continue;
    }
    float* scores = b.scores + (first + i) * kKeyBlock;
    const __m256 query_scale = _mm256_set1_ps(b.query_scale[first + i]);
    const auto exponent = [&](int j) {
      return _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(scores + j), query_scale),
                           _mm256_loadu_ps(b.spoil + j));
    };
    largest[i] = exponents_of<masking>(b, first + i, exponent, scores);
  }
  const Four four(count);
  const __m128 before = four.load(b.running_max + first);
  const __m128 most = _mm_max_ps(largest_of(largest), before), base = zero_for_nothing(most);
  const __m128 keep = exp2_of_four(_mm_sub_ps(before, base));
  alignas(16) float reference[kAtOnce];
  _mm_store_ps(reference, base);
  Sixteen part[kAtOnce];
  for (int i = 0; i < kAtOnce; ++i) {
    if (i >= count) {
      part[i] = part[0];
      continue;
    }
    float* scores = b.scores + (first + i) * kKeyBlock;
    const __m256 against = _mm256_set1_ps(reference[i]);
    Sixteen sum = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    const auto weight = [&](int j, __m256& to) {
      const __m256 y = exp2_of_nonpositive(_mm256_sub_ps(_mm256_loadu_ps(scores + j), against));
      to = _mm256_add_ps(to, y);
      _mm256_storeu_ps(scores + j, y);
    };
    for (int j = 0; j < b.keys; j += 2 * kWidth) {
      weight(j, sum.low);
      weight(j + kWidth, sum.high);
    }
    part[i] = sum;
  }
  const __m128 total = four.load(b.running_sum + first);
  four.store(b.keep + first, keep);
  four.store(b.running_max + first, most);
  four.store(b.running_sum + first, _mm_fmadd_ps(total, keep, block_sum(part)));
}

// Calls `of` for all queries of a block, four at once: of<masking>(first, count).
template <typename Block, typename Of>
QFA_INLINE void for_queries(const Block& b, const Of& of) {
  for (int first = 0; first < b.queries; first += kAtOnce) {
    const int left = b.queries - first, count = left < kAtOnce ? left : kAtOnce;
    if (b.bias != nullptr) {
      of.template operator()<kBias>(first, count);
    } else if (b.limits != nullptr) {
      of.template operator()<kLimits>(first, count);
    } else {
      of.template operator()<kNone>(first, count);
    }
  }
}

// As log2_of_scale of one number.
QFA_INLINE __m256 log2_of_scale(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i root = _mm256_set1_epi32(static_cast<int32_t>(kRootOfHalfBits));
  const __m256i exponent = _mm256_srai_epi32(_mm256_sub_epi32(bits, root), 23);
  const __m256i reduced = _mm256_sub_epi32(bits, _mm256_slli_epi32(exponent, 23));
  const __m256 z = _mm256_sub_ps(_mm256_castsi256_ps(reduced), _mm256_set1_ps(1.0f));
  __m256 p = _mm256_set1_ps(kLog2C9);
  constexpr float kRest[] = {kLog2C8, kLog2C7, kLog2C6, kLog2C5,
                             kLog2C4, kLog2C3, kLog2C2, kLog2C1};
  for (const float c : kRest) p = _mm256_add_ps(_mm256_mul_ps(p, z), _mm256_set1_ps(c));
  return _mm256_add_ps(_mm256_cvtepi32_ps(exponent), _mm256_mul_ps(p, z));
}

}  // namespace

void few_softmax_avx2(const FewBlock& block) {
  for_queries(block, [&]<Masking masking>(int first, int count) {
    softmax_of<masking>(block, first, count);
  });
}

void few_float_softmax_avx2(const FewFloatBlock& block) {
  for_queries(block, [&]<Masking masking>(int first, int count) {
    float_softmax_of<masking>(block, first, count);
  });
}

void value_scales_avx2(const void* scale, int count, float* log2, float* inverse) {
  const __m256 one = _mm256_set1_ps(1.0f), zero = _mm256_setzero_ps();
  const __m256 smallest = _mm256_set1_ps(kSmallestScale), nan = _mm256_set1_ps(__builtin_nanf(""));
  const __m256 of_zero = _mm256_set1_ps(kScaleOfZeroValue);
  for (int j = 0; j < count; j += kWidth) {
    const __m256 given =
        _mm256_loadu_ps(reinterpret_cast<const float*>(static_cast<const char*>(scale) + 4 * j));
    const __m256 is_scale =
        _mm256_and_ps(_mm256_cmp_ps(given, zero, _CMP_GE_OQ),
                      _mm256_cmp_ps(given, _mm256_set1_ps(__builtin_inff()), _CMP_LT_OQ));
    const __m256 is_zero = _mm256_cmp_ps(given, zero, _CMP_EQ_OQ);
    const __m256 s = _mm256_blendv_ps(_mm256_max_ps(given, smallest), of_zero, is_zero);
    _mm256_storeu_ps(log2 + j, _mm256_blendv_ps(nan, log2_of_scale(s), is_scale));
    _mm256_storeu_ps(inverse + j, _mm256_blendv_ps(one, _mm256_div_ps(one, s), is_scale));
  }
}

}  // namespace qfa
