#include "attention/validate.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "attention/aliasing.h"
#include "attention/rotation.h"
#include "attention/status.h"

namespace qfa {
namespace {

constexpr int64_t kMostElements = INT64_MAX / 16;
constexpr uint32_t kLongestStruct = 4096;

qfa_status copy_request(const qfa_attention* request, qfa_attention* checked) {
  if (request == nullptr) return fail(QFA_INVALID_ARGUMENT, "attention is null; pass a request");
  const uint32_t size = request->struct_size;
  if (size < sizeof(qfa_attention) || size > kLongestStruct) {
    return fail(QFA_INVALID_ARGUMENT,
                "attention.struct_size is %" PRIu32
                ", this library expects %zu; set it to sizeof(qfa_attention)",
                size, sizeof(qfa_attention));
  }
  const char* bytes = reinterpret_cast<const char*>(request);
  for (uint32_t i = sizeof(qfa_attention); i < size; ++i) {
    if (bytes[i] != 0) {
      return fail(QFA_INVALID_ARGUMENT,
                  "the request uses a field at byte %" PRIu32
                  " that this library does not know; install a newer one",
                  i);
    }
  }
  memcpy(checked, request, sizeof(qfa_attention));
  return QFA_OK;
}

bool product_fits(const int64_t (&factors)[4]) {
  int64_t product = 1;
  for (const int64_t factor : factors) {
    if (__builtin_mul_overflow(product, factor, &product) || product > kMostElements) return false;
  }
  return true;
}

qfa_status check_extents(const qfa_attention& a) {
  const int64_t extents[] = {a.batch, a.heads, a.kv_heads, a.query_length, a.key_length};
  for (const int64_t extent : extents) {
    if (extent < 0) {
      return fail(QFA_INVALID_SHAPE,
                  "an extent is negative: B %" PRId64 ", H %" PRId64 ", Hkv %" PRId64 ", S %" PRId64
                  ", T %" PRId64,
                  a.batch, a.heads, a.kv_heads, a.query_length, a.key_length);
    }
  }
  if (a.qk_channels < 1 || a.qk_channels > kMostChannels || a.v_channels < 1 ||
      a.v_channels > kMostChannels) {
    return fail(QFA_INVALID_SHAPE, "channels D %" PRId64 ", Dv %" PRId64 " are outside 1..%" PRId64,
                a.qk_channels, a.v_channels, kMostChannels);
  }
  if (a.heads != 0 && (a.kv_heads == 0 || a.heads % a.kv_heads != 0)) {
    return fail(QFA_INVALID_SHAPE,
                "query heads H %" PRId64 " are not a multiple of key/value heads Hkv %" PRId64,
                a.heads, a.kv_heads);
  }
  // Rows of codes take at least 64 bytes, whatever D is.
  int64_t widest = a.qk_channels > a.v_channels ? a.qk_channels : a.v_channels;
  if (widest < 64) widest = 64;
  if (!is_empty(a) && (!product_fits({a.batch, a.heads, a.query_length, widest}) ||
                       !product_fits({a.batch, a.kv_heads, a.key_length, widest}))) {
    return fail(QFA_INVALID_SHAPE,
                "the tensors overflow: B %" PRId64 ", H %" PRId64 ", Hkv %" PRId64 ", S %" PRId64
                ", T %" PRId64 ", D %" PRId64 ", Dv %" PRId64,
                a.batch, a.heads, a.kv_heads, a.query_length, a.key_length, a.qk_channels,
                a.v_channels);
  }
  return QFA_OK;
}

bool is_dtype(qfa_dtype dtype) { return dtype == QFA_FLOAT32 || dtype == QFA_FLOAT16; }

qfa_status check_scales(const char* name, const float* scales, int64_t count, int64_t heads) {
  if (scales == nullptr) return QFA_OK;
  if (count != 1 && count != heads) {
    return fail(QFA_INVALID_SHAPE,
                "%s has %" PRId64 " scales; give 1, or one for each of %" PRId64 " heads", name,
                count, heads);
  }
  for (int64_t i = 0; i < count; ++i) {
    float scale;
    memcpy(&scale, reinterpret_cast<const char*>(scales) + i * 4, 4);
    if (!(scale > 0.0f) || !isnormal(scale)) {
      return fail(QFA_INVALID_ARGUMENT,
                  "%s[%" PRId64 "] is %g; a scale must be a normal number above 0", name, i,
                  static_cast<double>(scale));
    }
  }
  return QFA_OK;
}

qfa_status check_values(const qfa_attention& a) {
  if (!isfinite(a.scale)) {
    return fail(QFA_INVALID_ARGUMENT, "scale is %g; it must be finite",
                static_cast<double>(a.scale));
  }
  if (!is_dtype(a.query.dtype) || !is_dtype(a.key.dtype) || !is_dtype(a.value.dtype) ||
      !is_dtype(a.bias_dtype)) {
    return fail(QFA_INVALID_ARGUMENT,
                "an element type is unknown: query %d, key %d, value %d, bias %d",
                static_cast<int>(a.query.dtype), static_cast<int>(a.key.dtype),
                static_cast<int>(a.value.dtype), static_cast<int>(a.bias_dtype));
  }
  if (a.rotation != QFA_ROTATE_NONE && a.rotation != QFA_ROTATE_HADAMARD) {
    return fail(QFA_INVALID_ARGUMENT, "rotation %d is unknown", static_cast<int>(a.rotation));
  }
  if (a.rotation == QFA_ROTATE_HADAMARD && hadamard_block(a.qk_channels) < kSmallestHadamard) {
    return fail(QFA_INVALID_SHAPE,
                "D %" PRId64 " is no multiple of %" PRId64
                ", so it cannot be rotated; use no "
                "rotation",
                a.qk_channels, kSmallestHadamard);
  }
  qfa_status status = check_scales("q_scale", a.q_scale, a.q_scale_count, a.heads);
  if (status == QFA_OK) status = check_scales("k_scale", a.k_scale, a.k_scale_count, a.kv_heads);
  if (status == QFA_OK) status = check_scales("v_scale", a.v_scale, a.v_scale_count, a.kv_heads);
  return status;
}

qfa_status check_pointers(const qfa_attention& a) {
  if (a.query.data == nullptr || a.output == nullptr) {
    return fail(QFA_INVALID_ARGUMENT, "%s is null", a.output == nullptr ? "output" : "query.data");
  }
  if (a.key_length > 0 && (a.key.data == nullptr || a.value.data == nullptr)) {
    return fail(QFA_INVALID_ARGUMENT, "%s is null and T is %" PRId64,
                a.key.data == nullptr ? "key.data" : "value.data", a.key_length);
  }
  return check_aliasing(a);
}

}  // namespace

bool is_empty(const qfa_attention& a) {
  return a.batch == 0 || a.heads == 0 || a.query_length == 0;
}

qfa_status validate(const qfa_attention* request, qfa_attention* checked) {
  qfa_status status = copy_request(request, checked);
  if (status == QFA_OK) status = check_extents(*checked);
  if (status == QFA_OK) status = check_values(*checked);
  if (status == QFA_OK && !is_empty(*checked)) status = check_pointers(*checked);
  return status;
}

}  // namespace qfa
