#include "kernels/arch.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace qfa {
namespace {

// What the build brought kernels for.
constexpr uint32_t kBuiltFeatures = 0
#if defined(QFA_HAS_AVX2)
                                    | kFeatureAvx2
#endif
#if defined(QFA_HAS_AVX512VNNI)
                                    | kFeatureAvx512Vnni
#endif
#if defined(QFA_HAS_AVXVNNI)
                                    | kFeatureAvxVnni
#endif
#if defined(QFA_HAS_AVX512BF16)
                                    | kFeatureAvx512Bf16
#endif
#if defined(QFA_HAS_AMXINT8)
                                    | kFeatureAmx
#endif
#if defined(QFA_HAS_NEONDOT)
                                    | kFeatureNeonDot
#endif
#if defined(QFA_HAS_NEONI8MM)
                                    | kFeatureNeonI8mm
#endif
    ;

#if defined(__x86_64__)

struct Registers {
  uint32_t a, b, c, d;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r = {0, 0, 0, 0};
  if (!__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d)) r = {0, 0, 0, 0};
  return r;
}

// Which register files the operating system saves on a task switch.
uint64_t enabled_state() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Linux hands out tile data per process and on request; without it the first tile load faults.
bool request_tile_permission() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequestPermission = 0x1023;
  constexpr int kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

uint32_t detect() {
  const auto has = [](uint32_t word, int bit) { return ((word >> bit) & 1u) != 0; };
  const Registers basic = cpuid(1, 0);
  const Registers extended = cpuid(7, 0);
  const bool os_saves_vectors = has(basic.c, 27);
  if (!os_saves_vectors) return 0;
  const uint64_t state = enabled_state();
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;

  uint32_t features = 0;
  const bool fma = has(basic.c, 12), f16c = has(basic.c, 29), avx2 = has(extended.b, 5);
  if ((state & kYmm) != kYmm || !fma || !f16c || !avx2) return features;
  features |= kFeatureAvx2;
  const Registers more = cpuid(7, 1);
  if (has(more.a, 4)) features |= kFeatureAvxVnni;

  const bool avx512 = has(extended.b, 16) && has(extended.b, 17) && has(extended.b, 30) &&
                      has(extended.b, 31) && has(extended.c, 11);
  if ((state & kZmm) != kZmm || !avx512) return features;
  features |= kFeatureAvx512Vnni;
  if (!has(more.a, 5)) return features;
  features |= kFeatureAvx512Bf16;

  const bool amx = (kBuiltFeatures & kFeatureAmx) != 0 && has(extended.d, 22) &&
                   has(extended.d, 24) && has(extended.d, 25);
  if ((state & kTiles) != kTiles || !amx || !request_tile_permission()) return features;
  return features | kFeatureAmx;
}

#elif defined(__aarch64__) && defined(__linux__)

uint32_t detect() {
  // The numbers of Linux's interface, which older headers do not name.
  constexpr unsigned long kDotProduct = 1ul << 20, kI8mm = 1ul << 13;
  uint32_t features = 0;
  if ((getauxval(AT_HWCAP) & kDotProduct) == 0) return features;
  features |= kFeatureNeonDot;
  if ((getauxval(AT_HWCAP2) & kI8mm) != 0) features |= kFeatureNeonI8mm;
  return features;
}

#else

uint32_t detect() { return 0; }

#endif

// From the least to the best; `base` is the set whose kernels a set may use besides its own.
constexpr struct {
  qfa_isa isa;
  const char* name;
  qfa_isa base;
  uint32_t needs;  // besides what the base needs
} kInstructionSets[] = {
    {QFA_ISA_SCALAR, "scalar", QFA_ISA_AUTO, 0},
    {QFA_ISA_AVX2, "avx2", QFA_ISA_SCALAR, kFeatureAvx2},
    {QFA_ISA_AVXVNNI, "avxvnni", QFA_ISA_AVX2, kFeatureAvxVnni},
    {QFA_ISA_AVX512VNNI, "avx512vnni", QFA_ISA_AVX2, kFeatureAvx512Vnni},
    {QFA_ISA_AVX512BF16, "avx512bf16", QFA_ISA_AVX512VNNI, kFeatureAvx512Bf16},
    {QFA_ISA_AMXINT8, "amxint8", QFA_ISA_AVX512BF16, kFeatureAmx},
    {QFA_ISA_NEONDOT, "neondot", QFA_ISA_SCALAR, kFeatureNeonDot},
    {QFA_ISA_NEONI8MM, "neoni8mm", QFA_ISA_NEONDOT, kFeatureNeonI8mm},
};

}  // namespace

uint32_t supported_features() {
  static const uint32_t features = detect() & kBuiltFeatures;
  return features;
}

bool is_isa_supported(qfa_isa isa, uint32_t features) {
  for (const auto& set : kInstructionSets) {
    if (set.isa != isa) continue;
    const bool has_own = (features & set.needs) == set.needs;
    return has_own && (set.base == QFA_ISA_AUTO || is_isa_supported(set.base, features));
  }
  return false;
}

bool includes(qfa_isa isa, qfa_isa part) {
  if (isa == part) return true;
  for (const auto& set : kInstructionSets) {
    if (set.isa == isa) return set.base != QFA_ISA_AUTO && includes(set.base, part);
  }
  return false;
}

qfa_isa best_isa(uint32_t features) {
  qfa_isa best = QFA_ISA_SCALAR;
  for (const auto& set : kInstructionSets) {
    if (is_isa_supported(set.isa, features)) best = set.isa;
  }
  return best;
}

qfa_isa isa_from_name(const char* name) {
  for (const auto& set : kInstructionSets) {
    if (strcmp(set.name, name) == 0) return set.isa;
  }
  return QFA_ISA_AUTO;
}

}  // namespace qfa

extern "C" const char* qfa_isa_name(qfa_isa isa) {
  for (const auto& set : qfa::kInstructionSets) {
    if (set.isa == isa) return set.name;
  }
  return nullptr;
}

extern "C" int32_t qfa_isa_usable(qfa_isa isa) { return qfa::is_isa_supported(isa) ? 1 : 0; }
