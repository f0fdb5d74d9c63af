// Everything about a run that follows from the request alone: extents, paddings, memory, factors.
#ifndef QFA_ATTENTION_PLAN_H_
#define QFA_ATTENTION_PLAN_H_

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "qfa/qfa.h"

namespace qfa {

// In int8, up to this many rows go through kernels for a few queries, kMostFew at a time: a block
// is near enough to be read twice, and lanes would want its values transposed.
inline constexpr int64_t kMostFewRows = 2 * kMostFew;

// Keys and values in bfloat16, of one block or, one block behind the other, of a head. Tokens that
// cannot be seen are zeros with harmless scales.
struct BfloatBlock {
  uint16_t* keys;     // [64][bfloat_width]
  uint16_t* columns;  // [value_channels][64]
  float* key_scale;   // [64], as are the following
  float* value_scale;
  float* spoil;  // see FloatBlock
};

struct Plan {
  qfa_attention request;

  int64_t keys;            // rows of the cache: P + T, or P where past and present are shared
  int64_t sharing;         // G: query heads that share one key/value head
  int64_t code_stride;     // D rounded up to kCodePad
  int64_t code_groups;     // groups of four channels that hold codes
  int64_t value_channels;  // Dv rounded up to kChannelPad
  int64_t value_stride;    // Dv rounded up to kCodePad
  int64_t bfloat_width;    // D rounded up to kBfloatPad
  int64_t key_blocks;      // blocks of kKeyBlock keys
  int64_t rows_per_head;   // G * S query rows read one key/value head
  int64_t query_blocks;    // blocks of kLanes rows
  int64_t key_chunks;      // chunks of QFA_KEY_CHUNK keys
  int64_t kv_heads_total;  // B * Hkv
  int64_t rotation_block;  // 0: rows are not rotated
  float score_factor;      // scale * log2(e) / rotation_block
  float cap_base2;         // softcap * log2(e)
  float cap_inverse;       // 1 / (softcap * log2(e)), 0 without a softcap

  // Where a key/value head has one block of queries, each block of keys is used once: it is taken
  // and answered at once. Else keys and values of a head are encoded first.
  bool streams;
  bool few;     // streams, and queries are so few that lanes are keys and channels
  bool splits;  // streams, and chunks of one head are taken apart, to be joined later

  char* kept_open;  // null, or memory for keys of 4-bit caches that are written where they are read
  int64_t open_bytes;  // of one head

  int64_t workers;        // tasks that run at the same time, at most
  int64_t heads_at_once;  // key/value heads whose codes, or chunks, are held at the same time
  size_t head_bytes;      // codes of a head, or all of its chunks
  size_t chunk_bytes;     // results of a chunk
  size_t worker_bytes, scratch_bytes;

  // Products are sums of float32, of numbers or of 8-bit floats.
  bool computes_float() const { return request.compute != QFA_COMPUTE_INT8; }
  bool computes_fp8() const { return computes_float() && request.compute != QFA_COMPUTE_FLOAT; }
  bool has_int4() const { return request.kv_format == QFA_KV_INT4; }
  // Few queries multiply 4-bit codes as they are, and weigh them in float32.
  bool few_int4() const { return few && has_int4(); }
  // What a weight of 1 counts in the sums of values.
  float weight_of_one() const { return computes_float() || few_int4() ? 1.0f : 255.0f; }
  // Channels of a row of results, where rows are queries or channels.
  int64_t output_channels() const { return few ? few_channels() : value_channels; }
  int64_t few_channels() const {
    return computes_float() || has_int4() ? value_channels : value_stride;
  }
  int64_t output_count() const { return output_channels() * (few ? kMostFewRows : kLanes); }
  char* kept_open_row(int64_t kv_head, int64_t row) const;
  // The block of a head that starts at a key.
  BfloatBlock block_of(const BfloatBlock& head, int64_t first) const {
    return {head.keys + first * bfloat_width, head.columns + first * value_channels,
            head.key_scale + first, head.value_scale + first, head.spoil + first};
  }
};

// Codes of one key/value head. Rows at and beyond P + T are zeros with harmless scales.
struct HeadCodes {
  int8_t* keys;          // [key_blocks * 64][code_stride]
  int8_t* values;        // [key_blocks][value_channels][64]
  int32_t* score_start;  // [key_blocks * 64], as are the following
  float* key_scale;
  float* value_log2;
  float* value_inverse;
};

// Keys and values of one key/value head in float32. Rows at and beyond P + T are zeros.
struct HeadFloats {
  float* keys;    // [key_blocks * 64][D]
  float* values;  // [key_blocks * 64][value_channels]
  float* spoil;   // [key_blocks * 64] NaN for a value that is not finite, whose row is zeros
};

// Results of a chunk of keys, or of several that were joined: the online softmax's state, one entry
// per lane or query, and weighted sums of values, [value_channels][kLanes] or, where queries are
// few, [query][few_channels].
struct ChunkState {
  float* max;
  float* sum;
  float* output;
};

// What one worker owns while it runs; what a run does not need is null.
struct WorkerScratch {
  float* row;                // [max(D, Dv)]
  uint16_t* bfloat_queries;  // as pack_bfloats leaves them
  uint16_t* bfloat_rows;     // [64][max(bfloat_width, value_channels)]
  uint16_t* bfloat_weights;  // [32][kLanes][2]
  BfloatBlock bfloats;       // of a block that streams
  float* float_queries;      // [D][kLanes], or [kMostFew][D]
  float* float_scores;       // [64][kLanes], or [kMostFew][64]
  float* float_keys;         // [64][D], as are the next of the block that streams or has 4 bits
  float* float_values;       // [64][value_channels]
  float* spoil;              // [64]
  uint8_t* fp8_codes;        // [max(D, Dv)]
  int8_t* codes;             // [64][max(code_stride, value_stride)] values of a block
  int8_t* keys;              // [64][code_stride] keys of a block that streams
  int8_t* columns;           // [value_channels][64] its values, transposed
  uint8_t* queries;          // as pack_queries leaves them, or int8 [kMostFewRows][code_stride]
  int32_t* scores;           // [64][kLanes], or [kMostFew][64]
  int32_t* score_start;      // [64] of a block that streams, as are the next
  float* key_scale;
  float* value_scale;
  float* value_log2;
  float* value_inverse;
  uint8_t* int4_codes;        // [64][ceil(D / 2)] keys of a 4-bit cache, as are the next
  char* int4_scale;           // [2][D] halfs
  int8_t* int4_zero_point;    // [2][D]
  uint8_t* int4_value_codes;  // [64][ceil(Dv / 2)] its values, as are the next
  char* int4_value_scale;     // [64][ceil(Dv / v_group)] halfs
  int8_t* int4_value_zero_point;
  float* bias_rows;  // [kLanes][64] bias, -inf where masked
  float* tile;       // [64][kLanes] the same by key, or [kMostFewRows][64]
  uint8_t* weights;  // [16][kLanes][4], or [kMostFew][64]
  ChunkState chunk;  // of the chunk at hand
  ChunkState total;  // of all chunks before it
  float* rows;       // [kLanes][value_channels]
};

// Fails when a size does not fit. `threads` is a wish; results do not depend on it.
qfa_status make_plan(const qfa_attention& request, int64_t threads, Plan* plan);

// These lay out memory that starts at a multiple of 64 bytes.
HeadCodes head_codes_at(const Plan& plan, char* memory);
BfloatBlock head_bfloats_at(const Plan& plan, char* memory);
HeadFloats head_floats_at(const Plan& plan, char* memory);
WorkerScratch worker_scratch_at(const Plan& plan, char* memory);
ChunkState chunk_state_at(const Plan& plan, char* memory);

}  // namespace qfa

#endif  // QFA_ATTENTION_PLAN_H_
