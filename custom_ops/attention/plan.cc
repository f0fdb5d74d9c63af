#include "attention/plan.h"

#include <inttypes.h>

#include "attention/dtype.h"
#include "attention/int4.h"
#include "attention/rotation.h"
#include "attention/status.h"

namespace qfa {
namespace {

constexpr int64_t kMostWorkers = 1024;
// Short heads are quantized several at a time, so that workers meet less often; this much stays in
// a core's private cache.
constexpr int64_t kCachedBytes = 512 * 1024;

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }
int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Hands out 64-byte aligned pieces; with a null start it only counts.
class Cutter {
 public:
  explicit Cutter(char* start) : start_(start) {}

  template <typename T>
  T* take(int64_t count) {
    char* piece = start_ == nullptr ? nullptr : start_ + used_;
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return reinterpret_cast<T*>(piece);
  }

  int64_t used() const { return used_; }

 private:
  char* start_;
  int64_t used_ = 0;
};

HeadCodes cut_head(const Plan& p, Cutter& cutter) {
  const int64_t keys = p.key_blocks * kKeyBlock;
  HeadCodes h;
  h.keys = cutter.take<int8_t>(keys * p.code_stride);
  h.values = cutter.take<int8_t>(keys * p.value_channels);
  h.score_start = cutter.take<int32_t>(keys);
  h.key_scale = cutter.take<float>(keys);
  h.value_log2 = cutter.take<float>(keys);
  h.value_inverse = cutter.take<float>(keys);
  return h;
}

HeadFloats cut_floats(const Plan& p, Cutter& cutter) {
  const int64_t keys = p.key_blocks * kKeyBlock;
  HeadFloats h;
  h.keys = cutter.take<float>(keys * p.request.qk_channels);
  h.values = cutter.take<float>(keys * p.value_channels);
  h.spoil = cutter.take<float>(keys);
  return h;
}

BfloatBlock cut_bfloats(const Plan& p, int64_t keys, Cutter& cutter) {
  BfloatBlock b;
  b.keys = cutter.take<uint16_t>(keys * p.bfloat_width);
  b.columns = cutter.take<uint16_t>(keys * p.value_channels);
  b.key_scale = cutter.take<float>(keys);
  b.value_scale = cutter.take<float>(keys);
  b.spoil = cutter.take<float>(keys);
  return b;
}

ChunkState cut_chunk(const Plan& p, Cutter& cutter) {
  ChunkState c;
  c.max = cutter.take<float>(kLanes);
  c.sum = cutter.take<float>(kLanes);
  c.output = cutter.take<float>(p.output_count());
  return c;
}

WorkerScratch cut_worker(const Plan& p, Cutter& cutter) {
  const int64_t channels = p.request.qk_channels;
  WorkerScratch w = {};
  w.row = cutter.take<float>(larger(channels, p.request.v_channels));
  if (p.computes_fp8()) {
    w.fp8_codes = cutter.take<uint8_t>(larger(channels, p.request.v_channels));
    w.bfloat_queries = cutter.take<uint16_t>(p.bfloat_width * kLanes);
    w.bfloat_rows = cutter.take<uint16_t>(kKeyBlock * larger(p.bfloat_width, p.value_channels));
    w.bfloat_weights = cutter.take<uint16_t>(kKeyBlock * kLanes);
    w.float_scores = cutter.take<float>(kKeyBlock * kLanes);
    w.float_keys = cutter.take<float>(kKeyBlock * p.bfloat_width);
    w.float_values = cutter.take<float>(kKeyBlock * p.value_channels);
    if (p.streams) w.bfloats = cut_bfloats(p, kKeyBlock, cutter);
  } else if (p.computes_float()) {
    w.float_queries = cutter.take<float>(channels * kLanes);
    w.float_scores = cutter.take<float>(kKeyBlock * kLanes);
    w.fp8_codes = cutter.take<uint8_t>(larger(channels, p.request.v_channels));
    if (p.streams) {
      w.float_keys = cutter.take<float>(kKeyBlock * channels);
      w.float_values = cutter.take<float>(kKeyBlock * p.value_channels);
      w.spoil = cutter.take<float>(kKeyBlock);
    }
  } else {
    w.codes = cutter.take<int8_t>(kKeyBlock * larger(p.code_stride, p.value_stride));
    w.queries = cutter.take<uint8_t>(p.code_stride * kLanes * kPackedCodeBytes);
    w.scores = cutter.take<int32_t>(kKeyBlock * kLanes);
    w.weights = cutter.take<uint8_t>(kKeyBlock * kLanes);
    w.value_scale = cutter.take<float>(kKeyBlock);
    if (p.has_int4()) {
      const int64_t width = p.request.v_channels, group = p.request.v_group;
      w.float_keys = cutter.take<float>(kKeyBlock * channels);
      w.int4_codes = cutter.take<uint8_t>(kKeyBlock * ((channels + 1) / 2));
      w.int4_scale = cutter.take<char>(2 * 2 * channels);
      w.int4_zero_point = cutter.take<int8_t>(2 * channels);
      w.int4_value_codes = cutter.take<uint8_t>(kKeyBlock * ((width + 1) / 2));
      w.int4_value_scale = cutter.take<char>(2 * kKeyBlock * ((width + group - 1) / group));
      w.int4_value_zero_point = cutter.take<int8_t>(kKeyBlock * ((width + group - 1) / group));
    }
    if (p.few_int4()) {
      w.float_queries = cutter.take<float>(channels * kMostFew);
      w.float_scores = cutter.take<float>(kKeyBlock * kMostFew);
      w.spoil = cutter.take<float>(kKeyBlock);
    }
    if (p.streams) {
      w.keys = cutter.take<int8_t>(kKeyBlock * p.code_stride);
      w.columns = cutter.take<int8_t>(kKeyBlock * p.value_channels);
      w.score_start = cutter.take<int32_t>(kKeyBlock);
      w.key_scale = cutter.take<float>(kKeyBlock);
      w.value_log2 = cutter.take<float>(kKeyBlock);
      w.value_inverse = cutter.take<float>(kKeyBlock);
    }
  }
  w.bias_rows = cutter.take<float>(kKeyBlock * kLanes);
  w.tile = cutter.take<float>(kKeyBlock * kLanes);
  w.chunk = cut_chunk(p, cutter);
  w.total = cut_chunk(p, cutter);
  w.rows = cutter.take<float>(p.value_channels * kLanes);
  return w;
}

qfa_status too_much(const Plan& p, int64_t head_bytes) {
  return fail(QFA_INVALID_SHAPE,
              "scratch memory overflows: %" PRId64 " heads of %" PRId64 " bytes (T %" PRId64
              ", D %" PRId64 ", Dv %" PRId64 ")",
              p.heads_at_once, head_bytes, p.keys, p.request.qk_channels, p.request.v_channels);
}

}  // namespace

HeadCodes head_codes_at(const Plan& plan, char* memory) {
  Cutter cutter(memory);
  return cut_head(plan, cutter);
}

BfloatBlock head_bfloats_at(const Plan& plan, char* memory) {
  Cutter cutter(memory);
  return cut_bfloats(plan, plan.key_blocks * kKeyBlock, cutter);
}

HeadFloats head_floats_at(const Plan& plan, char* memory) {
  Cutter cutter(memory);
  return cut_floats(plan, cutter);
}

WorkerScratch worker_scratch_at(const Plan& plan, char* memory) {
  Cutter cutter(memory);
  return cut_worker(plan, cutter);
}

ChunkState chunk_state_at(const Plan& plan, char* memory) {
  Cutter cutter(memory);
  return cut_chunk(plan, cutter);
}

char* Plan::kept_open_row(int64_t kv_head, int64_t row) const {
  return kept_open + kv_head * open_bytes + row * (open_bytes / kInt4KeyGroup);
}

qfa_status make_plan(const qfa_attention& request, int64_t threads, Plan* plan) {
  Plan& p = *plan;
  p = {};
  p.request = request;
  p.keys = request.past_length + (request.kv_shared != 0 ? 0 : request.key_length);
  p.sharing = request.heads / request.kv_heads;
  p.code_stride = round_up(request.qk_channels, kCodePad);
  p.code_groups = (request.qk_channels + 3) / 4;
  p.value_channels = round_up(request.v_channels, kChannelPad);
  p.value_stride = round_up(request.v_channels, kCodePad);
  p.bfloat_width = round_up(request.qk_channels, kBfloatPad);
  p.key_blocks = round_up(p.keys, kKeyBlock) / kKeyBlock;
  p.key_chunks = round_up(p.keys, QFA_KEY_CHUNK) / QFA_KEY_CHUNK;
  p.rows_per_head = p.sharing * request.query_length;
  p.query_blocks = round_up(p.rows_per_head, kLanes) / kLanes;
  p.kv_heads_total = request.batch * request.kv_heads;
  p.rotation_block = request.rotation == QFA_ROTATE_HADAMARD && !p.computes_float()
                         ? hadamard_block(request.qk_channels)
                         : 0;
  constexpr double kLog2OfE = 1.4426950408889634;
  const double rotated = p.rotation_block == 0 ? 1.0 : static_cast<double>(p.rotation_block);
  const double cap = static_cast<double>(request.softcap);
  p.cap_base2 = static_cast<float>(cap * kLog2OfE);
  p.cap_inverse = cap > 0.0 ? static_cast<float>(1.0 / (cap * kLog2OfE)) : 0.0f;
  p.score_factor = static_cast<float>(static_cast<double>(request.scale) * kLog2OfE / rotated);

  p.streams = p.rows_per_head <= kLanes;
  const int64_t most_few = p.computes_float() || p.has_int4() ? kMostFew : kMostFewRows;
  p.few = p.streams && p.rows_per_head <= most_few && request.softcap == 0.0f && !p.computes_fp8();

  // More workers than pieces of work would only cost memory.
  const int64_t per_head =
      larger(p.streams ? p.key_chunks : larger(p.query_blocks, p.key_blocks), 1);
  const int64_t pieces =
      p.kv_heads_total > kMostWorkers / per_head ? kMostWorkers : p.kv_heads_total * per_head;
  p.workers = smaller(larger(threads, 1), larger(pieces, 1));
  // Heads that are many keep all workers busy to the end; one that is taken whole needs no memory.
  constexpr int64_t kEnoughHeads = 4;
  p.splits =
      p.streams && p.workers > 1 && p.key_chunks > 1 && p.kv_heads_total < kEnoughHeads * p.workers;

  p.open_bytes = keeps_open_keys(request)
                     ? kInt4KeyGroup * request.qk_channels * element_size(request.key.dtype)
                     : 0;
  Cutter head(nullptr), worker(nullptr), chunk(nullptr);
  cut_chunk(p, chunk);
  p.chunk_bytes = static_cast<size_t>(chunk.used());
  int64_t head_bytes = 0;
  if (p.splits) {
    if (__builtin_mul_overflow(chunk.used(), p.key_chunks, &head_bytes))
      return too_much(p, chunk.used());
  } else if (!p.streams && p.computes_fp8()) {
    cut_bfloats(p, p.key_blocks * kKeyBlock, head);
  } else if (!p.streams && p.computes_float()) {
    cut_floats(p, head);
  } else if (!p.streams) {
    cut_head(p, head);
  }
  if (!p.splits) head_bytes = head.used();
  cut_worker(p, worker);
  const int64_t cached = head_bytes == 0 ? p.kv_heads_total : kCachedBytes / head_bytes;
  p.heads_at_once =
      p.streams ? p.kv_heads_total : smaller(p.kv_heads_total, larger(p.workers, cached));
  int64_t heads_total, workers_total, open_total, total;
  if (__builtin_mul_overflow(head_bytes, p.heads_at_once, &heads_total) ||
      __builtin_mul_overflow(worker.used(), p.workers, &workers_total) ||
      __builtin_mul_overflow(p.open_bytes, p.kv_heads_total, &open_total) ||
      __builtin_add_overflow(heads_total, workers_total, &total) ||
      __builtin_add_overflow(total, open_total, &total)) {
    return too_much(p, head_bytes);
  }
  p.head_bytes = static_cast<size_t>(head_bytes);
  p.worker_bytes = static_cast<size_t>(worker.used());
  p.scratch_bytes = static_cast<size_t>(total);
  return QFA_OK;
}

}  // namespace qfa
