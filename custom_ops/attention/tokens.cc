#include "attention/tokens.h"

#include <string.h>

namespace qfa {

Tokens tokens_of(const qfa_attention& a, int64_t batch) {
  Tokens tokens;
  tokens.added = a.key_length;
  tokens.end = a.past_length + (a.kv_shared != 0 ? 0 : a.key_length);
  tokens.start = a.past_length;
  tokens.length = tokens.end;
  if (a.kv_length == nullptr) return tokens;
  const int64_t index = a.kv_length_count == 1 ? 0 : batch;
  int64_t length;
  memcpy(&length, reinterpret_cast<const char*>(a.kv_length) + 8 * index, 8);
  if (a.kv_shared != 0) tokens.start = length - a.key_length;
  tokens.length = length < 0 ? 0 : (length < tokens.end ? length : tokens.end);
  return tokens;
}

}  // namespace qfa
