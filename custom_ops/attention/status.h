// The outcome of a call and the text that explains it.
#ifndef QFA_ATTENTION_STATUS_H_
#define QFA_ATTENTION_STATUS_H_

#include "qfa/qfa.h"

namespace qfa {

// Writes the text of this thread's latest failure and returns `status`.
__attribute__((format(printf, 2, 3))) qfa_status fail(qfa_status status, const char* format, ...);

// The text that the latest fail() on this thread wrote.
const char* failure_text();

}  // namespace qfa

#endif  // QFA_ATTENTION_STATUS_H_
