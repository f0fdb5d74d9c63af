// Which instruction set is chosen: by the processor's features, and by QFA_ISA.
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "kernels/arch.h"
#include "kernels/kernels.h"
#include "problem.h"

namespace qfa::test {
namespace {

QFA_TEST(best_set_for_given_features) {
  constexpr uint32_t avx512 = kFeatureAvx2 | kFeatureAvx512Vnni;
  CHECK(best_isa(0) == QFA_ISA_SCALAR);
  CHECK(best_isa(kFeatureAvx2) == QFA_ISA_AVX2);
  CHECK(best_isa(kFeatureAvx2 | kFeatureAvxVnni) == QFA_ISA_AVXVNNI);
  CHECK(best_isa(avx512) == QFA_ISA_AVX512VNNI);
  CHECK(best_isa(avx512 | kFeatureAvxVnni) == QFA_ISA_AVX512VNNI);
  CHECK(best_isa(avx512 | kFeatureAvx512Bf16) == QFA_ISA_AVX512BF16);
  CHECK(best_isa(avx512 | kFeatureAvx512Bf16 | kFeatureAmx) == QFA_ISA_AMXINT8);
  CHECK(best_isa(kFeatureNeonDot) == QFA_ISA_NEONDOT);
  CHECK(best_isa(kFeatureNeonDot | kFeatureNeonI8mm) == QFA_ISA_NEONI8MM);
  // A hypervisor may hide any feature: what remains must still be complete.
  CHECK(best_isa(kFeatureAvx512Vnni) == QFA_ISA_SCALAR);
  CHECK(best_isa(kFeatureAvxVnni) == QFA_ISA_SCALAR);
  CHECK(best_isa(kFeatureNeonI8mm) == QFA_ISA_SCALAR);
  CHECK(best_isa(kFeatureAvx2 | kFeatureAmx) == QFA_ISA_AVX2);
  CHECK(best_isa(avx512 | kFeatureAmx) == QFA_ISA_AVX512VNNI);
  CHECK(!is_isa_supported(QFA_ISA_AMXINT8, avx512 | kFeatureAmx));
  CHECK(!is_isa_supported(static_cast<qfa_isa>(99), ~0u));
  CHECK(is_isa_supported(QFA_ISA_SCALAR, 0));
}

// Whatever is masked, the chosen set needs nothing beyond what is there.
QFA_TEST(no_combination_of_features_chooses_too_much) {
  for (uint32_t features = 0; features < 1u << 7; ++features) {
    const qfa_isa best = best_isa(features);
    for (const qfa_isa isa : kInstructionSetOrder) {
      if (includes(best, isa)) CHECK(is_isa_supported(isa, features));
    }
  }
}

// QFA_EXPECTED_ISA names the best set of this processor, for whoever runs the test on one of
// choice.
QFA_TEST(this_processor_has_the_expected_set) {
  const char* expected = getenv("QFA_EXPECTED_ISA");
  printf("     best set of this processor: %s\n", qfa_isa_name(best_isa()));
  if (expected != nullptr) CHECK(best_isa() == isa_from_name(expected));
}

QFA_TEST(sets_stand_on_sets) {
  CHECK(includes(QFA_ISA_AMXINT8, QFA_ISA_AVX512VNNI) && includes(QFA_ISA_AMXINT8, QFA_ISA_SCALAR));
  // Processors with AVX-512 VNNI need not have AVX-VNNI.
  CHECK(!includes(QFA_ISA_AVX512VNNI, QFA_ISA_AVXVNNI));
  CHECK(!includes(QFA_ISA_NEONI8MM, QFA_ISA_AVX2) && !includes(QFA_ISA_AVX2, QFA_ISA_NEONDOT));
}

QFA_TEST(names_round_trip) {
  for (const qfa_isa isa : kInstructionSetOrder) {
    CHECK(isa_from_name(qfa_isa_name(isa)) == isa);
  }
  CHECK(qfa_isa_name(QFA_ISA_AUTO) == nullptr);
  CHECK(qfa_isa_name(static_cast<qfa_isa>(99)) == nullptr);
  CHECK(isa_from_name("AVX2") == QFA_ISA_AUTO);
}

QFA_TEST(every_set_has_every_kind) {
  for (const qfa_isa isa : kInstructionSetOrder) {
    const Kernels kernels = kernels_for(isa);
#define QFA_PRESENT(kind) CHECK(kernels.kind != nullptr);
    QFA_FOR_EACH_KERNEL_KIND(QFA_PRESENT)
#undef QFA_PRESENT
  }
}

// Sets QFA_ISA for the length of a scope; null removes it.
class Environment {
 public:
  explicit Environment(const char* value) {
    const char* old = getenv("QFA_ISA");
    had_ = old != nullptr;
    if (had_) strncpy(old_, old, sizeof(old_) - 1);
    value == nullptr ? unsetenv("QFA_ISA") : setenv("QFA_ISA", value, 1);
  }
  ~Environment() { had_ ? setenv("QFA_ISA", old_, 1) : unsetenv("QFA_ISA"); }

 private:
  bool had_;
  char old_[64] = "";
};

QFA_TEST(environment_chooses) {
  qfa_isa isa = QFA_ISA_AUTO;
  {
    const Environment none(nullptr);
    CHECK(qfa_default_isa(&isa, nullptr) == QFA_OK && isa == best_isa());
  }
  {
    const Environment empty("");
    CHECK(qfa_default_isa(&isa, nullptr) == QFA_OK && isa == best_isa());
  }
  for (const qfa_isa set : kInstructionSetOrder) {
    const Environment named(qfa_isa_name(set));
    const char* message = "";
    const qfa_status status = qfa_default_isa(&isa, &message);
    if (qfa_isa_usable(set) != 0) {
      CHECK(status == QFA_OK && isa == set);
    } else {
      CHECK(status == QFA_UNSUPPORTED_ISA);
      CHECK_THAT(strstr(message, qfa_isa_name(set)) != nullptr, "%s", message);
    }
  }
}

QFA_TEST(unknown_name_is_refused) {
  const Environment wrong("sse9");
  const Problem p = Problem::random({1, 1, 1, 2, 3, 8, 8}, 1);
  std::vector<float> output(16);
  const qfa_attention a = p.request(output.data());
  const char* message = "";
  CHECK(qfa_attention_run(&a, QFA_ISA_AUTO, nullptr, nullptr, &message) == QFA_UNSUPPORTED_ISA);
  CHECK_THAT(strstr(message, "sse9") != nullptr && strstr(message, "avx2") != nullptr, "%s",
             message);
  // A set that is asked for by number does not look at the environment.
  CHECK(qfa_attention_run(&a, QFA_ISA_SCALAR, nullptr, nullptr, nullptr) == QFA_OK);
  CHECK(qfa_default_isa(nullptr, nullptr) == QFA_INVALID_ARGUMENT);
}

QFA_TEST(unusable_sets_are_refused_not_tried) {
  const Problem p = Problem::random({1, 1, 1, 2, 3, 8, 8}, 1);
  std::vector<float> output(16);
  const qfa_attention a = p.request(output.data());
  for (const int wanted : {2, 3, 4, 5, 6, 7, 8, 9, 99, -1}) {
    const qfa_isa isa = static_cast<qfa_isa>(wanted);
    const qfa_status status = qfa_attention_run(&a, isa, nullptr, nullptr, nullptr);
    CHECK(status == (qfa_isa_usable(isa) != 0 ? QFA_OK : QFA_UNSUPPORTED_ISA));
  }
}

QFA_TEST(version_is_three_numbers) {
  int major, minor, patch;
  CHECK(sscanf(qfa_version(), "%d.%d.%d", &major, &minor, &patch) == 3);
}

}  // namespace
}  // namespace qfa::test

QFA_TEST_MAIN
