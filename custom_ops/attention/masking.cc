#include "attention/masking.h"

#include <math.h>
#include <string.h>

#include "kernels/reference/half.h"

namespace qfa {
namespace {

// Times log2(e), a greater bias would overflow.
constexpr float kGreatestBias = 0x1p126f;

struct LaneSource {
  const char* mask;
  const char* bias;
  bool averages;
};

struct Summary {
  bool any_seen, any_masked, any_bias;
};

int64_t bias_size(const qfa_attention& a) { return a.bias_dtype == QFA_FLOAT16 ? 2 : 4; }

LaneSource source_of(const qfa_attention& a, const QueryRows& rows, int lane, int64_t first,
                     bool averages) {
  const auto offset = [&](const qfa_mask& m) {
    return rows.batch * m.strides[0] + rows.head[lane] * m.strides[1] +
           rows.query[lane] * m.strides[2] + first * m.strides[3];
  };
  LaneSource source = {nullptr, nullptr, averages};
  if (a.mask.data != nullptr) {
    source.mask = static_cast<const char*>(a.mask.data) + offset(a.mask);
  }
  if (a.bias.data != nullptr) {
    source.bias = static_cast<const char*>(a.bias.data) + offset(a.bias) * bias_size(a);
  }
  return source;
}

float bias_at(const qfa_attention& a, const char* bias, int64_t j) {
  const char* element = bias + j * a.bias.strides[3] * bias_size(a);
  if (a.bias_dtype == QFA_FLOAT16) {
    uint16_t half;
    memcpy(&half, element, 2);
    return float_from_half(half);
  }
  float value;
  memcpy(&value, element, 4);
  return value;
}

bool visible(const qfa_attention& a, const LaneSource& source, int64_t j) {
  return source.mask == nullptr || source.mask[j * a.mask.strides[3]] != 0;
}

// -inf where masked, otherwise the bias held within what the softmax can multiply. NaN stays.
float entry_at(const qfa_attention& a, const LaneSource& source, int64_t j) {
  if (!visible(a, source, j)) return -INFINITY;
  if (source.bias == nullptr) return 0.0f;
  const float bias = bias_at(a, source.bias, j);
  if (bias <= kLowestBias) return source.averages && isfinite(bias) ? 0.0f : -INFINITY;
  return bias > kGreatestBias && isfinite(bias) ? kGreatestBias : bias;
}

// Whole words of mask bytes at a time: most blocks are all visible or all masked.
Summary summarize_bytes(const char* mask, int64_t count) {
  Summary s = {false, false, false};
  int64_t j = 0;
  for (; j + 8 <= count; j += 8) {
    uint64_t word;
    memcpy(&word, mask + j, 8);
    constexpr uint64_t kOnes = 0x0101010101010101u, kHighs = 0x8080808080808080u;
    const bool has_zero_byte = ((word - kOnes) & ~word & kHighs) != 0;
    s.any_masked |= has_zero_byte;
    s.any_seen |= word != 0;
  }
  for (; j < count; ++j) (mask[j] != 0 ? s.any_seen : s.any_masked) = true;
  return s;
}

// Without branches, so that the compiler can take several at a time.
Summary summarize_floats(const char* bias, int64_t count) {
  int seen = 0, masked = 0, biased = 0;
  for (int64_t j = 0; j < count; ++j) {
    float value;
    memcpy(&value, bias + 4 * j, 4);
    const int low = value <= kLowestBias;
    masked |= low;
    seen |= !low;
    biased |= !low & (value != 0.0f);
  }
  return {seen != 0, masked != 0, biased != 0};
}

Summary summarize(const qfa_attention& a, const LaneSource& source, int64_t count) {
  if (source.bias == nullptr && a.mask.strides[3] == 1) {
    return summarize_bytes(source.mask, count);
  }
  const bool plain_bias = source.mask == nullptr && a.bias_dtype == QFA_FLOAT32 &&
                          a.bias.strides[3] == 1 && !source.averages;
  if (plain_bias) return summarize_floats(source.bias, count);
  Summary s = {false, false, false};
  for (int64_t j = 0; j < count; ++j) {
    const float entry = entry_at(a, source, j);
    const bool masked = entry == -INFINITY;
    s.any_masked |= masked;
    s.any_seen |= !masked;
    s.any_bias |= !masked && entry != 0.0f;
  }
  return s;
}

}  // namespace

Reach reach_of(const Plan& plan, const QueryRows& rows) {
  const qfa_attention& a = plan.request;
  const int64_t keys = a.key_length;
  // Beyond these bounds an offset changes nothing, and within them no sum overflows.
  int64_t offset = a.causal_offset;
  if (offset < -a.query_length) offset = -a.query_length;
  if (offset > keys) offset = keys;
  Reach reach;
  reach.least = keys;
  reach.most = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    int64_t limit = 0;
    if (lane < rows.count) {
      limit = keys;
      if (a.is_causal != 0) {
        const int64_t end = rows.query[lane] + offset + 1;
        limit = end < 0 ? 0 : (end < keys ? end : keys);
      }
      if (limit < reach.least) reach.least = limit;
      if (limit > reach.most) reach.most = limit;
    }
    reach.limit[lane] = limit;
  }
  return reach;
}

Averaging find_averaging(const Plan& plan, const QueryRows& rows, const Reach& reach) {
  const qfa_attention& a = plan.request;
  Averaging averaging = {};
  if (a.bias.data == nullptr) return averaging;
  for (int lane = 0; lane < rows.count; ++lane) {
    const LaneSource source = source_of(a, rows, lane, 0, false);
    bool swallowed = false, seen = false;
    for (int64_t j = 0; j < reach.limit[lane] && !seen; ++j) {
      if (!visible(a, source, j)) continue;
      const float bias = bias_at(a, source.bias, j);
      seen = !(bias <= kLowestBias);
      swallowed |= bias <= kLowestBias && isfinite(bias);
    }
    averaging.lane[lane] = swallowed && !seen;
  }
  return averaging;
}

TileKind read_tile(const Plan& plan, const QueryRows& rows, const Averaging& averaging,
                   int64_t first, int64_t count, float* tile) {
  const qfa_attention& a = plan.request;
  if (a.mask.data == nullptr && a.bias.data == nullptr) return TileKind::kPlain;

  LaneSource sources[kLanes];
  Summary all = {false, false, false};
  for (int lane = 0; lane < rows.count; ++lane) {
    sources[lane] = source_of(a, rows, lane, first, averaging.lane[lane]);
    const LaneSource& s = sources[lane];
    const bool same = lane > 0 && s.mask == sources[lane - 1].mask &&
                      s.bias == sources[lane - 1].bias && s.averages == sources[lane - 1].averages;
    if (same) continue;
    const Summary one = summarize(a, s, count);
    all.any_seen |= one.any_seen;
    all.any_masked |= one.any_masked;
    all.any_bias |= one.any_bias;
  }
  if (!all.any_seen) return TileKind::kHidden;
  if (!all.any_masked && !all.any_bias) return TileKind::kPlain;

  memset(tile, 0, sizeof(float) * kKeyBlock * kLanes);
  for (int lane = 0; lane < rows.count; ++lane) {
    for (int64_t j = 0; j < count; ++j) {
      tile[j * kLanes + lane] = entry_at(a, sources[lane], j);
    }
  }
  return TileKind::kMixed;
}

}  // namespace qfa
