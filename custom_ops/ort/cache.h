// The key/value caches of a node: which tensors a format has, of which types and shapes.
#ifndef QFA_ORT_CACHE_H_
#define QFA_ORT_CACHE_H_

#include <string>

#include "ort/opspec.h"
#include "ort/tensor_view.h"
#include "qfa/qfa.h"

namespace qfa::ort {

// The inputs and outputs of keys, or those of values.
struct CacheSide {
  InputIndex fresh, past, past_scale, past_zero_point;
  OutputIndex present, present_scale, present_zero_point;
};

inline constexpr CacheSide kKeySide = {kInput_key,
                                       kInput_past_key,
                                       kInput_past_key_scale,
                                       kInput_past_key_zero_point,
                                       kOutput_present_key,
                                       kOutput_present_key_scale,
                                       kOutput_present_key_zero_point};
inline constexpr CacheSide kValueSide = {kInput_value,
                                         kInput_past_value,
                                         kInput_past_value_scale,
                                         kInput_past_value_zero_point,
                                         kOutput_present_value,
                                         kOutput_present_value_scale,
                                         kOutput_present_value_zero_point};

// Extents of one tensor of a cache of `rows` tokens.
struct CacheShape {
  size_t rank;
  int64_t extents[4];

  std::string text() const;
  bool fits(const TensorView& view) const;
};

// What the tensors of one side look like in a call.
struct CacheLayout {
  const Attributes* attributes;
  bool of_keys;
  int64_t batch, kv_heads, channels;

  CacheShape codes(int64_t rows) const;
  CacheShape scales(int64_t rows) const;  // and zero points
  CacheShape open() const;                // keys of an int4 cache
  // Strides of dense tensors of a cache of `rows` tokens.
  qfa_codes codes_at(int64_t rows, void* codes, void* scale, void* zero_point, void* open) const;
};

bool is_coded(const Attributes& attributes);
bool is_shared(const Attributes& attributes);
bool has_channel_scales(const Attributes& attributes);
bool has_zero_points(const Attributes& attributes);
qfa_kv_format kv_format_of(const Attributes& attributes);

// Refuses what a node lacks, has without need or has of another type. types: undefined where an
// input is absent. Throws Failure.
void check_cache_tensors(const Attributes& attributes, const OrtElementType* types,
                         const bool* wants);

// Writes zeros where a new cache of int4 keys of `rows` tokens will hold nothing: behind the last
// complete group of codes, and behind the open keys. Memory that was never written must not leave.
void clear_open_keys(const CacheLayout& layout, const qfa_attention& attention, int64_t rows,
                     const qfa_codes& present);

// Refuses buffers of which some are given as past and present and some are not: what is in place is
// not copied. Throws Failure.
void check_in_place(const CacheSide& side, const qfa_codes& past, const qfa_codes& present);

}  // namespace qfa::ort

#endif  // QFA_ORT_CACHE_H_
