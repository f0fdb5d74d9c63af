// Instructions that move AMX tiles, in assembly: the compiler's own forms for loading a
// configuration and a tile do not say which memory they read, so stores before them may be dropped
// or moved.
#ifndef QFA_KERNELS_X86_TILE_INSTRUCTIONS_H_
#define QFA_KERNELS_X86_TILE_INSTRUCTIONS_H_

#include <stdint.h>

#define QFA_TILE_LOAD(tile, base, stride)                                                   \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile                                       \
                   :                                                                        \
                   : "r"(static_cast<const void*>(base)), "r"(static_cast<int64_t>(stride)) \
                   : "memory")
#define QFA_TILE_STORE(tile, base, stride)                                            \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)"                             \
                   :                                                                  \
                   : "r"(static_cast<void*>(base)), "r"(static_cast<int64_t>(stride)) \
                   : "memory")
#define QFA_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile::)

#endif  // QFA_KERNELS_X86_TILE_INSTRUCTIONS_H_
