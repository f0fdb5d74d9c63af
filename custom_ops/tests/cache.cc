#include "cache.h"

#include <math.h>
#include <string.h>

namespace qfa::test {
namespace {

double e4m3(uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return NAN;
  const double magnitude =
      exponent == 0 ? ldexp(mantissa, -9) : ldexp(8.0 + mantissa, exponent - 10);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

double e5m2(uint8_t code) {
  const int exponent = (code >> 2) & 31, mantissa = code & 3;
  double magnitude = exponent == 0 ? ldexp(mantissa, -16) : ldexp(4.0 + mantissa, exponent - 17);
  if (exponent == 31) magnitude = mantissa == 0 ? INFINITY : NAN;
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

}  // namespace

std::vector<CacheFormat> cache_formats() {
  return {{QFA_KV_FLOAT, false, 0, "float"},
          {QFA_KV_INT8, false, 0, "int8 per token"},
          {QFA_KV_INT8, true, 0, "int8 per channel"},
          {QFA_KV_INT4, false, 32, "int4"},
          {QFA_KV_INT4, false, 64, "int4, values in groups of 64"},
          {QFA_KV_FP8E4M3, false, 0, "fp8 e4m3"},
          {QFA_KV_FP8E5M2, false, 0, "fp8 e5m2"}};
}

CacheSide::CacheSide(const CacheFormat& format, bool holds_keys, int64_t batch, int64_t heads,
                     int64_t rows, int64_t channels)
    : format_(format),
      holds_keys_(holds_keys),
      batch_(batch),
      heads_(heads),
      rows_(rows),
      channels_(channels),
      width_(channels),
      scale_rows_(rows),
      scale_columns_(1) {
  const size_t all = static_cast<size_t>(batch * heads);
  if (format.is_float()) {
    numbers_.assign(all * static_cast<size_t>(rows * channels), NAN);
    return;
  }
  int64_t scale_bytes = 4;
  if (format.kv_format == QFA_KV_INT4) {
    width_ = (channels + 1) / 2;
    scale_rows_ = holds_keys ? (rows + 31) / 32 : rows;
    scale_columns_ = holds_keys ? channels : (channels + format.v_group - 1) / format.v_group;
    scale_bytes = 2;
    zero_point_.assign(all * static_cast<size_t>(scale_rows_ * scale_columns_), -1);
    if (holds_keys) open_.assign(all * static_cast<size_t>(32 * channels), NAN);
  }
  codes_.assign(all * static_cast<size_t>(rows * width_), 0xff);
  if (!format.per_channel) {
    scale_.assign(all * static_cast<size_t>(scale_rows_ * scale_columns_ * scale_bytes), 0xff);
  }
}

qfa_tensor CacheSide::tensor() const {
  return {numbers_.data(), QFA_FLOAT32, heads_ * rows_ * channels_, rows_ * channels_, channels_};
}

qfa_target CacheSide::target() {
  return {numbers_.data(), heads_ * rows_ * channels_, rows_ * channels_, channels_};
}

qfa_codes CacheSide::codes() {
  qfa_codes c;
  memset(&c, 0, sizeof(c));
  const auto set = [this](int64_t (&strides)[3], int64_t rows, int64_t columns) {
    strides[0] = heads_ * rows * columns;
    strides[1] = rows * columns;
    strides[2] = columns;
  };
  c.codes = codes_.data();
  set(c.codes_strides, rows_, width_);
  set(c.scale_strides, scale_rows_, scale_columns_);
  set(c.open_strides, 32, channels_);
  if (!scale_.empty()) c.scale = scale_.data();
  if (!zero_point_.empty()) c.zero_point = zero_point_.data();
  if (!open_.empty()) c.open = open_.data();
  return c;
}

std::vector<double> CacheSide::decode(const std::vector<int64_t>& stored,
                                      const std::vector<float>& scales) const {
  std::vector<double> all(static_cast<size_t>(batch_ * heads_ * rows_ * channels_), NAN);
  const auto scale_at = [this](int64_t place) {
    if (format_.kv_format == QFA_KV_INT4) {
      uint16_t half;
      memcpy(&half, scale_.data() + 2 * place, 2);
      return static_cast<double>(half_to_float(half));
    }
    float scale;
    memcpy(&scale, scale_.data() + 4 * place, 4);
    return static_cast<double>(scale);
  };
  for (int64_t b = 0; b < batch_; ++b) {
    for (int64_t h = 0; h < heads_; ++h) {
      const int64_t head = b * heads_ + h, count = stored[static_cast<size_t>(b)];
      for (int64_t t = 0; t < count; ++t) {
        for (int64_t c = 0; c < channels_; ++c) {
          const int64_t place = (head * rows_ + t) * channels_ + c;
          double& number = all[static_cast<size_t>(place)];
          if (format_.is_float()) {
            number = static_cast<double>(numbers_[static_cast<size_t>(place)]);
            continue;
          }
          if (format_.kv_format == QFA_KV_INT4) {
            if (holds_keys_ && t >= count / 32 * 32) {
              number = static_cast<double>(
                  open_[static_cast<size_t>((head * 32 + t % 32) * channels_ + c)]);
              continue;
            }
            const uint8_t both = codes_[static_cast<size_t>((head * rows_ + t) * width_ + c / 2)];
            const int code = c % 2 == 0 ? both & 15 : both >> 4;
            const int64_t row = holds_keys_ ? t / 32 : t;
            const int64_t column = holds_keys_ ? c : c / format_.v_group;
            const int64_t group = (head * scale_rows_ + row) * scale_columns_ + column;
            number = scale_at(group) * (code - zero_point_[static_cast<size_t>(group)]);
            continue;
          }
          const uint8_t code = codes_[static_cast<size_t>(place)];
          if (format_.kv_format == QFA_KV_INT8 && format_.per_channel) {
            number = static_cast<int8_t>(code) *
                     static_cast<double>(scales[static_cast<size_t>(h * channels_ + c)]);
            continue;
          }
          const double step = scale_at(head * rows_ + t);
          if (format_.kv_format == QFA_KV_INT8) number = step * static_cast<int8_t>(code);
          if (format_.kv_format == QFA_KV_FP8E4M3) number = step * e4m3(code);
          if (format_.kv_format == QFA_KV_FP8E5M2) number = step * e5m2(code);
        }
      }
    }
  }
  return all;
}

bool CacheSide::operator==(const CacheSide& other) const {
  const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && (a.empty() || memcmp(a.data(), b.data(), a.size() * 4) == 0);
  };
  return same(numbers_, other.numbers_) && same(open_, other.open_) && codes_ == other.codes_ &&
         scale_ == other.scale_ && zero_point_ == other.zero_point_;
}

void set_cache(qfa_attention& a, const CacheFormat& format, Cache* past, Cache* present) {
  a.kv_format = format.kv_format;
  a.v_group = format.kv_format == QFA_KV_INT4 ? format.v_group : 0;
  a.compute = format.is_float() ? a.compute : format.compute();
  a.past_length = past != nullptr ? past->keys.rows() : 0;
  if (format.is_float()) {
    if (past != nullptr) {
      a.past_key = past->keys.tensor();
      a.past_value = past->values.tensor();
    }
    if (present != nullptr) {
      a.present_key = present->keys.target();
      a.present_value = present->values.target();
    }
    return;
  }
  if (past != nullptr) {
    a.past_keys = past->keys.codes();
    a.past_values = past->values.codes();
  }
  if (present != nullptr) {
    a.present_keys = present->keys.codes();
    a.present_values = present->values.codes();
  }
}

}  // namespace qfa::test
