// Which tokens of a key/value head lie where: in the cache that was given, or among the new rows.
#ifndef QFA_ATTENTION_TOKENS_H_
#define QFA_ATTENTION_TOKENS_H_

#include <stdint.h>

#include "qfa/qfa.h"

namespace qfa {

struct Tokens {
  int64_t start;   // token `start + i` is row i of the new keys and values
  int64_t added;   // T
  int64_t length;  // tokens that may be seen
  int64_t end;     // rows of the cache afterwards

  bool is_new(int64_t token) const { return token >= start && token < start + added; }
  // Whether tokens first..last - 1 all lie in the cache that was given, and may be seen.
  bool are_old(int64_t first, int64_t last) const {
    return last <= length && (last <= start || first >= start + added);
  }
};

// All values of kv_length must have been checked where past and present are shared.
Tokens tokens_of(const qfa_attention& a, int64_t batch);

}  // namespace qfa

#endif  // QFA_ATTENTION_TOKENS_H_
