// Softmax of a block of keys for a few queries with AVX-512: lanes are keys. Up to four queries go
// side by side, so that the steps of one hide the latency of the others.
#include <immintrin.h>

#include "kernels/exp2.h"
#include "kernels/kernels.h"
#include "kernels/log2.h"

#define QFA_INLINE inline __attribute__((always_inline))

namespace qfa {
namespace {

constexpr int kAtOnce = 4;
constexpr int kChunks = kKeyBlock / 16;

QFA_INLINE __m512 exp2_of_nonpositive(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(kExp2C5), f, _mm512_set1_ps(kExp2C4));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2C3));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2C2));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2C1));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  // Not-less-than is true for NaN, which therefore stays.
  const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kExp2Floor), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(above, p, whole);
}

QFA_INLINE __m512 weight_exp2(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(kWeightExp2C3), f, _mm512_set1_ps(kWeightExp2C2));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kWeightExp2C1));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  // Nothing is compared with the floor: what lies below it is flushed to zero, see FloatMode.
  return _mm512_scalef_ps(p, _mm512_sub_ps(x, f));
}

QFA_INLINE __m512 lowest() { return _mm512_set1_ps(-__builtin_inff()); }

// Exponents are measured against 0 where nothing is seen: all of them are -inf.
QFA_INLINE __m512 zero_for_nothing(__m512 largest) {
  const __mmask16 something = _mm512_cmp_ps_mask(largest, lowest(), _CMP_NEQ_OQ);
  return _mm512_maskz_mov_ps(something, largest);
}

// Joins the 16 lanes of each of up to four vectors in the order of BlockSum; element q of each 128
// bits of the result is that of vector q.
template <int count, typename Join>
QFA_INLINE __m512 across(const __m512 (&x)[count], const Join& join) {
  const auto pairs = [&](__m512 a, __m512 b) {
    return join(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
  };
  const __m512 first = pairs(x[0], x[count > 1 ? 1 : 0]);
  const __m512 second = count > 2 ? pairs(x[count > 2 ? 2 : 0], x[count > 3 ? 3 : 0]) : first;
  const __m512 columns = pairs(first, second);
  const __m512 halves = join(columns, _mm512_shuffle_f32x4(columns, columns, 0xb1));
  return join(halves, _mm512_shuffle_f32x4(halves, halves, 0x4e));
}

template <int count>
QFA_INLINE __m512 largest_of(const __m512 (&x)[count]) {
  return across(x, [](__m512 a, __m512 b) { return _mm512_max_ps(a, b); });
}

template <int count>
QFA_INLINE __m512 block_sum(const __m512 (&x)[count]) {
  return across(x, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); });
}

// Element q of each 128 bits in all lanes.
template <int q>
QFA_INLINE __m512 spread(__m512 x) {
  return _mm512_permute_ps(x, q * 0x55);
}

QFA_INLINE __m512 spread(__m512 x, int q) {
  return q == 0 ? spread<0>(x) : q == 1 ? spread<1>(x) : q == 2 ? spread<2>(x) : spread<3>(x);
}

// What happened before this block, and what it changes, for `count` queries from the first.
template <int count>
struct Joined {
  static constexpr __mmask16 kLive = (1 << count) - 1;

  static __m512 load(const float* from) { return _mm512_maskz_loadu_ps(kLive, from); }
  static void store(float* to, __m512 x) { _mm512_mask_storeu_ps(to, kLive, x); }
};

// How much of a block is hidden. Keys beyond those of a block are hidden like those beyond a limit.
enum Masking { kNone, kLimits, kBias };

struct Masks {
  int keys;
  const int32_t* limits;
  const float* bias;
};

// Exponents after biases and limits, for chunk i of query q.
template <Masking masking>
QFA_INLINE __m512 mask(const Masks& masks, __m512 u, int q, int i) {
  if (masking == kNone) return u;
  const __m512i keys =
      _mm512_add_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                       _mm512_set1_epi32(16 * i));
  int32_t limit = masks.keys;
  if (masks.limits != nullptr && masks.limits[q] < limit) limit = masks.limits[q];
  __mmask16 seen = _mm512_cmplt_epi32_mask(keys, _mm512_set1_epi32(limit));
  if (masking == kBias) {
    const __m512 bias = _mm512_loadu_ps(masks.bias + q * kKeyBlock + 16 * i);
    seen &= _mm512_cmp_ps_mask(bias, lowest(), _CMP_NEQ_UQ);
    u = _mm512_fmadd_ps(bias, _mm512_set1_ps(kLog2E), u);
  }
  return _mm512_mask_blend_ps(seen, lowest(), u);
}

// Row entries of chunk i, 0 beyond the keys of the block.
template <Masking masking>
QFA_INLINE __m512 load_row(const float* row, int keys, int i) {
  const bool is_whole = masking == kNone || 16 * i < keys;
  return is_whole ? _mm512_loadu_ps(row + 16 * i) : _mm512_setzero_ps();
}

template <Masking masking, int count>
void softmax_of(const FewBlock& b, int first) {
  const Masks masks = {b.keys, b.limits, b.bias};
  __m512 u[count][kChunks], largest[count];
#pragma GCC unroll 4
  for (int i = 0; i < kChunks; ++i) {
    const __m512 key_scale = load_row<masking>(b.key_scale, b.keys, i);
    const __m512 value_log2 = load_row<masking>(b.value_log2, b.keys, i);
#pragma GCC unroll 4
    for (int q = 0; q < count; ++q) {
      const __m512i score = _mm512_loadu_si512(b.scores + (first + q) * kKeyBlock + 16 * i);
      const __m512 t =
          _mm512_mul_ps(_mm512_cvtepi32_ps(score), _mm512_set1_ps(b.query_scale[first + q]));
      u[q][i] = mask<masking>(masks, _mm512_fmadd_ps(t, key_scale, value_log2), first + q, i);
      // The maximum takes its second operand when u is NaN.
      largest[q] = _mm512_max_ps(u[q][i], i == 0 ? lowest() : largest[q]);
    }
  }
  const __m512 most = largest_of(largest), reference = zero_for_nothing(most);

  const __m512 steps = _mm512_set1_ps(255.0f), shift = _mm512_set1_ps(0x1p23f);
  __m512 part[count];
#pragma GCC unroll 4
  for (int i = 0; i < kChunks; ++i) {
    const __m512 inverse = load_row<masking>(b.value_inverse, b.keys, i);
#pragma GCC unroll 4
    for (int q = 0; q < count; ++q) {
      const __m512 y = weight_exp2(_mm512_sub_ps(u[q][i], spread(reference, q)));
      part[q] = _mm512_fmadd_ps(y, inverse, i == 0 ? _mm512_setzero_ps() : part[q]);
      const __m512i code = _mm512_castps_si512(_mm512_fmadd_ps(y, steps, shift));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(b.weights + (first + q) * kKeyBlock + 16 * i),
                       _mm512_cvtepi32_epi8(code));
    }
  }

  using Of = Joined<count>;
  const __m512 before = Of::load(b.running_max + first);
  const __m512 joined = _mm512_max_ps(most, before), base = zero_for_nothing(joined);
  const __m512 keep = exp2_of_nonpositive(_mm512_sub_ps(before, base));
  const __m512 gain = exp2_of_nonpositive(_mm512_sub_ps(most, base));
  const __m512 added = _mm512_mul_ps(gain, block_sum(part));
  const __m512 total = Of::load(b.running_sum + first);
  Of::store(b.keep + first, keep);
  Of::store(b.gain + first, gain);
  Of::store(b.running_max + first, joined);
  Of::store(b.running_sum + first, _mm512_fmadd_ps(total, keep, added));
}

template <Masking masking, int count>
void float_softmax_of(const FewFloatBlock& b, int first) {
  const Masks masks = {b.keys, b.limits, b.bias};
  __m512 u[count][kChunks], largest[count];
#pragma GCC unroll 4
  for (int i = 0; i < kChunks; ++i) {
    const __m512 spoil = load_row<masking>(b.spoil, b.keys, i);
#pragma GCC unroll 4
    for (int q = 0; q < count; ++q) {
      const __m512 query_scale = _mm512_set1_ps(b.query_scale[first + q]);
      const __m512 score = _mm512_loadu_ps(b.scores + (first + q) * kKeyBlock + 16 * i);
      const __m512 scaled = _mm512_add_ps(_mm512_mul_ps(score, query_scale), spoil);
      u[q][i] = mask<masking>(masks, scaled, first + q, i);
      largest[q] = _mm512_max_ps(u[q][i], i == 0 ? lowest() : largest[q]);
    }
  }
  using Of = Joined<count>;
  const __m512 before = Of::load(b.running_max + first);
  const __m512 most = _mm512_max_ps(largest_of(largest), before), base = zero_for_nothing(most);
  const __m512 keep = exp2_of_nonpositive(_mm512_sub_ps(before, base));
  // The queries stand in the first 128 bits only.
  const __m512 everywhere = _mm512_shuffle_f32x4(base, base, 0);
  __m512 part[count];
#pragma GCC unroll 4
  for (int i = 0; i < kChunks; ++i) {
#pragma GCC unroll 4
    for (int q = 0; q < count; ++q) {
      const __m512 weight = exp2_of_nonpositive(_mm512_sub_ps(u[q][i], spread(everywhere, q)));
      part[q] = i == 0 ? weight : _mm512_add_ps(part[q], weight);
      if (masking == kNone || 16 * i < b.keys) {
        _mm512_storeu_ps(b.scores + (first + q) * kKeyBlock + 16 * i, weight);
      }
    }
  }
  const __m512 total = Of::load(b.running_sum + first);
  Of::store(b.keep + first, keep);
  Of::store(b.running_max + first, most);
  Of::store(b.running_sum + first, _mm512_fmadd_ps(total, keep, block_sum(part)));
}

// Calls `of` for all queries of a block, at most four at once: of(masking, count, first).
template <typename Block, typename Of>
QFA_INLINE void for_queries(const Block& b, const Of& of) {
  for (int first = 0; first < b.queries; first += kAtOnce) {
    const int left = b.queries - first;
    if (b.bias != nullptr) {
      of.template operator()<kBias>(left, first);
    } else if (b.limits != nullptr || b.keys < kKeyBlock) {
      of.template operator()<kLimits>(left, first);
    } else {
      of.template operator()<kNone>(left, first);
    }
  }
}

// As log2_of_scale of one number.
QFA_INLINE __m512 log2_of_scale(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i root = _mm512_set1_epi32(static_cast<int32_t>(kRootOfHalfBits));
  const __m512i exponent = _mm512_srai_epi32(_mm512_sub_epi32(bits, root), 23);
  const __m512i reduced = _mm512_sub_epi32(bits, _mm512_slli_epi32(exponent, 23));
  const __m512 z = _mm512_sub_ps(_mm512_castsi512_ps(reduced), _mm512_set1_ps(1.0f));
  __m512 p = _mm512_set1_ps(kLog2C9);
  constexpr float kRest[] = {kLog2C8, kLog2C7, kLog2C6, kLog2C5,
                             kLog2C4, kLog2C3, kLog2C2, kLog2C1};
  for (const float c : kRest) p = _mm512_add_ps(_mm512_mul_ps(p, z), _mm512_set1_ps(c));
  return _mm512_add_ps(_mm512_cvtepi32_ps(exponent), _mm512_mul_ps(p, z));
}

}  // namespace

void few_softmax_avx512vnni(const FewBlock& block) {
  for_queries(block, [&]<Masking masking>(int left, int first) {
    constexpr decltype(&softmax_of<masking, 1>) kBy[kAtOnce] = {
        softmax_of<masking, 1>, softmax_of<masking, 2>, softmax_of<masking, 3>,
        softmax_of<masking, 4>};
    kBy[(left < kAtOnce ? left : kAtOnce) - 1](block, first);
  });
}

void few_float_softmax_avx512vnni(const FewFloatBlock& block) {
  for_queries(block, [&]<Masking masking>(int left, int first) {
    constexpr decltype(&float_softmax_of<masking, 1>) kBy[kAtOnce] = {
        float_softmax_of<masking, 1>, float_softmax_of<masking, 2>, float_softmax_of<masking, 3>,
        float_softmax_of<masking, 4>};
    kBy[(left < kAtOnce ? left : kAtOnce) - 1](block, first);
  });
}

void value_scales_avx512vnni(const void* scale, int count, float* log2, float* inverse) {
  const __m512 one = _mm512_set1_ps(1.0f), zero = _mm512_setzero_ps();
  const __m512 smallest = _mm512_set1_ps(kSmallestScale);
  const __m512 infinity = _mm512_set1_ps(__builtin_inff()),
               nan = _mm512_set1_ps(__builtin_nanf(""));
  for (int j = 0; j < count; j += 16) {
    __m512 s = _mm512_loadu_ps(static_cast<const char*>(scale) + 4 * j);
    const __mmask16 is_scale =
        _mm512_cmp_ps_mask(s, zero, _CMP_GE_OQ) & _mm512_cmp_ps_mask(s, infinity, _CMP_LT_OQ);
    const __mmask16 is_zero = _mm512_cmp_ps_mask(s, zero, _CMP_EQ_OQ);
    s = _mm512_max_ps(s, smallest);
    s = _mm512_mask_blend_ps(is_zero, s, _mm512_set1_ps(kScaleOfZeroValue));
    const __m512 logarithm = log2_of_scale(s);
    _mm512_storeu_ps(log2 + j, _mm512_mask_blend_ps(is_scale, nan, logarithm));
    _mm512_storeu_ps(inverse + j, _mm512_mask_div_ps(one, is_scale, one, s));
  }
}

}  // namespace qfa
