// Key/value caches for tests: memory in every format, and what it holds in double precision,
// decoded by code that shares nothing with the library.
#ifndef QFA_TESTS_CACHE_H_
#define QFA_TESTS_CACHE_H_

#include <stdint.h>

#include <vector>

#include "problem.h"
#include "qfa/qfa.h"

namespace qfa::test {

struct CacheFormat {
  qfa_kv_format kv_format = QFA_KV_FLOAT;
  bool per_channel = false;
  int64_t v_group = 32;
  const char* name = "float";

  bool is_float() const { return kv_format == QFA_KV_FLOAT; }
  qfa_compute compute() const {
    const bool is_fp8 = kv_format == QFA_KV_FP8E4M3 || kv_format == QFA_KV_FP8E5M2;
    return is_fp8 ? QFA_COMPUTE_FLOAT : QFA_COMPUTE_INT8;
  }
};

// Every format, float among them.
std::vector<CacheFormat> cache_formats();

// Rows of keys or values of all heads and batches, in one format. Memory that nothing was written
// to is full of ones, which are NaN where they are read as numbers or scales.
class CacheSide {
 public:
  CacheSide(const CacheFormat& format, bool holds_keys, int64_t batch, int64_t heads, int64_t rows,
            int64_t channels);

  int64_t rows() const { return rows_; }
  // In float32.
  qfa_tensor tensor() const;
  qfa_target target();
  qfa_codes codes();
  // Rows of the cache in double, of which `stored` are filled: (batch, head, row, channel).
  // `scales` are those of the channels, (head, channel).
  std::vector<double> decode(const std::vector<int64_t>& stored,
                             const std::vector<float>& scales) const;
  bool operator==(const CacheSide& other) const;

 private:
  CacheFormat format_;
  bool holds_keys_;
  int64_t batch_, heads_, rows_, channels_, width_, scale_rows_, scale_columns_;
  std::vector<float> numbers_, open_;
  std::vector<uint8_t> codes_, scale_;
  std::vector<int8_t> zero_point_;
};

struct Cache {
  Cache(const CacheFormat& format, int64_t batch, int64_t heads, int64_t rows, int64_t channels,
        int64_t value_channels)
      : keys(format, true, batch, heads, rows, channels),
        values(format, false, batch, heads, rows, value_channels) {}
  CacheSide keys, values;
};

// Puts past and present into a request; present null: not wanted. Past rows become past_length.
void set_cache(qfa_attention& a, const CacheFormat& format, Cache* past, Cache* present);

}  // namespace qfa::test

#endif  // QFA_TESTS_CACHE_H_
