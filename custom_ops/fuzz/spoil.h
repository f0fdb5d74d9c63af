// Requests that no caller should make.
#ifndef QFA_FUZZ_SPOIL_H_
#define QFA_FUZZ_SPOIL_H_

#include "bytes.h"
#include "qfa/qfa.h"

namespace qfa::fuzz {

// Changes a request that asks for something in one way that must be refused. Returns what was done,
// or null where the drawn change does not apply.
const char* spoil(Bytes& bytes, qfa_attention& attention);

// Fills a request with any bytes at all; pointers are null or lead to `memory`, which has room for
// 64 bytes.
void scramble(Bytes& bytes, qfa_attention& attention, void* memory);

}  // namespace qfa::fuzz

#endif  // QFA_FUZZ_SPOIL_H_
