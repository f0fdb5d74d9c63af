#include "attention/check_cache.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "attention/status.h"

namespace qfa {
namespace {

constexpr int64_t kGroupUnit = 32;

// One side of the cache, past or present.
struct Part {
  const char* name;
  const qfa_codes* codes;
  bool holds_keys;
};

qfa_status check_format(const qfa_attention& a) {
  if (a.kv_format < QFA_KV_FLOAT || a.kv_format > QFA_KV_FP8E5M2) {
    return fail(QFA_INVALID_ARGUMENT, "kv_format %d is unknown", static_cast<int>(a.kv_format));
  }
  const bool has_codes = a.past_keys.codes != nullptr || a.past_values.codes != nullptr ||
                         a.present_keys.codes != nullptr || a.present_values.codes != nullptr;
  if (a.kv_format == QFA_KV_FLOAT) {
    if (!has_codes && a.k_channel_scale == nullptr && a.v_channel_scale == nullptr) return QFA_OK;
    return fail(QFA_INVALID_ARGUMENT,
                "the request has codes or scales of a quantized cache, but kv_format is float; set "
                "kv_format");
  }
  if (a.past_key.data != nullptr || a.past_value.data != nullptr || a.present_key.data != nullptr ||
      a.present_value.data != nullptr) {
    return fail(QFA_INVALID_ARGUMENT,
                "kv_format is %d, but past or present is given as numbers; give past_keys, "
                "past_values, present_keys and present_values",
                static_cast<int>(a.kv_format));
  }
  const char* const computes[] = {"any format", "int8", "int8", "float or fp8e4m3",
                                  "float or fp8e5m2"};
  const bool is_integer = a.kv_format == QFA_KV_INT8 || a.kv_format == QFA_KV_INT4;
  const qfa_compute same =
      a.kv_format == QFA_KV_FP8E4M3 ? QFA_COMPUTE_FP8E4M3 : QFA_COMPUTE_FP8E5M2;
  const bool fits = is_integer ? a.compute == QFA_COMPUTE_INT8
                               : a.compute == QFA_COMPUTE_FLOAT || a.compute == same;
  if (!fits) {
    return fail(QFA_INVALID_ARGUMENT,
                "a cache of kv_format %d is computed in %s, not in compute %d; set compute to that",
                static_cast<int>(a.kv_format), computes[a.kv_format], static_cast<int>(a.compute));
  }
  if (a.kv_format == QFA_KV_INT4 && (a.v_group <= 0 || a.v_group % kGroupUnit != 0)) {
    return fail(QFA_INVALID_ARGUMENT, "v_group is %" PRId64 "; it must be a multiple of %" PRId64,
                a.v_group, kGroupUnit);
  }
  return QFA_OK;
}

qfa_status check_channel_scales(const qfa_attention& a) {
  if (a.k_channel_scale == nullptr && a.v_channel_scale == nullptr) return QFA_OK;
  if (a.kv_format != QFA_KV_INT8 || a.k_channel_scale == nullptr || a.v_channel_scale == nullptr) {
    return fail(QFA_INVALID_ARGUMENT,
                "k_channel_scale and v_channel_scale go together, and belong to an int8 cache");
  }
  if (a.q_scale != nullptr || a.k_scale != nullptr || a.v_scale != nullptr) {
    return fail(QFA_INVALID_ARGUMENT,
                "static scales are given beside scales per channel; leave one of them out");
  }
  int64_t k_count, v_count;
  if (__builtin_mul_overflow(a.kv_heads, a.qk_channels, &k_count) ||
      __builtin_mul_overflow(a.kv_heads, a.v_channels, &v_count)) {
    return fail(QFA_INVALID_SHAPE,
                "scales per channel overflow: Hkv %" PRId64 ", D %" PRId64 ", Dv %" PRId64,
                a.kv_heads, a.qk_channels, a.v_channels);
  }
  const struct {
    const char* name;
    const float* scales;
    int64_t count;
  } both[] = {{"k_channel_scale", a.k_channel_scale, k_count},
              {"v_channel_scale", a.v_channel_scale, v_count}};
  for (const auto& each : both) {
    for (int64_t i = 0; i < each.count; ++i) {
      float scale;
      memcpy(&scale, reinterpret_cast<const char*>(each.scales) + 4 * i, 4);
      if (!(scale > 0.0f) || !isnormal(scale)) {
        return fail(QFA_INVALID_ARGUMENT,
                    "%s[%" PRId64 "] is %g; a scale must be a normal number above 0", each.name, i,
                    static_cast<double>(scale));
      }
    }
  }
  return QFA_OK;
}

qfa_status check_lengths(const qfa_attention& a) {
  if (a.kv_shared == 0) return QFA_OK;
  if (a.kv_length == nullptr) {
    return fail(QFA_INVALID_ARGUMENT,
                "past and present are shared buffers, but kv_length is null; give the number of "
                "tokens of each batch, the new ones included");
  }
  for (int64_t i = 0; i < a.kv_length_count; ++i) {
    int64_t length;
    memcpy(&length, reinterpret_cast<const char*>(a.kv_length) + 8 * i, 8);
    if (length < a.key_length || length > a.past_length) {
      return fail(QFA_INVALID_SHAPE,
                  "kv_length[%" PRId64 "] is %" PRId64 "; it counts the T %" PRId64
                  " new tokens and cannot be above the capacity P %" PRId64 " of the cache",
                  i, length, a.key_length, a.past_length);
    }
  }
  return QFA_OK;
}

qfa_status check_part(const qfa_attention& a, const Part& part) {
  const qfa_codes& c = *part.codes;
  const bool has_scales = a.k_channel_scale == nullptr;
  const char* missing = nullptr;
  if (c.codes == nullptr) {
    missing = "codes";
  } else if (has_scales && c.scale == nullptr) {
    missing = "scale";
  } else if (a.kv_format == QFA_KV_INT4 && c.zero_point == nullptr) {
    missing = "zero_point";
  } else if (a.kv_format == QFA_KV_INT4 && part.holds_keys && c.open == nullptr) {
    missing = "open";
  }
  if (missing == nullptr) return QFA_OK;
  return fail(QFA_INVALID_ARGUMENT, "%s.%s is null, which kv_format %d needs", part.name, missing,
              static_cast<int>(a.kv_format));
}

}  // namespace

qfa_status check_cache(const qfa_attention& a) {
  qfa_status status = check_format(a);
  if (status == QFA_OK) status = check_channel_scales(a);
  if (status == QFA_OK) status = check_lengths(a);
  return status;
}

qfa_status check_cache_pointers(const qfa_attention& a) {
  if (a.kv_format == QFA_KV_FLOAT) return QFA_OK;
  const Part past[] = {{"past_keys", &a.past_keys, true}, {"past_values", &a.past_values, false}};
  const Part present[] = {{"present_keys", &a.present_keys, true},
                          {"present_values", &a.present_values, false}};
  for (const Part& part : past) {
    const qfa_status status = a.past_length > 0 ? check_part(a, part) : QFA_OK;
    if (status != QFA_OK) return status;
  }
  for (const Part& part : present) {
    const qfa_status status = part.codes->codes != nullptr ? check_part(a, part) : QFA_OK;
    if (status != QFA_OK) return status;
  }
  return QFA_OK;
}

}  // namespace qfa
