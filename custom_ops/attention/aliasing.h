// Which memory a request reads and writes.
#ifndef QFA_ATTENTION_ALIASING_H_
#define QFA_ATTENTION_ALIASING_H_

#include "qfa/qfa.h"

namespace qfa {

// Refuses strides whose offsets overflow, and outputs that overlap each other or what is still to
// be read. The output may be the query itself: each query row is read before the output row in its
// place is written.
qfa_status check_aliasing(const qfa_attention& a);

}  // namespace qfa

#endif  // QFA_ATTENTION_ALIASING_H_
