#include "attention/validate.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "attention/aliasing.h"
#include "attention/check_cache.h"
#include "attention/dtype.h"
#include "attention/rotation.h"
#include "attention/status.h"

namespace qfa {
namespace {

constexpr int64_t kMostElements = INT64_MAX / 16;
constexpr uint32_t kLongestStruct = 4096;
// The structs of earlier versions.
constexpr uint32_t kStructs[] = {offsetof(qfa_attention, compute),
                                 offsetof(qfa_attention, kv_format)};

bool is_struct_size(uint32_t size) {
  for (const uint32_t known : kStructs) {
    if (size == known) return true;
  }
  return size >= sizeof(qfa_attention) && size <= kLongestStruct;
}

qfa_status copy_request(const qfa_attention* request, qfa_attention* checked) {
  if (request == nullptr) return fail(QFA_INVALID_ARGUMENT, "attention is null; pass a request");
  const uint32_t size = request->struct_size;
  if (!is_struct_size(size)) {
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
  memset(checked, 0, sizeof(qfa_attention));
  memcpy(checked, request, size < sizeof(qfa_attention) ? size : sizeof(qfa_attention));
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
  const int64_t extents[] = {a.batch,        a.heads,      a.kv_heads,
                             a.query_length, a.key_length, a.past_length};
  for (const int64_t extent : extents) {
    if (extent < 0) {
      return fail(QFA_INVALID_SHAPE,
                  "an extent is negative: B %" PRId64 ", H %" PRId64 ", Hkv %" PRId64 ", S %" PRId64
                  ", T %" PRId64 ", P %" PRId64,
                  a.batch, a.heads, a.kv_heads, a.query_length, a.key_length, a.past_length);
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
  int64_t keys;
  const bool sum_fits = !__builtin_add_overflow(a.past_length, a.key_length, &keys);
  if (!sum_fits || (!is_idle(a) && (!product_fits({a.batch, a.heads, a.query_length, widest}) ||
                                    !product_fits({a.batch, a.kv_heads, keys, widest})))) {
    return fail(QFA_INVALID_SHAPE,
                "the tensors overflow: B %" PRId64 ", H %" PRId64 ", Hkv %" PRId64 ", S %" PRId64
                ", T %" PRId64 ", P %" PRId64 ", D %" PRId64 ", Dv %" PRId64,
                a.batch, a.heads, a.kv_heads, a.query_length, a.key_length, a.past_length,
                a.qk_channels, a.v_channels);
  }
  return QFA_OK;
}

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

// Softcap, windows, lengths, sinks and past keys.
qfa_status check_extensions(const qfa_attention& a) {
  if (!isfinite(a.softcap) || a.softcap < 0.0f) {
    return fail(QFA_INVALID_ARGUMENT, "softcap is %g; it must be finite and not negative, 0 is off",
                static_cast<double>(a.softcap));
  }
  if ((a.has_left_window != 0 && a.left_window < 0) ||
      (a.has_right_window != 0 && a.right_window < 0)) {
    return fail(QFA_INVALID_ARGUMENT, "a window is negative: left %" PRId64 ", right %" PRId64,
                a.left_window, a.right_window);
  }
  if (a.kv_length != nullptr && a.kv_length_count != 1 && a.kv_length_count != a.batch) {
    return fail(QFA_INVALID_SHAPE,
                "kv_length has %" PRId64 " lengths; give 1, or one for each of %" PRId64 " batches",
                a.kv_length_count, a.batch);
  }
  if (a.kv_format == QFA_KV_FLOAT && a.past_length > 0 &&
      (a.past_key.dtype != a.key.dtype || a.past_value.dtype != a.value.dtype)) {
    return fail(QFA_INVALID_ARGUMENT,
                "past_key and past_value have element types %d and %d, key and value %d and %d; "
                "they must agree",
                static_cast<int>(a.past_key.dtype), static_cast<int>(a.past_value.dtype),
                static_cast<int>(a.key.dtype), static_cast<int>(a.value.dtype));
  }
  if (a.compute < QFA_COMPUTE_INT8 || a.compute > QFA_COMPUTE_FP8E5M2) {
    return fail(QFA_INVALID_ARGUMENT, "compute %d is unknown", static_cast<int>(a.compute));
  }
  if (a.k_mean != nullptr && a.compute == QFA_COMPUTE_INT8 &&
      (a.softcap > 0.0f || a.sink != nullptr)) {
    return fail(QFA_INVALID_ARGUMENT,
                "k_mean is given with a %s, which feels the shift of the scores; leave k_mean out",
                a.softcap > 0.0f ? "softcap" : "sink");
  }
  if (a.compute != QFA_COMPUTE_INT8 &&
      (a.q_scale != nullptr || a.k_scale != nullptr || a.v_scale != nullptr)) {
    return fail(QFA_INVALID_ARGUMENT,
                "static scales are given, but attention in %s quantizes nothing with them; leave "
                "them out",
                a.compute == QFA_COMPUTE_FLOAT ? "float32" : "8-bit floats");
  }
  return QFA_OK;
}

qfa_status check_values(const qfa_attention& a) {
  if (!isfinite(a.scale)) {
    return fail(QFA_INVALID_ARGUMENT, "scale is %g; it must be finite",
                static_cast<double>(a.scale));
  }
  if (!is_dtype(a.query.dtype) || !is_dtype(a.key.dtype) || !is_dtype(a.value.dtype) ||
      !is_dtype(a.bias_dtype) || !is_dtype(a.sink_dtype)) {
    return fail(QFA_INVALID_ARGUMENT,
                "an element type is unknown: query %d, key %d, value %d, bias %d, sink %d",
                static_cast<int>(a.query.dtype), static_cast<int>(a.key.dtype),
                static_cast<int>(a.value.dtype), static_cast<int>(a.bias_dtype),
                static_cast<int>(a.sink_dtype));
  }
  if (a.rotation != QFA_ROTATE_NONE && a.rotation != QFA_ROTATE_HADAMARD) {
    return fail(QFA_INVALID_ARGUMENT, "rotation %d is unknown", static_cast<int>(a.rotation));
  }
  if (a.compute == QFA_COMPUTE_INT8 && a.rotation == QFA_ROTATE_HADAMARD &&
      hadamard_block(a.qk_channels) < kSmallestHadamard) {
    return fail(QFA_INVALID_SHAPE,
                "D %" PRId64 " is no multiple of %" PRId64
                ", so it cannot be rotated; use no "
                "rotation",
                a.qk_channels, kSmallestHadamard);
  }
  qfa_status status = check_scales("q_scale", a.q_scale, a.q_scale_count, a.heads);
  if (status == QFA_OK) status = check_scales("k_scale", a.k_scale, a.k_scale_count, a.kv_heads);
  if (status == QFA_OK) status = check_scales("v_scale", a.v_scale, a.v_scale_count, a.kv_heads);
  if (status == QFA_OK) status = check_extensions(a);
  if (status == QFA_OK) status = check_cache(a);
  return status;
}

qfa_status check_pointers(const qfa_attention& a) {
  if (!is_empty(a) && (a.query.data == nullptr || a.output == nullptr)) {
    return fail(QFA_INVALID_ARGUMENT, "%s is null", a.output == nullptr ? "output" : "query.data");
  }
  if (a.key_length > 0 && (a.key.data == nullptr || a.value.data == nullptr)) {
    return fail(QFA_INVALID_ARGUMENT, "%s is null and T is %" PRId64,
                a.key.data == nullptr ? "key.data" : "value.data", a.key_length);
  }
  if (a.kv_format == QFA_KV_FLOAT && a.past_length > 0 &&
      (a.past_key.data == nullptr || a.past_value.data == nullptr)) {
    return fail(QFA_INVALID_ARGUMENT, "%s is null and P is %" PRId64,
                a.past_key.data == nullptr ? "past_key.data" : "past_value.data", a.past_length);
  }
  const qfa_status status = check_cache_pointers(a);
  return status == QFA_OK ? check_aliasing(a) : status;
}

}  // namespace

bool is_empty(const qfa_attention& a) {
  return a.batch == 0 || a.heads == 0 || a.query_length == 0;
}

bool is_idle(const qfa_attention& a) {
  const bool wants_keys = a.present_key.data != nullptr || a.present_value.data != nullptr ||
                          a.present_keys.codes != nullptr || a.present_values.codes != nullptr;
  const bool has_keys =
      a.batch != 0 && a.kv_heads != 0 && (a.past_length != 0 || a.key_length != 0);
  return is_empty(a) && !(wants_keys && has_keys);
}

qfa_status validate(const qfa_attention* request, qfa_attention* checked) {
  qfa_status status = copy_request(request, checked);
  if (status == QFA_OK) status = check_extents(*checked);
  if (status == QFA_OK) status = check_values(*checked);
  // No row is wider: the same group, but sums with it do not overflow.
  if (checked->v_group > kMostChannels) checked->v_group = kMostChannels;
  if (status == QFA_OK && !is_idle(*checked)) status = check_pointers(*checked);
  return status;
}

}  // namespace qfa
