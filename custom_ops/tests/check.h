// A test harness of one header: QFA_TEST defines a test, CHECK and its kin report and count
// failures.
#ifndef QFA_TESTS_CHECK_H_
#define QFA_TESTS_CHECK_H_

#include <stdio.h>
#include <string.h>

namespace qfa::test {

struct Test {
  const char* name;
  void (*run)();
  Test* next;
};

inline Test* all_tests = nullptr;
inline int failures = 0;
inline constexpr int kMostReports = 20;

struct Register {
  explicit Register(Test* test) {
    Test** end = &all_tests;
    while (*end != nullptr) end = &(*end)->next;
    *end = test;
  }
};

// Runs the tests whose name contains argv[1], or all.
inline int main_of_tests(int argc, char** argv) {
  for (Test* test = all_tests; test != nullptr; test = test->next) {
    if (argc > 1 && strstr(test->name, argv[1]) == nullptr) continue;
    const int before = failures;
    test->run();
    printf("%s %s\n", failures == before ? "ok  " : "FAIL", test->name);
    fflush(stdout);
  }
  return failures == 0 ? 0 : 1;
}

}  // namespace qfa::test

#define QFA_TEST(name)                                               \
  static void name();                                                \
  static qfa::test::Test name##_entry = {#name, name, nullptr};      \
  static const qfa::test::Register name##_registered(&name##_entry); \
  static void name()

// On failure, unless there were many already, prints the place and a message in the style of
// printf.
#define CHECK_THAT(condition, ...)                                \
  do {                                                            \
    if (!(condition)) {                                           \
      if (++qfa::test::failures > qfa::test::kMostReports) break; \
      printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);      \
      printf(__VA_ARGS__);                                        \
      printf("\n");                                               \
    }                                                             \
  } while (0)

#define CHECK(condition) CHECK_THAT(condition, "is false")

#define QFA_TEST_MAIN \
  int main(int argc, char** argv) { return qfa::test::main_of_tests(argc, argv); }

#endif  // QFA_TESTS_CHECK_H_
