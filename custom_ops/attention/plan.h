// Everything about a run that follows from the request alone: extents, paddings, memory, factors.
#ifndef QFA_ATTENTION_PLAN_H_
#define QFA_ATTENTION_PLAN_H_

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "qfa/qfa.h"

namespace qfa {

struct Plan {
  qfa_attention request;

  int64_t keys;            // P + T
  int64_t sharing;         // G: query heads that share one key/value head
  int64_t code_stride;     // D rounded up to kCodePad
  int64_t code_groups;     // groups of four channels that hold codes
  int64_t value_channels;  // Dv rounded up to kChannelPad
  int64_t key_blocks;      // blocks of kKeyBlock keys
  int64_t rows_per_head;   // G * S query rows read one key/value head
  int64_t query_blocks;    // blocks of kLanes rows
  int64_t kv_heads_total;  // B * Hkv
  int64_t rotation_block;  // 0: rows are not rotated
  float score_factor;      // scale * log2(e) / rotation_block
  float cap_base2;         // softcap * log2(e)
  float cap_inverse;       // 1 / (softcap * log2(e)), 0 without a softcap

  int64_t workers;        // tasks that run at the same time, at most
  int64_t heads_at_once;  // key/value heads whose codes are held at the same time
  size_t head_bytes, worker_bytes, scratch_bytes;
};

// Codes of one key/value head. Rows at and beyond P + T are zeros with harmless scales.
struct HeadCodes {
  int8_t* keys;         // [key_blocks * 64][code_stride]
  int8_t* values;       // [key_blocks][value_channels][64]
  int32_t* correction;  // [key_blocks * 64], as are the following
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

// What one worker owns while it runs. In float32 there are no codes.
struct WorkerScratch {
  float* row;            // [max(D, Dv)]
  float* float_queries;  // [D][kLanes]
  float* float_scores;   // [64][kLanes]
  int8_t* codes;         // [64][max(code_stride, value_channels)]
  uint8_t* queries;      // [code_stride / 4][kLanes][4]
  int32_t* scores;       // [64][kLanes]
  float* bias_rows;      // [kLanes][64] bias, -inf where masked
  float* tile;           // [64][kLanes] the same by key
  uint8_t* weights;      // [16][kLanes][4]
  float* output;         // [value_channels][kLanes]
  float* rows;           // [kLanes][value_channels]
};

// Fails when a size does not fit. `threads` is a wish; results do not depend on it.
qfa_status make_plan(const qfa_attention& request, int64_t threads, Plan* plan);

// These lay out memory that starts at a multiple of 64 bytes.
HeadCodes head_codes_at(const Plan& plan, char* memory);
HeadFloats head_floats_at(const Plan& plan, char* memory);
WorkerScratch worker_scratch_at(const Plan& plan, char* memory);

}  // namespace qfa

#endif  // QFA_ATTENTION_PLAN_H_
