#include "attention/masking.h"

#include <math.h>
#include <string.h>

#include <bit>

#include "attention/close.h"
#include "attention/dtype.h"
#include "attention/prefetch.h"
#include "attention/tokens.h"

namespace qfa {
namespace {

struct LaneSource {
  const char* mask;
  const char* bias;
  bool averages;
};

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
    source.bias =
        static_cast<const char*>(a.bias.data) + offset(a.bias) * element_size(a.bias_dtype);
  }
  return source;
}

bool same_source(const LaneSource& a, const LaneSource& b) {
  return a.mask == b.mask && a.bias == b.bias && a.averages == b.averages;
}

bool visible(const qfa_attention& a, const LaneSource& source, int64_t j) {
  return source.mask == nullptr || source.mask[j * a.mask.strides[3]] != 0;
}

// Whole words of mask bytes at a time: most blocks are all visible or all masked.
void look_at_bytes(const char* mask, int64_t count, bool* any_seen, bool* any_masked) {
  int64_t j = 0;
  for (; j + 8 <= count; j += 8) {
    uint64_t word;
    memcpy(&word, mask + j, 8);
    constexpr uint64_t kOnes = 0x0101010101010101u, kHighs = 0x8080808080808080u;
    *any_masked |= ((word - kOnes) & ~word & kHighs) != 0;  // holds a zero byte
    *any_seen |= word != 0;
  }
  for (; j < count; ++j) *(mask[j] != 0 ? any_seen : any_masked) = true;
}

// The kind of a block that has a mask of adjacent bytes and no bias, without looking at each key.
TileKind kind_by_bytes(const LaneSource* sources, int lanes, int64_t count) {
  bool any_seen = false, any_masked = false;
  for (int lane = 0; lane < lanes && !(any_seen && any_masked); ++lane) {
    if (lane > 0 && same_source(sources[lane], sources[lane - 1])) continue;
    look_at_bytes(sources[lane].mask, count, &any_seen, &any_masked);
  }
  if (!any_seen) return TileKind::kHidden;
  return any_masked ? TileKind::kMixed : TileKind::kPlain;
}

// Without branches: bytes of a mask follow no pattern that a processor could foresee.
void hide_by_bytes(const char* mask, int64_t count, float* row) {
  constexpr uint32_t kMinusInfinity = 0xff800000u;
  for (int64_t j = 0; j < count; ++j) {
    const uint32_t keep = mask[j] != 0 ? 0xffffffffu : 0u;
    uint32_t bits = std::bit_cast<uint32_t>(row[j]);
    bits = (bits & keep) | (kMinusInfinity & ~keep);
    row[j] = std::bit_cast<float>(bits);
  }
}

// Writes the biases of one lane, -inf where the mask hides the key.
void expand(const qfa_attention& a, const Kernels& kernels, const LaneSource& source, int64_t count,
            float* row) {
  if (source.bias == nullptr) {
    memset(row, 0, static_cast<size_t>(count) * sizeof(float));
  } else if (a.bias.strides[3] == 1) {
    load_row(kernels, a.bias_dtype, source.bias, nullptr, count, row);
  } else {
    for (int64_t j = 0; j < count; ++j) {
      row[j] = element_at(source.bias, a.bias_dtype, j * a.bias.strides[3]);
    }
  }
  for (int64_t j = 0; source.averages && j < count; ++j) {
    if (row[j] <= kLowestBias && isfinite(row[j])) row[j] = 0.0f;
  }
  if (source.mask != nullptr && a.mask.strides[3] == 1) {
    hide_by_bytes(source.mask, count, row);
  } else if (source.mask != nullptr) {
    for (int64_t j = 0; j < count; ++j) {
      if (!visible(a, source, j)) row[j] = -INFINITY;
    }
  }
}

// Whether a row sees keys with biases at or below kLowestBias, and no others. `row` holds a block.
bool sees_only_swallowed(const qfa_attention& a, const Kernels& kernels, const QueryRows& rows,
                         const Reach& reach, int lane, float* row) {
  const int64_t limit = reach.limit[lane];
  bool swallowed = false;
  for (int64_t first = reach.first[lane]; first < limit; first += kKeyBlock) {
    const int64_t count = limit - first < kKeyBlock ? limit - first : kKeyBlock;
    expand(a, kernels, source_of(a, rows, lane, first, false), count, row);
    bool seen = false;
    for (int64_t j = 0; j < count; ++j) {
      const bool low = row[j] <= kLowestBias;
      seen |= !low;
      swallowed |= low && row[j] > -INFINITY;
    }
    if (seen) return false;
  }
  return swallowed;
}

// As read_bias_fn, but each row stays a row.
BiasSummary read_few(const void* const* rows, int queries, int64_t count, float* tile) {
  BiasSummary summary = {false, false, false};
  for (int q = 0; q < queries; ++q, tile += kKeyBlock) {
    memset(tile, 0, kKeyBlock * sizeof(float));
    memcpy(tile, rows[q], static_cast<size_t>(count) * sizeof(float));
    for (int64_t j = 0; j < count; ++j) {
      const float bias = tile[j];
      const bool masked = bias <= kLowestBias;
      summary.any_masked |= masked;
      summary.any_seen |= !masked;
      summary.any_bias |= !masked && bias != 0.0f;
      if (masked) tile[j] = -INFINITY;
      if (bias > kGreatestBias && isfinite(bias)) tile[j] = kGreatestBias;
    }
  }
  return summary;
}

// Classifies keys by mask and bias alone and fills the tile when they are mixed.
TileKind tile_of_inputs(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                        const Averaging& averaging, int64_t first, int64_t count,
                        const WorkerScratch& scratch) {
  const qfa_attention& a = plan.request;
  if (a.mask.data == nullptr && a.bias.data == nullptr) return TileKind::kPlain;

  LaneSource sources[kLanes];
  for (int lane = 0; lane < rows.count; ++lane) {
    sources[lane] = source_of(a, rows, lane, first, averaging.lane[lane]);
  }
  if (a.bias.data == nullptr && a.mask.strides[3] == 1) {
    const TileKind kind = kind_by_bytes(sources, rows.count, count);
    if (kind != TileKind::kMixed) return kind;
  }

  const bool readable =
      a.mask.data == nullptr && a.bias_dtype == QFA_FLOAT32 && a.bias.strides[3] == 1;
  const void* bias_rows[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    float* row = scratch.bias_rows + lane * kKeyBlock;
    if (lane >= rows.count) {
      bias_rows[lane] = bias_rows[0];  // a lane without a query may see anything
    } else if (readable && !sources[lane].averages) {
      bias_rows[lane] = sources[lane].bias;
      // Rows lie far apart, and each block takes a little of each.
      constexpr int64_t kBlockBytes = kKeyBlock * sizeof(float);
      prefetch(sources[lane].bias, kBlockBytes, kBlockBytes);
    } else if (lane > 0 && same_source(sources[lane], sources[lane - 1])) {
      bias_rows[lane] = bias_rows[lane - 1];
    } else {
      expand(a, kernels, sources[lane], count, row);
      bias_rows[lane] = row;
    }
  }
  const int vectors = rows.count > kVectorLanes ? 2 : 1;
  const BiasSummary summary =
      plan.few ? read_few(bias_rows, rows.count, count, scratch.tile)
               : kernels.read_bias(bias_rows, vectors, static_cast<int>(count), scratch.tile);
  if (!summary.any_seen) return TileKind::kHidden;
  return summary.any_masked || summary.any_bias ? TileKind::kMixed : TileKind::kPlain;
}

// Masks the keys before each lane's reach in the tile of the block that starts at `first`.
void hide_before(const Plan& plan, const QueryRows& rows, const Reach& reach, int64_t first,
                 float* tile) {
  int32_t start[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t left = reach.first[lane] - first;
    start[lane] = static_cast<int32_t>(left < 0 ? 0 : (left < kKeyBlock ? left : kKeyBlock));
  }
  if (plan.few) {
    for (int q = 0; q < rows.count; ++q) {
      for (int32_t j = 0; j < start[q]; ++j) tile[q * kKeyBlock + j] = -INFINITY;
    }
    return;
  }
  for (int32_t j = 0; j < kKeyBlock && first + j < reach.latest; ++j, tile += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      if (j < start[lane]) tile[lane] = -INFINITY;
    }
  }
}

// Positions and windows may be any numbers. The sum of two that does not fit 64 bits is farther
// from every key than the extents of tensors can make up for.
int64_t sum_within(int64_t a, int64_t b) {
  int64_t sum;
  if (!__builtin_add_overflow(a, b, &sum)) return sum;
  return b < 0 ? INT64_MIN : INT64_MAX;
}

int64_t difference_within(int64_t a, int64_t b) {
  int64_t difference;
  if (!__builtin_sub_overflow(a, b, &difference)) return difference;
  return b < 0 ? INT64_MAX : INT64_MIN;
}

int64_t clamp(int64_t value, int64_t greatest) {
  return value < 0 ? 0 : (value < greatest ? value : greatest);
}

}  // namespace

Reach reach_of(const Plan& plan, const QueryRows& rows) {
  const qfa_attention& a = plan.request;
  const int64_t length = tokens_of(a, rows.batch).length;
  const int64_t start = a.queries_at_end != 0 ? length - a.query_length : 0;
  // Where windows end for a query at position 0.
  const int64_t right = sum_within(a.causal_offset, a.right_window);
  const int64_t left = difference_within(a.causal_offset, a.left_window);
  Reach reach = {};
  reach.from = reach.least = length;
  for (int lane = 0; lane < rows.count; ++lane) {
    const int64_t position = start + rows.query[lane];
    int64_t first = 0, limit = length;
    if (a.is_causal != 0) limit = clamp(sum_within(a.causal_offset, position + 1), limit);
    if (a.has_right_window != 0) limit = clamp(sum_within(right, position + 1), limit);
    if (a.has_left_window != 0) first = clamp(sum_within(left, position), length);
    if (first >= limit) first = limit = 0;
    reach.first[lane] = first;
    reach.limit[lane] = limit;
    if (limit < reach.least) reach.least = limit;
    if (limit > reach.most) reach.most = limit;
    if (first > reach.latest) reach.latest = first;
    if (limit > 0 && first < reach.from) reach.from = first;
  }
  return reach;
}

bool find_averaging(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                    const Reach& reach, const float* sums, const WorkerScratch& scratch,
                    Averaging* averaging) {
  const qfa_attention& a = plan.request;
  *averaging = {};
  if (a.bias.data == nullptr) return false;
  bool any = false;
  for (int lane = 0; lane < rows.count; ++lane) {
    // A sink weighs more than any such key: the row is zero.
    if (sums[lane] != 0.0f || sink_of(a, rows.head[lane]) != -INFINITY) continue;
    averaging->lane[lane] = sees_only_swallowed(a, kernels, rows, reach, lane, scratch.bias_rows);
    any |= averaging->lane[lane];
  }
  return any;
}

TileKind read_tile(const Plan& plan, const Kernels& kernels, const QueryRows& rows,
                   const Reach& reach, const Averaging& averaging, int64_t first, int64_t count,
                   const WorkerScratch& scratch) {
  const TileKind kind = tile_of_inputs(plan, kernels, rows, averaging, first, count, scratch);
  if (kind == TileKind::kHidden || reach.latest <= first) return kind;
  if (kind == TileKind::kPlain) memset(scratch.tile, 0, sizeof(float) * kKeyBlock * kLanes);
  hide_before(plan, rows, reach, first, scratch.tile);
  return TileKind::kMixed;
}

}  // namespace qfa
