// A few queries against 4-bit codes with NEON; see formats.h. Both halves of a byte are split where
// they lie, so that even and odd channels have registers of their own.
#include "kernels/arm/few_products.h"

namespace qfa {
namespace {

constexpr int64_t kMostChannels = 1024;
constexpr int kByteChannels = 32;  // channels in 16 bytes of codes
constexpr int64_t kMostChunks = kMostChannels / kByteChannels;

const char* at(const void* base, int64_t bytes) { return static_cast<const char*>(base) + bytes; }

QFA_INLINE uint8x16_t even_channels(uint8x16_t codes) { return vandq_u8(codes, vdupq_n_u8(15)); }
QFA_INLINE uint8x16_t odd_channels(uint8x16_t codes) { return vshrq_n_u8(codes, 4); }

QFA_INLINE float32x4_t floats_of_halves(const void* halfs) {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(static_cast<const uint8_t*>(halfs))));
}

// Scores.

// A query that holds the scales of the keys: codes of the even and of the odd channels of each
// chunk.
struct FoldedQuery {
  alignas(16) int8_t even[kMostChannels / 2];
  alignas(16) int8_t odd[kMostChannels / 2];
  float scale;
  int32_t zero;  // sum of code * zero point
};

// The bytes of a row in chunks of 16. The last chunk ends with the row: it may begin with channels
// that others hold, which are 0 in the queries.
struct Chunks {
  explicit Chunks(int64_t channels) : bytes((channels + 1) / 2), count((bytes + 15) / 16) {}
  int64_t place(int64_t chunk) const { return chunk + 1 < count ? 16 * chunk : bytes - 16; }

  int64_t bytes, count;
};

void fold_query(const float* query, const void* scale, const int8_t* zero_point, int64_t channels,
                const Chunks& chunks, FoldedQuery& folded) {
  float values[kMostChannels];
  int64_t c = 0;
  for (; c + 4 <= channels; c += 4) {
    vst1q_f32(values + c, vmulq_f32(vld1q_f32(query + c), floats_of_halves(at(scale, 2 * c))));
  }
  if (c < channels) {
    uint64_t halfs = 0;
    float rest[4] = {};
    __builtin_memcpy(&halfs, at(scale, 2 * c), static_cast<size_t>(2 * (channels - c)));
    __builtin_memcpy(rest, query + c, static_cast<size_t>(4 * (channels - c)));
    vst1q_f32(rest, vmulq_f32(vld1q_f32(rest), floats_of_halves(&halfs)));
    __builtin_memcpy(values + c, rest, static_cast<size_t>(4 * (channels - c)));
  }
  int8_t codes[kMostChannels + kByteChannels];
  folded.scale = quantize_row_neondot(values, channels, 0.0f, codes);
  __builtin_memset(codes + channels, 0, kByteChannels);

  int32x4_t zero = vdupq_n_s32(0);
  for (c = 0; c + 16 <= channels; c += 16) {
    zero = vdotq_s32(zero, vld1q_s8(codes + c), vld1q_s8(zero_point + c));
  }
  folded.zero = vaddvq_s32(zero);
  for (; c < channels; ++c) folded.zero += codes[c] * zero_point[c];

  for (int64_t i = 0; i < chunks.count; ++i) {
    int8_t last[kByteChannels];
    const int8_t* from = codes + kByteChannels * i;
    if (i + 1 == chunks.count) {
      const int64_t held = kByteChannels * i - 2 * chunks.place(i);
      __builtin_memset(last, 0, sizeof(last));
      __builtin_memcpy(last + held, from, static_cast<size_t>(kByteChannels - held));
      from = last;
    }
    const int8x16x2_t split = vld2q_s8(from);
    vst1q_s8(folded.even + 16 * i, split.val[0]);
    vst1q_s8(folded.odd + 16 * i, split.val[1]);
  }
}

// Products of `count` queries with `rows` keys at a time.
template <int count, int rows>
void score(const uint8_t* codes, int64_t code_stride, const Chunks& chunks,
           const FoldedQuery* queries, float* scores) {
  for (int j = 0; j < kInt4KeyGroup; j += rows) {
    int32x4_t sum[count][rows];
    for (int q = 0; q < count; ++q) {
      for (int r = 0; r < rows; ++r) sum[q][r] = vdupq_n_s32(0);
    }
    for (int64_t i = 0; i < chunks.count; ++i) {
      const uint8_t* key = codes + j * code_stride + chunks.place(i);
      int8x16_t even[count], odd[count];
#pragma GCC unroll 4
      for (int q = 0; q < count; ++q) {
        even[q] = vld1q_s8(queries[q].even + 16 * i);
        odd[q] = vld1q_s8(queries[q].odd + 16 * i);
      }
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const uint8x16_t bytes = vld1q_u8(key + r * code_stride);
        const int8x16_t low = vreinterpretq_s8_u8(even_channels(bytes));
        const int8x16_t high = vreinterpretq_s8_u8(odd_channels(bytes));
#pragma GCC unroll 4
        for (int q = 0; q < count; ++q) {
          sum[q][r] = vdotq_s32(vdotq_s32(sum[q][r], low, even[q]), high, odd[q]);
        }
      }
    }
    for (int q = 0; q < count; ++q) {
      for (int r = 0; r < rows; r += 4) {
        const int32x4_t first = vpaddq_s32(sum[q][r], sum[q][r + 1]);
        const int32x4_t second = vpaddq_s32(sum[q][r + 2], sum[q][r + 3]);
        const int32x4_t total = vsubq_s32(vpaddq_s32(first, second), vdupq_n_s32(queries[q].zero));
        vst1q_f32(scores + q * kKeyBlock + j + r,
                  vmulq_n_f32(vcvtq_f32_s32(total), queries[q].scale));
      }
    }
  }
}

// Values.

// What the groups of channels of a block share, group by group.
struct Shared {
  alignas(16) float scale[kMostChunks][kKeyBlock];
  alignas(16) uint8_t zero_point[kMostChunks][kKeyBlock];  // plus 128
};

void read_shared(const Int4Values& values, int64_t groups, int key_count, Shared& shared) {
  alignas(16) uint16_t halfs[kMostChunks][kKeyBlock];
  int j = 0;
  if (groups == 4 && values.scale_stride == 4) {
    for (; j + 8 <= key_count; j += 8) {
      // Scales may be unaligned.
      uint16_t copy[32];
      __builtin_memcpy(copy, at(values.scale, 8 * j), sizeof(copy));
      const uint16x8x4_t scale = vld4q_u16(copy);
      const uint8x8x4_t zero = vld4_u8(reinterpret_cast<const uint8_t*>(values.zero_point) + 4 * j);
      for (int g = 0; g < 4; ++g) {
        vst1q_u16(halfs[g] + j, scale.val[g]);
        vst1_u8(shared.zero_point[g] + j, veor_u8(zero.val[g], vdup_n_u8(128)));
      }
    }
  }
  for (; j < key_count; ++j) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t place = j * values.scale_stride + g;
      __builtin_memcpy(&halfs[g][j], at(values.scale, 2 * place), 2);
      shared.zero_point[g][j] = static_cast<uint8_t>(values.zero_point[place] + 128);
    }
  }
  for (int64_t g = 0; g < groups; ++g) {
    for (j = key_count; j < kKeyBlock; ++j) halfs[g][j] = shared.zero_point[g][j] = 0;
    for (j = 0; j < kKeyBlock; j += 4) {
      vst1q_f32(shared.scale[g] + j, floats_of_halves(halfs[g] + j));
    }
  }
}

// The weights of one query for one group of channels as codes.
struct Weights {
  alignas(16) uint8_t codes[kKeyBlock];
  float step;
  int32_t zero;  // sum of code * zero point
};

void weigh(const float* weights, int key_count, const float* scale, const uint8_t* zero_point,
           Weights& target) {
  const uint32_t indices[4] = {0, 1, 2, 3};
  const uint32x4_t index = vld1q_u32(indices);
  alignas(16) float scaled[kKeyBlock];
  uint32x4_t greatest = vdupq_n_u32(0);
  for (int j = 0; j < kKeyBlock; j += 4) {
    uint32x4_t bits = vdupq_n_u32(0);
    if (j < key_count) {
      const float32x4_t y = vld1q_f32(weights + j);
      bits = vbicq_u32(vreinterpretq_u32_f32(vmulq_f32(y, vld1q_f32(scale + j))), vceqzq_f32(y));
      if (key_count - j < 4) {
        bits = vandq_u32(bits, vcltq_u32(index, vdupq_n_u32(static_cast<uint32_t>(key_count - j))));
      }
    }
    greatest = vmaxq_u32(greatest, bits);  // numbers below 0 order above infinity, as NaN does
    vst1q_f32(scaled + j, vreinterpretq_f32_u32(bits));
  }
  const uint32_t most_bits = vmaxvq_u32(greatest);
  const float most = __builtin_bit_cast(float, most_bits);
  if (most_bits >= 0x7f800000u) {
    target.step = __builtin_nanf("");
    target.zero = 0;
    __builtin_memset(target.codes, 0, sizeof(target.codes));
    return;
  }
  const float step = most / 255.0f;
  const bool tiny = step < kSmallestScale;
  target.step = tiny ? kSmallestScale : step;
  const float32x4_t inverse = vdupq_n_f32(tiny ? 1.0f / kSmallestScale : 255.0f / most);
  const float32x4_t shift = vdupq_n_f32(0x1p23f);
  uint32x4_t with_zero = vdupq_n_u32(0), with_shift = vdupq_n_u32(0);
  for (int j = 0; j < kKeyBlock; j += 16) {
    uint16x8_t code[4];
    for (int i = 0; i < 4; ++i) {
      const float32x4_t w = vld1q_f32(scaled + j + 4 * i);
      code[i] = vreinterpretq_u16_f32(vfmaq_f32(shift, w, inverse));
    }
    // The code is the low byte of each lane.
    const uint16x8_t low = vuzp1q_u16(code[0], code[1]), high = vuzp1q_u16(code[2], code[3]);
    const uint8x16_t codes = vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
    with_zero = vdotq_u32(with_zero, codes, vld1q_u8(zero_point + j));
    with_shift = vdotq_u32(with_shift, codes, vdupq_n_u8(128));
    vst1q_u8(target.codes + j, codes);
  }
  target.zero = static_cast<int32_t>(vaddvq_u32(vsubq_u32(with_zero, with_shift)));
}

// One strip of channels: rows of codes and where the output goes.
struct Strip {
  const uint8_t* rows;
  int64_t stride;
  int keys;          // rows that can be read
  int64_t channels;  // that are written
  const float* keep;
  float* output;
  int64_t output_stride;
};

// Products of `count` queries with 8 * registers channels; weights[q] are those of the queries. A
// `whole` strip has 64 keys.
template <int count, int registers, bool whole>
void accumulate_strip(const Strip& strip, const Weights* const (&weights)[count]) {
  constexpr int kChannels = 8 * registers;
  uint32x4_t even[count][registers], odd[count][registers];
  for (int q = 0; q < count; ++q) {
    for (int i = 0; i < registers; ++i) even[q][i] = odd[q][i] = vdupq_n_u32(0);
  }
  const uint8_t* row = strip.rows;
  const int keys = whole ? kKeyBlock : strip.keys;
  for (int j = 0; j < keys; j += 16) {
    uint8x16_t weight[count];
#pragma GCC unroll 4
    for (int q = 0; q < count; ++q) weight[q] = vld1q_u8(weights[q]->codes + j);
    const auto four_keys = [&]<int group>() __attribute__((always_inline)) {
      int8x16_t rows[4], columns[registers];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        rows[i] = load_channels<registers>(reinterpret_cast<const int8_t*>(row));
        // Keys that are not there have weights of 0: the last one stands for them.
        if (whole || j + 4 * group + i + 1 < strip.keys) row += strip.stride;
      }
      turn(rows, columns);
#pragma GCC unroll 4
      for (int i = 0; i < registers; ++i) {
        const uint8x16_t bytes = vreinterpretq_u8_s8(columns[i]);
        const uint8x16_t low = even_channels(bytes), high = odd_channels(bytes);
#pragma GCC unroll 4
        for (int q = 0; q < count; ++q) {
          even[q][i] = vdotq_laneq_u32(even[q][i], low, weight[q], group);
          odd[q][i] = vdotq_laneq_u32(odd[q][i], high, weight[q], group);
        }
      }
    };
    four_keys.template operator()<0>();
    four_keys.template operator()<1>();
    four_keys.template operator()<2>();
    four_keys.template operator()<3>();
  }
  for (int q = 0; q < count; ++q) {
    const uint32x4_t zero = vdupq_n_u32(static_cast<uint32_t>(weights[q]->zero));
    float* target = strip.output + q * strip.output_stride;
    float sums[kChannels];
    for (int i = 0; i < registers; ++i) {
      const uint32x4_t a = vsubq_u32(even[q][i], zero), b = vsubq_u32(odd[q][i], zero);
      vst1q_f32(sums + 8 * i, vcvtq_f32_s32(vreinterpretq_s32_u32(vzip1q_u32(a, b))));
      vst1q_f32(sums + 8 * i + 4, vcvtq_f32_s32(vreinterpretq_s32_u32(vzip2q_u32(a, b))));
    }
    if (strip.channels == kChannels) {
      for (int c = 0; c < kChannels; c += 4) {
        const float32x4_t old = vmulq_n_f32(vld1q_f32(target + c), strip.keep[q]);
        vst1q_f32(target + c, vfmaq_n_f32(old, vld1q_f32(sums + c), weights[q]->step));
      }
    } else {
      for (int64_t c = 0; c < strip.channels; ++c) {
        target[c] = __builtin_fmaf(weights[q]->step, sums[c], target[c] * strip.keep[q]);
      }
    }
  }
}

// With more queries fewer channels fit into the registers.
template <int count>
void accumulate(const Int4Values& values, const Shared& shared, const float* weights, int key_count,
                const float* keep, float* output, int64_t output_stride) {
  constexpr int kRegisters = count <= 2 ? 4 : 2, kBytes = 4 * kRegisters;
  constexpr int64_t kChannels = 2 * kBytes;
  Weights coded[count];
  const Weights* all[count];
  for (int q = 0; q < count; ++q) all[q] = coded + q;
  int64_t group = -1;
  for (int64_t c = 0; c < values.channels; c += kChannels) {
    if (c / values.group != group) {
      group = c / values.group;
      for (int q = 0; q < count; ++q) {
        weigh(weights + q * kKeyBlock, key_count, shared.scale[group], shared.zero_point[group],
              coded[q]);
      }
    }
    Strip strip = {values.codes + c / 2, values.code_stride, key_count, kChannels, keep,
                   output + c,           output_stride};
    uint8_t copy[kKeyBlock * kBytes];
    const int64_t left = values.channels - c;
    if (left < kChannels) {
      for (int64_t j = 0; j < key_count; ++j) {
        __builtin_memset(copy + j * kBytes, 0, kBytes);
        __builtin_memcpy(copy + j * kBytes, strip.rows + j * strip.stride,
                         static_cast<size_t>((left + 1) / 2));
      }
      strip.rows = copy;
      strip.stride = kBytes;
      strip.channels = left;
    }
    if (key_count == kKeyBlock) {
      accumulate_strip<count, kRegisters, true>(strip, all);
    } else {
      accumulate_strip<count, kRegisters, false>(strip, all);
    }
  }
}

}  // namespace

void few_int4_scores_neondot(const uint8_t* codes, int64_t code_stride, const void* scale,
                             const int8_t* zero_point, int64_t channels, const float* queries,
                             int query_count, float* scores) {
  const Chunks chunks(channels < kByteChannels ? kByteChannels : channels);
  uint8_t copy[kInt4KeyGroup * 16] = {};
  if (channels < kByteChannels) {
    for (int64_t j = 0; j < kInt4KeyGroup; ++j) {
      __builtin_memcpy(copy + 16 * j, codes + j * code_stride,
                       static_cast<size_t>((channels + 1) / 2));
    }
    codes = copy;
    code_stride = 16;
  }
  for (int first = 0; first < query_count; first += 4) {
    const int count = query_count - first < 4 ? query_count - first : 4;
    FoldedQuery folded[4];
    for (int q = 0; q < count; ++q) {
      fold_query(queries + (first + q) * channels, scale, zero_point, channels, chunks, folded[q]);
    }
    float* target = scores + first * kKeyBlock;
    switch (count) {
      case 1:
        score<1, 8>(codes, code_stride, chunks, folded, target);
        break;
      case 2:
        score<2, 8>(codes, code_stride, chunks, folded, target);
        break;
      case 3:
        score<3, 4>(codes, code_stride, chunks, folded, target);
        break;
      default:
        score<4, 4>(codes, code_stride, chunks, folded, target);
        break;
    }
  }
}

void few_int4_accumulate_neondot(const Int4Values& values, const float* weights, int query_count,
                                 int key_count, const float* keep, float* output,
                                 int64_t output_stride) {
  Shared shared;
  read_shared(values, (values.channels + values.group - 1) / values.group, key_count, shared);
  for (int first = 0; first < query_count; first += 4) {
    const auto run = [&]<int count>() {
      accumulate<count>(values, shared, weights + first * kKeyBlock, key_count, keep + first,
                        output + first * output_stride, output_stride);
    };
    switch (query_count - first) {
      case 1:
        run.template operator()<1>();
        break;
      case 2:
        run.template operator()<2>();
        break;
      case 3:
        run.template operator()<3>();
        break;
      default:
        run.template operator()<4>();
        break;
    }
  }
}

}  // namespace qfa
