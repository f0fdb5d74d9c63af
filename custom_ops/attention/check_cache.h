// Checks of what a request says about its key/value cache.
#ifndef QFA_ATTENTION_CHECK_CACHE_H_
#define QFA_ATTENTION_CHECK_CACHE_H_

#include "qfa/qfa.h"

namespace qfa {

// Formats and scales, and the lengths in shared buffers.
qfa_status check_cache(const qfa_attention& a);

// Whether everything is there that the format needs.
qfa_status check_cache_pointers(const qfa_attention& a);

}  // namespace qfa

#endif  // QFA_ATTENTION_CHECK_CACHE_H_
