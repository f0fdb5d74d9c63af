/* C interface of the kernel library: flash attention, quantized or in float32, on plain pointers.
 *
 * No ONNX Runtime type appears here, so that sanitizers, fuzzers, emulators and other runtimes call
 * the very code that the custom operator runs. docs/operator.md is the authority on the
 * mathematics.
 *
 * Shape letters: B batch, H query heads, Hkv key/value heads (H % Hkv == 0, query head h reads
 * key/value head h / (H / Hkv)), S query length, T key length, P past length (keys in front of the
 * T ones), D query/key channels, Dv value channels.
 */
#ifndef QFA_QFA_H_
#define QFA_QFA_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define QFA_EXPORT __declspec(dllexport)
#else
#define QFA_EXPORT __attribute__((visibility("default")))
#endif

/* A fixed underlying type makes every number a value that can be looked at and refused. */
#ifdef __cplusplus
#define QFA_ENUM(name) enum name : int32_t
#else
#define QFA_ENUM(name) enum name
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever a field or a function is added; fields are only ever appended. */
#define QFA_ABI_VERSION 3

/* Keys that share one maximum when P is quantized. Part of the numeric contract: one value on every
 * CPU. */
#define QFA_KEY_BLOCK 64

/* Keys whose blocks are joined one after the other before they meet those of other chunks: what
 * lets threads share one long sequence. Part of the numeric contract, too. */
#define QFA_KEY_CHUNK 1024

/* Tokens that share the scales of one channel in a 4-bit key cache. */
#define QFA_INT4_KEY_GROUP 32

typedef QFA_ENUM(qfa_status) {
  QFA_OK = 0,
  QFA_INVALID_ARGUMENT = 1, /* a null pointer, a bad count, an unknown enum value */
  QFA_INVALID_SHAPE = 2,    /* extents that do not fit together or overflow */
  QFA_OUT_OF_MEMORY = 3,    /* the allocator returned null */
  QFA_UNSUPPORTED_ISA = 4   /* the instruction set that was asked for is not usable here */
} qfa_status;

typedef QFA_ENUM(qfa_dtype) { QFA_FLOAT32 = 0, QFA_FLOAT16 = 1, QFA_BFLOAT16 = 2 } qfa_dtype;

typedef QFA_ENUM(qfa_compute) {
  QFA_COMPUTE_INT8 = 0,    /* both products on int8 codes */
  QFA_COMPUTE_FLOAT = 1,   /* both products in float32; nothing is quantized */
  QFA_COMPUTE_FP8E4M3 = 2, /* rows of Q, K and V are coded in 8-bit floats with a scale per row; */
  QFA_COMPUTE_FP8E5M2 = 3  /* sums of products are float32 */
} qfa_compute;

typedef QFA_ENUM(qfa_isa) {
  QFA_ISA_AUTO = 0, /* the best that is usable here, or QFA_ISA from the environment */
  QFA_ISA_SCALAR = 1,
  QFA_ISA_AVX2 = 2,
  QFA_ISA_AVX512VNNI = 3,
  QFA_ISA_AMXINT8 = 4,    /* with AMX-BF16 and AVX512-BF16, which all such processors have */
  QFA_ISA_AVXVNNI = 5,    /* AVX2 with the byte dot products of AVX-VNNI */
  QFA_ISA_AVX512BF16 = 6, /* AVX512VNNI with bfloat16 dot products */
  QFA_ISA_NEONDOT = 7,    /* 64-bit ARM with SDOT */
  QFA_ISA_NEONI8MM = 8    /* and with SMMLA */
} qfa_isa;

/* What a key/value cache holds. */
typedef QFA_ENUM(qfa_kv_format) {
  QFA_KV_FLOAT = 0,   /* numbers of the type of key and value: past_key, present_key, ... */
  QFA_KV_INT8 = 1,    /* symmetric codes -127..127; needs QFA_COMPUTE_INT8 */
  QFA_KV_INT4 = 2,    /* two codes 0..15 in a byte, the even channel low; needs QFA_COMPUTE_INT8 */
  QFA_KV_FP8E4M3 = 3, /* e4m3fn; needs QFA_COMPUTE_FLOAT or QFA_COMPUTE_FP8E4M3 */
  QFA_KV_FP8E5M2 = 4  /* needs QFA_COMPUTE_FLOAT or QFA_COMPUTE_FP8E5M2 */
} qfa_kv_format;

typedef QFA_ENUM(qfa_rotation) {
  QFA_ROTATE_NONE = 0,
  QFA_ROTATE_HADAMARD = 1 /* Q and K rows times a (block) Hadamard matrix, then quantized */
} qfa_rotation;

/* One 4-D tensor (batch, head, row, channel). Channels are contiguous; the other strides count
 * elements. */
typedef struct qfa_tensor {
  const void* data;
  qfa_dtype dtype;
  int64_t batch_stride;
  int64_t head_stride;
  int64_t row_stride;
} qfa_tensor;

/* A tensor of the same kind that is written; data null: not wanted. */
typedef struct qfa_target {
  void* data;
  int64_t batch_stride;
  int64_t head_stride;
  int64_t row_stride;
} qfa_target;

/* Keys or values of a quantized cache. Each array is (B, Hkv, rows, columns), columns contiguous;
 * the other strides count elements. C: rows of the cache (P, or P + T, or the capacity).
 *
 *   format     codes                    scale                         zero_point
 *   int8       int8 (C, channels)       float (C, 1), or none         none
 *   int4 keys  uint8 (C, ceil(D / 2))   half (ceil(C / 32), D)        int8, as scale
 *   int4 val.  uint8 (C, ceil(Dv / 2))  half (C, ceil(Dv / group))    int8, as scale
 *   fp8        uint8 (C, channels)      float (C, 1)                  none
 *
 * A number is scale * code, in int4 scale * (code - zero_point). Int8 without scales takes them
 * from k_channel_scale or v_channel_scale. An int4 key is coded when the 32 tokens of its group are
 * there; the keys of the last, incomplete group stand in `open`, (B, Hkv, 32, D) numbers of the
 * type of key, token t in row t % 32, and their codes and scales mean nothing. */
typedef struct qfa_codes {
  void* codes; /* null: absent */
  int64_t codes_strides[3];
  void* scale;
  void* zero_point;
  int64_t scale_strides[3]; /* of zero_point, too */
  void* open;               /* keys of an int4 cache */
  int64_t open_strides[3];
} qfa_codes;

/* A mask or bias broadcast to (B, H, S, P + T). Strides count elements; a stride of 0 broadcasts
 * that axis. */
typedef struct qfa_mask {
  const void* data; /* null: absent */
  int64_t strides[4];
} qfa_mask;

/* Runs fn(arg, i) for i in [0, count), in any order, possibly at the same time; returns when all
 * are done. */
typedef void (*qfa_task)(void* arg, size_t index);
typedef struct qfa_executor {
  void* context;
  void (*parallel_for)(void* context, qfa_task fn, void* arg, size_t count); /* null: serial */
  int32_t threads; /* how many tasks are worth making; results never depend on it */
} qfa_executor;

typedef struct qfa_allocator {
  void* context;
  /* null: the C library; any alignment will do; a null result is a failure */
  void* (*allocate)(void* context, size_t bytes);
  void (*release)(void* context, void* pointer);
} qfa_allocator;

typedef struct qfa_attention {
  uint32_t struct_size; /* sizeof(qfa_attention) of the caller */
  int64_t batch, heads, kv_heads, query_length, key_length, qk_channels, v_channels;

  qfa_tensor query; /* (B, H, S, D) */
  qfa_tensor key;   /* (B, Hkv, T, D) */
  qfa_tensor value; /* (B, Hkv, T, Dv) */

  qfa_mask mask; /* bytes: nonzero = may attend */
  qfa_mask bias; /* added to the scores; a row whose every visible score is -inf gives zeros */
  qfa_dtype bias_dtype;

  float scale;           /* multiplies Q K^T */
  int32_t is_causal;     /* the query at position p sees keys j <= p; see queries_at_end */
  int64_t causal_offset; /* added to the position of every query */

  /* Static scales (value per code step), or null for scales found per token. Count: 1 or one per
   * head. */
  const float* q_scale;
  int64_t q_scale_count; /* 1 or H */
  const float* k_scale;
  int64_t k_scale_count; /* 1 or Hkv */
  const float* v_scale;
  int64_t v_scale_count; /* 1 or Hkv */

  /* null, or (Hkv, D): subtracted from K before it is quantized; softmax does not see it */
  const float* k_mean;
  qfa_rotation rotation;

  /* (B, H, S, Dv), strides below, dtype of query. May be the query itself; any other overlap with
   * an input is refused. No pointer of this struct needs any alignment. */
  void* output;
  int64_t output_batch_stride, output_head_stride, output_row_stride;

  /* Since version 2. A request that ends here, or whose rest is zero, means what it meant. */

  /* Other than int8: static scales are refused, k_mean and rotation have no effect. */
  qfa_compute compute;
  float softcap; /* c > 0: a scaled score s counts as c * tanh(s / c); 0: off */

  /* Query i stands at p = i + causal_offset; with queries_at_end at
   * p = i + causal_offset + (length of the keys) - S. */
  int32_t queries_at_end;
  int32_t has_left_window, has_right_window;
  int32_t sink_per_head; /* 0: one sink for all heads */
  int64_t left_window;   /* the query at p sees keys j >= p - left_window */
  int64_t right_window;  /* the query at p sees keys j <= p + right_window */

  /* null, or how many of the keys (past ones included) each batch has: values are clamped to
   * 0..P + T, keys beyond are not seen. */
  const int64_t* kv_length;
  int64_t kv_length_count; /* 1 or B */

  /* null, or the logit of one more key whose value is zero. It changes no row that sees no key. */
  const void* sink;
  qfa_dtype sink_dtype;

  /* Keys and values in front of key and value, of their dtypes: (B, Hkv, P, D), (B, Hkv, P, Dv). */
  int64_t past_length;
  qfa_tensor past_key, past_value;
  /* Where the joined keys and values are written: (B, Hkv, P + T, D), (B, Hkv, P + T, Dv). */
  qfa_target present_key, present_value;

  /* Since version 3. */

  /* Other than float: past keys and values are in past_keys and past_values, and what is joined
   * goes to present_keys and present_values (absent: not wanted). The new ones, key and value, stay
   * numbers and are coded on the way: attention sees them as the cache will hold them. */
  qfa_kv_format kv_format;
  qfa_codes past_keys, past_values, present_keys, present_values;
  int64_t v_group;              /* int4: channels that share a scale of V; a multiple of 32 */
  const float* k_channel_scale; /* int8: null, or (Hkv, D) */
  const float* v_channel_scale; /* int8: null, or (Hkv, Dv); both or none */

  /* 1: past and present are buffers of P rows, the capacity, in which batch b holds
   * kv_length[b] - T tokens; the T new ones are put behind them, and kv_length, which is required,
   * counts them. Key j is then row j of the buffer. Present may be the very memory of past: nothing
   * is copied then. Any other overlap is refused. */
  int32_t kv_shared;
} qfa_attention;

/* Computes attention. Never throws, never aborts; on failure *message (when message is not null)
 * points to a thread-local text that names the extents, valid until the next call on this thread.
 * executor and allocator may be null. */
QFA_EXPORT qfa_status qfa_attention_run(const qfa_attention* attention, qfa_isa isa,
                                        const qfa_executor* executor,
                                        const qfa_allocator* allocator, const char** message);

/* The instruction set that QFA_ISA_AUTO stands for now; QFA_ISA in the environment overrides the
 * choice. On an unknown or unusable value of QFA_ISA returns QFA_UNSUPPORTED_ISA and sets *message.
 */
QFA_EXPORT qfa_status qfa_default_isa(qfa_isa* isa, const char** message);

/* 1 if the instruction set can be used by this process (processor, operating system and build),
 * else 0. */
QFA_EXPORT int32_t qfa_isa_usable(qfa_isa isa);

/* "scalar", "avx2", "avxvnni", "avx512vnni", "avx512bf16", "amxint8", "neondot", "neoni8mm"; the
 * value that QFA_ISA takes. Unknown: null. */
QFA_EXPORT const char* qfa_isa_name(qfa_isa isa);

/* The version of the package that this library was built with, as "MAJOR.MINOR.PATCH". */
QFA_EXPORT const char* qfa_version(void);

#ifdef __cplusplus
}
#endif

#endif /* QFA_QFA_H_ */
