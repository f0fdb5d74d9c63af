// What a caller may ask for.
#ifndef QFA_ATTENTION_VALIDATE_H_
#define QFA_ATTENTION_VALIDATE_H_

#include "qfa/qfa.h"

namespace qfa {

inline constexpr int64_t kMostChannels = 1024;

// Checks everything that does not depend on values in tensors, and copies the request to *checked.
// Accepts requests of callers that were built with the struct of version 1, whose rest counts as
// zero, or with a longer struct, if they left the rest zero.
qfa_status validate(const qfa_attention* request, qfa_attention* checked);

// Whether the output has no element at all.
bool is_empty(const qfa_attention& a);

// Whether nothing is to be written. Pointers are not checked then.
bool is_idle(const qfa_attention& a);

}  // namespace qfa

#endif  // QFA_ATTENTION_VALIDATE_H_
