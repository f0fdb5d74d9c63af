#include "request.h"

#include <math.h>
#include <stddef.h>

#include <limits>

#include "numbers.h"

namespace qfa::fuzz {
namespace {

constexpr int64_t kMostWork = 600'000;  // multiplications of one request, roughly

// Small numbers often, others next to a multiple of a block.
int64_t draw_length(Bytes& bytes, uint32_t most) {
  const uint32_t kind = bytes.below(8);
  if (kind < 3) return bytes.below(most < 20 ? most + 1 : 21);
  const uint32_t unit = kind < 5 ? 16 : (kind < 7 ? 64 : 1024);
  const int64_t length = int64_t{unit} * (1 + bytes.below(most / unit + 1)) + bytes.below(3) - 1;
  return length > most ? most : length;
}

int64_t draw_channels(Bytes& bytes) {
  constexpr int64_t kUsual[] = {64, 80, 96, 128, 192, 256, 576, 1024};
  const uint32_t kind = bytes.below(16);
  if (kind < 11) return 1 + bytes.below(80);
  return kind == 15 ? 1 + bytes.below(1024) : kUsual[bytes.below(8)];
}

// Any number, near 0 or near the ends of the type as well.
int64_t draw_position(Bytes& bytes) {
  switch (bytes.below(8)) {
    case 5:
      return static_cast<int64_t>(bytes.word());
    case 6:
      return std::numeric_limits<int64_t>::max() - bytes.below(300);
    case 7:
      return std::numeric_limits<int64_t>::min() + bytes.below(300);
    default:
      return static_cast<int64_t>(bytes.below(320)) - 100;
  }
}

qfa_dtype draw_dtype(Bytes& bytes) { return static_cast<qfa_dtype>(bytes.below(3)); }

int64_t size_of(qfa_dtype dtype) { return dtype == QFA_FLOAT32 ? 4 : 2; }

// Half of the time everything else than plain numbers, as faults hide there.
Temper draw_temper(Bytes& bytes) {
  const uint32_t kind = bytes.below(12);
  return kind < 8 ? Temper::kPlain : static_cast<Temper>(kind - 7);
}

struct Layout {
  int64_t strides[3];
  int64_t low, high;  // the elements from low up to high, relative to the first one
};

// Axes in any order and direction, with gaps; an axis that is only read may also be broadcast.
Layout draw_layout(Bytes& bytes, const int64_t (&extents)[3], int64_t channels, bool is_read) {
  constexpr int kOrders[6][3] = {{2, 1, 0}, {1, 2, 0}, {2, 0, 1}, {0, 2, 1}, {1, 0, 2}, {0, 1, 2}};
  const auto& order = kOrders[bytes.below(4) == 0 ? bytes.below(6) : bytes.below(2)];
  Layout layout = {{}, 0, channels};
  const bool has_gaps = bytes.one_in(4);
  int64_t span = channels;
  bool is_empty = false;
  for (const int axis : order) {
    if (has_gaps) span += bytes.below(5);
    int64_t stride = span;
    span *= extents[axis];
    const uint32_t kind = bytes.below(24);
    if (kind == 23) stride = -stride;
    if (kind == 22 && is_read) stride = 0;
    layout.strides[axis] = stride;
    is_empty = is_empty || extents[axis] == 0;
    if (!is_empty) (stride < 0 ? layout.low : layout.high) += (extents[axis] - 1) * stride;
  }
  if (is_empty) layout.low = layout.high = 0;
  return layout;
}

// Adds to a request. All sizes follow from the extents that were drawn before.
class Drawer {
 public:
  Drawer(Bytes& bytes, Request& request)
      : bytes_(bytes), request_(request), a_(request.attention) {}

  void draw() {
    memset(&a_, 0, sizeof(a_));
    a_.struct_size = sizeof(a_);
    numbers_ = Numbers(bytes_.word());
    const uint32_t age = bytes_.below(32);
    const int version = age == 30 ? 1 : (age == 31 ? 2 : 3);
    if (version == 3) draw_cache_kind();
    draw_extents(version > 1);
    draw_tensors();
    draw_scores();
    if (version > 1) draw_extensions();
    draw_quantization();
    if (version > 1) draw_cache();
    draw_output();
    if (version < 3) {
      // What lies behind the end is not looked at.
      a_.struct_size =
          version == 1 ? offsetof(qfa_attention, compute) : offsetof(qfa_attention, kv_format);
      memset(reinterpret_cast<char*>(&a_) + a_.struct_size, 0xff, sizeof(a_) - a_.struct_size);
    }
    for (auto& buffer : request_.buffers) buffer->seal();
  }

 private:
  Bytes& bytes_;
  Request& request_;
  qfa_attention& a_;
  Numbers numbers_{0};

  int64_t keys() const { return a_.past_length + (a_.kv_shared != 0 ? 0 : a_.key_length); }
  bool has_codes() const { return a_.kv_format != QFA_KV_FLOAT; }

  void draw_cache_kind() {
    a_.kv_format = static_cast<qfa_kv_format>(bytes_.below(2) == 0 ? 0 : bytes_.below(5));
    a_.kv_shared = bytes_.one_in(4) ? 1 : 0;
    if (a_.kv_format != QFA_KV_INT4) return;
    a_.v_group = 32 * (1 + bytes_.below(5));
    if (bytes_.one_in(16)) a_.v_group = std::numeric_limits<int64_t>::max() / 32 * 32;
  }

  Buffer& take(int64_t size) {
    const size_t offset = bytes_.one_in(3) ? bytes_.below(16) : 0;
    request_.buffers.push_back(std::make_unique<Buffer>(static_cast<size_t>(size), offset));
    return *request_.buffers.back();
  }

  void draw_extents(bool may_have_past) {
    a_.batch = bytes_.below(16) == 1 ? 0 : 1 + bytes_.below(2);
    a_.kv_heads = bytes_.below(16) == 1 ? 0 : 1 + bytes_.below(3);
    a_.heads = a_.kv_heads * (bytes_.below(16) == 1 ? 0 : 1 + bytes_.below(5));
    const bool is_decoding = bytes_.below(2) == 1;
    a_.query_length = is_decoding ? 1 + bytes_.below(16) : draw_length(bytes_, 130);
    a_.key_length = draw_length(bytes_, is_decoding ? 2200 : 300);
    if (may_have_past && (a_.kv_shared != 0 || has_codes() || bytes_.one_in(3))) {
      // Long pasts and few new keys, or any other split.
      const int64_t news = bytes_.below(2) == 0 ? bytes_.below(20) : draw_length(bytes_, 300);
      a_.past_length = a_.key_length > news ? a_.key_length - news : 0;
      a_.key_length -= a_.past_length;
    }
    a_.qk_channels = draw_channels(bytes_);
    a_.v_channels = bytes_.one_in(3) ? draw_channels(bytes_) : a_.qk_channels;
    const auto work = [this] {
      return (a_.heads * a_.query_length + 8 * a_.kv_heads) * keys() * a_.batch *
             (a_.qk_channels + a_.v_channels);
    };
    while (work() > kMostWork) {
      int64_t* longest = &a_.query_length;
      if (a_.key_length > *longest) longest = &a_.key_length;
      if (a_.past_length > *longest) longest = &a_.past_length;
      *longest = *longest / 2;
    }
    // The new tokens are among those of the buffer.
    if (a_.kv_shared != 0) a_.past_length += a_.key_length;
  }

  qfa_tensor draw_tensor(qfa_dtype dtype, int64_t heads, int64_t rows, int64_t channels) {
    const Layout layout = draw_layout(bytes_, {a_.batch, heads, rows}, channels, true);
    const int64_t size = size_of(dtype);
    Buffer& buffer = take((layout.high - layout.low) * size);
    numbers_.fill(buffer.data(), buffer.size(), dtype, draw_temper(bytes_));
    return {buffer.data() - layout.low * size, dtype, layout.strides[0], layout.strides[1],
            layout.strides[2]};
  }

  qfa_target draw_target(qfa_dtype dtype, int64_t heads, int64_t rows, int64_t channels,
                         bool is_number) {
    const Layout layout = draw_layout(bytes_, {a_.batch, heads, rows}, channels, false);
    const int64_t size = size_of(dtype);
    Buffer& buffer = take((layout.high - layout.low) * size);
    if (buffer.size() != 0) memset(buffer.data(), 0x5a, buffer.size());
    const qfa_target target = {buffer.data() - layout.low * size, layout.strides[0],
                               layout.strides[1], layout.strides[2]};
    allow(buffer, target, size, heads, rows, channels);
    request_.targets.push_back({&buffer, size, dtype, is_number});
    return target;
  }

  void allow(Buffer& buffer, const qfa_target& target, int64_t size, int64_t heads, int64_t rows,
             int64_t channels) {
    const int64_t first = static_cast<uint8_t*>(target.data) - buffer.data();
    for (int64_t b = 0; b < a_.batch; ++b) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t at =
              b * target.batch_stride + h * target.head_stride + r * target.row_stride;
          buffer.allow(first + at * size, channels * size);
        }
      }
    }
  }

  void draw_tensors() {
    a_.query = draw_tensor(draw_dtype(bytes_), a_.heads, a_.query_length, a_.qk_channels);
    const qfa_dtype key = draw_dtype(bytes_), value = draw_dtype(bytes_);
    a_.key = draw_tensor(key, a_.kv_heads, a_.key_length, a_.qk_channels);
    a_.value = draw_tensor(value, a_.kv_heads, a_.key_length, a_.v_channels);
  }

  // Of (B, H, S, P + T), broadcast along any axes.
  qfa_mask draw_mask(int64_t size, Buffer** buffer) {
    const int64_t extents[4] = {a_.batch, a_.heads, a_.query_length, keys()};
    qfa_mask mask = {};
    int64_t span = 1, low = 0, high = 1;
    bool is_empty = false;
    for (int axis = 3; axis >= 0; --axis) {
      const uint32_t kind = bytes_.below(16);
      int64_t stride = kind < 4 ? 0 : span;
      if (kind == 15) stride = -stride;
      if (stride != 0) span *= extents[axis] + (kind == 14 ? 3 : 0);
      mask.strides[axis] = stride;
      is_empty = is_empty || extents[axis] == 0;
      if (!is_empty) (stride < 0 ? low : high) += (extents[axis] - 1) * stride;
    }
    *buffer = &take(is_empty ? 0 : (high - low) * size);
    mask.data = (*buffer)->data() - (is_empty ? 0 : low * size);
    return mask;
  }

  void draw_scores() {
    a_.scale = bytes_.one_in(4) ? draw_factor() : 0.125f;
    if (bytes_.one_in(3)) {
      Buffer* buffer;
      a_.mask = draw_mask(1, &buffer);
      const uint32_t percent = bytes_.below(101);
      for (size_t i = 0; i < buffer->size(); ++i) {
        buffer->data()[i] = numbers_.bits() % 100 < percent ? 0 : static_cast<uint8_t>(1u << i % 8);
      }
    }
    if (bytes_.one_in(3)) draw_bias();
    a_.is_causal = static_cast<int32_t>(bytes_.below(2));
    if (bytes_.one_in(3)) a_.causal_offset = draw_position(bytes_);
  }

  void draw_compute() {
    constexpr qfa_compute kComputes[] = {QFA_COMPUTE_INT8, QFA_COMPUTE_INT8, QFA_COMPUTE_FLOAT,
                                         QFA_COMPUTE_FP8E4M3, QFA_COMPUTE_FP8E5M2};
    a_.compute = kComputes[bytes_.below(5)];
    if (a_.kv_format == QFA_KV_INT8 || a_.kv_format == QFA_KV_INT4) a_.compute = QFA_COMPUTE_INT8;
    const bool is_e4m3 = a_.kv_format == QFA_KV_FP8E4M3, is_e5m2 = a_.kv_format == QFA_KV_FP8E5M2;
    if (is_e4m3 && a_.compute != QFA_COMPUTE_FP8E4M3) a_.compute = QFA_COMPUTE_FLOAT;
    if (is_e5m2 && a_.compute != QFA_COMPUTE_FP8E5M2) a_.compute = QFA_COMPUTE_FLOAT;
  }

  // Finite, of any sign and size.
  float draw_factor() {
    float factor;
    do {
      const uint32_t pattern = static_cast<uint32_t>(numbers_.bits());
      memcpy(&factor, &pattern, 4);
    } while (!isfinite(factor));
    return factor;
  }

  void draw_bias() {
    Buffer* buffer;
    a_.bias_dtype = draw_dtype(bytes_);
    const size_t size = static_cast<size_t>(size_of(a_.bias_dtype));
    a_.bias = draw_mask(static_cast<int64_t>(size), &buffer);
    const Temper temper = draw_temper(bytes_);
    numbers_.fill(buffer->data(), buffer->size(), a_.bias_dtype, temper);
    // NaN and infinity may give anything, and even finite ones may in sum.
    if (temper == Temper::kBroken) request_.is_repeatable = false;
    // Minus infinity, and the lowest number, which masks, too.
    const uint32_t percent = bytes_.below(101);
    for (size_t i = 0; i + size <= buffer->size(); i += size) {
      if (numbers_.bits() % 100 >= percent) continue;
      const bool is_lowest = (numbers_.bits() >> 30) == 0;
      uint32_t pattern = is_lowest ? 0xff7fffffu : 0xff800000u;
      if (a_.bias_dtype == QFA_FLOAT16) pattern = is_lowest ? 0xfbffu : 0xfc00u;
      if (a_.bias_dtype == QFA_BFLOAT16) pattern = is_lowest ? 0xff7fu : 0xff80u;
      const uint16_t narrow = static_cast<uint16_t>(pattern);
      memcpy(buffer->data() + i, size == 4 ? static_cast<const void*>(&pattern) : &narrow, size);
    }
  }

  void draw_extensions() {
    draw_compute();
    if (bytes_.one_in(4)) a_.softcap = fabsf(bytes_.one_in(2) ? draw_factor() : 30.0f);
    a_.queries_at_end = bytes_.one_in(3) ? 1 : 0;
    if (bytes_.one_in(4)) {
      a_.has_left_window = 1;
      a_.left_window = draw_position(bytes_) & std::numeric_limits<int64_t>::max();
    }
    if (bytes_.one_in(4)) {
      a_.has_right_window = 1;
      a_.right_window = draw_position(bytes_) & std::numeric_limits<int64_t>::max();
    }
    if (a_.kv_shared != 0 || bytes_.one_in(3)) {
      a_.kv_length_count = bytes_.below(2) == 0 ? 1 : a_.batch;
      Buffer& buffer = take(8 * a_.kv_length_count);
      a_.kv_length = reinterpret_cast<const int64_t*>(buffer.data());
      for (size_t i = 0; i < buffer.size(); i += 8) {
        int64_t length = draw_position(bytes_);
        if (a_.kv_shared != 0) {
          const uint32_t room = static_cast<uint32_t>(a_.past_length - a_.key_length);
          length = a_.key_length + bytes_.below(room + 1);
        }
        memcpy(buffer.data() + i, &length, 8);
      }
    }
    if (bytes_.one_in(4)) {
      a_.sink_per_head = static_cast<int32_t>(bytes_.below(2));
      a_.sink_dtype = draw_dtype(bytes_);
      Buffer& buffer = take(size_of(a_.sink_dtype) * (a_.sink_per_head != 0 ? a_.heads : 1));
      a_.sink = buffer.data();
      numbers_.fill(buffer.data(), buffer.size(), a_.sink_dtype, draw_temper(bytes_));
    }
  }

  // Tokens of a batch that are new: they alone are written where past and present are one memory.
  void new_tokens(int64_t batch, int64_t* first, int64_t* end) const {
    *first = a_.past_length;
    if (a_.kv_shared != 0) {
      memcpy(
          first,
          reinterpret_cast<const char*>(a_.kv_length) + 8 * (a_.kv_length_count == 1 ? 0 : batch),
          8);
      *first -= a_.key_length;
    }
    *end = *first + a_.key_length;
  }

  enum class Present { kAbsent, kApart, kTwin };

  // Where the rows of one or two arrays of a cache lie, in the past and in the present.
  struct Place {
    Layout past, present;
    int64_t present_rows, columns;
    int64_t unit;  // tokens of a row
    Present kind;
  };

  Place draw_place(int64_t past_rows, int64_t present_rows, int64_t columns, int64_t unit,
                   Present kind) {
    Place place = {{}, {}, present_rows, columns, unit, kind};
    place.past = draw_layout(
        bytes_, {a_.batch, a_.kv_heads, kind == Present::kTwin ? present_rows : past_rows}, columns,
        kind != Present::kTwin);
    place.present = place.past;
    if (kind == Present::kApart) {
      place.present = draw_layout(bytes_, {a_.batch, a_.kv_heads, present_rows}, columns, false);
    }
    return place;
  }

  // Memory of one array, filled by `fill`; how the numbers of the present are compared.
  template <typename Fill>
  void draw_array(const Place& place, int64_t size, qfa_dtype dtype, bool is_number,
                  const Fill& fill, void** past, void** present) {
    Buffer& before = take((place.past.high - place.past.low) * size);
    fill(before);
    *past = before.data() - place.past.low * size;
    *present = nullptr;
    if (place.kind == Present::kAbsent) return;
    Buffer* after = &before;
    if (place.kind == Present::kApart) {
      after = &take((place.present.high - place.present.low) * size);
      if (after->size() != 0) memset(after->data(), 0x5a, after->size());
    }
    *present = after->data() - place.present.low * size;
    for (int64_t b = 0; b < a_.batch; ++b) {
      int64_t first = 0, end = place.present_rows;
      if (place.kind == Present::kTwin && place.unit > 0) {
        new_tokens(b, &first, &end);
        first = first / place.unit;
        end = (end + place.unit - 1) / place.unit;
      }
      for (int64_t h = 0; h < a_.kv_heads; ++h) {
        for (int64_t r = first; r < end; ++r) {
          const int64_t at = b * place.present.strides[0] + h * place.present.strides[1] +
                             r * place.present.strides[2] - place.present.low;
          after->allow(at * size, place.columns * size);
        }
      }
    }
    request_.targets.push_back({after, size, dtype, is_number});
  }

  static void set_strides(const Layout& layout, int64_t (&strides)[3]) {
    for (int axis = 0; axis < 3; ++axis) strides[axis] = layout.strides[axis];
  }

  void draw_number_side(const qfa_tensor& fresh, int64_t channels, qfa_tensor* past,
                        qfa_target* present) {
    const Place place = draw_place(a_.past_length, keys(), channels, 1, draw_present());
    void* data;
    const Temper temper = draw_temper(bytes_);
    draw_array(
        place, size_of(fresh.dtype), fresh.dtype, false,
        [&](Buffer& b) { numbers_.fill(b.data(), b.size(), fresh.dtype, temper); }, &data,
        &present->data);
    *past = {data, fresh.dtype, place.past.strides[0], place.past.strides[1],
             place.past.strides[2]};
    present->batch_stride = place.present.strides[0];
    present->head_stride = place.present.strides[1];
    present->row_stride = place.present.strides[2];
  }

  Present draw_present() { return static_cast<Present>(bytes_.below(3)); }

  void draw_code_side(bool holds_keys, int64_t channels, qfa_codes* past, qfa_codes* present) {
    const bool is_int4 = a_.kv_format == QFA_KV_INT4;
    const Present kind = draw_present();
    const auto fill_bytes = [&](Buffer& b) {
      for (size_t i = 0; i < b.size(); ++i) b.data()[i] = static_cast<uint8_t>(numbers_.bits());
    };
    // Keys of an int4 cache are coded in groups.
    const int64_t unit = is_int4 && holds_keys ? QFA_INT4_KEY_GROUP : 1;
    const Place codes =
        draw_place(a_.past_length, keys(), is_int4 ? (channels + 1) / 2 : channels, 1, kind);
    Place written = codes;
    if (unit != 1) written.unit = 0;  // the whole group, and so any row
    draw_array(written, 1, QFA_FLOAT32, false, fill_bytes, &past->codes, &present->codes);
    set_strides(codes.past, past->codes_strides);
    set_strides(codes.present, present->codes_strides);
    if (a_.k_channel_scale != nullptr) return;

    const auto rows = [&](int64_t tokens) { return (tokens + unit - 1) / unit; };
    const qfa_dtype dtype = is_int4 ? QFA_FLOAT16 : QFA_FLOAT32;
    int64_t columns = 1;
    if (is_int4)
      columns = holds_keys ? channels : channels / a_.v_group + (channels % a_.v_group != 0);
    const Place scales = draw_place(rows(a_.past_length), rows(keys()), columns, unit, kind);
    const Temper temper = draw_temper(bytes_);
    draw_array(
        scales, size_of(dtype), dtype, true,
        [&](Buffer& b) { numbers_.fill(b.data(), b.size(), dtype, temper); }, &past->scale,
        &present->scale);
    set_strides(scales.past, past->scale_strides);
    set_strides(scales.present, present->scale_strides);
    if (!is_int4) return;
    draw_array(scales, 1, QFA_FLOAT32, false, fill_bytes, &past->zero_point, &present->zero_point);
    if (!holds_keys) return;
    const Place open = draw_place(QFA_INT4_KEY_GROUP, QFA_INT4_KEY_GROUP, channels, 0, kind);
    const Temper open_temper = draw_temper(bytes_);
    draw_array(
        open, size_of(a_.key.dtype), a_.key.dtype, false,
        [&](Buffer& b) { numbers_.fill(b.data(), b.size(), a_.key.dtype, open_temper); },
        &past->open, &present->open);
    set_strides(open.past, past->open_strides);
    set_strides(open.present, present->open_strides);
  }

  void draw_cache() {
    if (has_codes()) {
      draw_code_side(true, a_.qk_channels, &a_.past_keys, &a_.present_keys);
      draw_code_side(false, a_.v_channels, &a_.past_values, &a_.present_values);
    } else if (a_.past_length > 0 || bytes_.one_in(4)) {
      draw_number_side(a_.key, a_.qk_channels, &a_.past_key, &a_.present_key);
      draw_number_side(a_.value, a_.v_channels, &a_.past_value, &a_.present_value);
    }
  }

  const float* draw_channel_scales(int64_t channels) {
    Buffer& buffer = take(4 * a_.kv_heads * channels);
    for (size_t i = 0; i < buffer.size(); i += 4) {
      const float scale = fabsf(numbers_.plain()) * 0.02f;
      memcpy(buffer.data() + i, &scale, 4);
    }
    return reinterpret_cast<const float*>(buffer.data());
  }

  const float* draw_scales(int64_t heads, int64_t* count) {
    *count = bytes_.below(2) == 0 ? 1 : heads;
    Buffer& buffer = take(4 * *count);
    for (size_t i = 0; i < buffer.size(); i += 4) {
      float scale = fabsf(bytes_.one_in(4) ? draw_factor() : numbers_.plain() * 0.02f);
      if (!isnormal(scale)) scale = 1.0f;
      memcpy(buffer.data() + i, &scale, 4);
    }
    return reinterpret_cast<const float*>(buffer.data());
  }

  void draw_quantization() {
    const bool is_int8 = a_.compute == QFA_COMPUTE_INT8;
    if (a_.kv_format == QFA_KV_INT8 && bytes_.one_in(2)) {
      a_.k_channel_scale = draw_channel_scales(a_.qk_channels);
      a_.v_channel_scale = draw_channel_scales(a_.v_channels);
    } else if (is_int8) {
      if (bytes_.one_in(4)) a_.q_scale = draw_scales(a_.heads, &a_.q_scale_count);
      if (bytes_.one_in(4)) a_.k_scale = draw_scales(a_.kv_heads, &a_.k_scale_count);
      if (bytes_.one_in(4)) a_.v_scale = draw_scales(a_.kv_heads, &a_.v_scale_count);
    }
    if (bytes_.one_in(4) && !(is_int8 && (a_.softcap > 0.0f || a_.sink != nullptr))) {
      Buffer& buffer = take(4 * a_.kv_heads * a_.qk_channels);
      numbers_.fill(buffer.data(), buffer.size(), QFA_FLOAT32, draw_temper(bytes_));
      a_.k_mean = reinterpret_cast<const float*>(buffer.data());
    }
    if (bytes_.one_in(3) && (!is_int8 || a_.qk_channels % 8 == 0)) {
      a_.rotation = QFA_ROTATE_HADAMARD;
    }
  }

  void draw_output() {
    if (bytes_.one_in(8) && a_.qk_channels == a_.v_channels && rows_are_apart(a_.query)) {
      // In place of the query, the first tensor that was drawn.
      Buffer& buffer = *request_.buffers[0];
      const qfa_target target = {const_cast<void*>(a_.query.data), a_.query.batch_stride,
                                 a_.query.head_stride, a_.query.row_stride};
      const int64_t size = size_of(a_.query.dtype);
      allow(buffer, target, size, a_.heads, a_.query_length, a_.v_channels);
      request_.targets.push_back({&buffer, size, a_.query.dtype, true});
      set_output(target);
      return;
    }
    set_output(draw_target(a_.query.dtype, a_.heads, a_.query_length, a_.v_channels, true));
  }

  bool rows_are_apart(const qfa_tensor& t) const {
    return t.batch_stride != 0 && t.head_stride != 0 && t.row_stride != 0;
  }

  void set_output(const qfa_target& target) {
    a_.output = target.data;
    a_.output_batch_stride = target.batch_stride;
    a_.output_head_stride = target.head_stride;
    a_.output_row_stride = target.row_stride;
  }
};

}  // namespace

Request::Request(Bytes& bytes) { Drawer(bytes, *this).draw(); }

}  // namespace qfa::fuzz
