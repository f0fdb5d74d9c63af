// Feeds the fuzz target where there is no libFuzzer.
//   attention_random SECONDS [SEED]        random inputs for that long; the seed of one that fails
//                                          is printed, and can be given back
//   attention_random FILE...               these inputs
//   attention_random --write FOLDER COUNT  inputs for a fuzzer to start from
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
// Of the sanitizers, where there are any.
extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace {

std::vector<uint8_t> random_input(uint64_t seed) {
  uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  std::vector<uint8_t> input(64 + seed * 37 % 700);
  for (uint8_t& byte : input) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    byte = static_cast<uint8_t>((state * 0x2545f4914f6cdd1du) >> 56);
  }
  return input;
}

void write(const std::string& path, const std::vector<uint8_t>& bytes) {
  FILE* file = fopen(path.c_str(), "wb");
  if (file == nullptr || fwrite(bytes.data(), 1, bytes.size(), file) != bytes.size() ||
      fclose(file) != 0) {
    perror(path.c_str());
    exit(2);
  }
}

std::vector<uint8_t> read(const char* path) {
  FILE* file = fopen(path, "rb");
  if (file == nullptr) {
    perror(path);
    exit(2);
  }
  std::vector<uint8_t> bytes(1 << 16);
  bytes.resize(fread(bytes.data(), 1, bytes.size(), file));
  fclose(file);
  return bytes;
}

bool is_number(const char* text) {
  return text[0] != '\0' && strspn(text, "0123456789") == strlen(text);
}

uint64_t seed_at_work = 0;

void tell_seed() {
  fprintf(stderr, "failed with seed %llu\n", static_cast<unsigned long long>(seed_at_work));
}

int run_random(long seconds, uint64_t seed) {
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(tell_seed);
  signal(SIGABRT, [](int) { tell_seed(); });
  const time_t end = time(nullptr) + seconds;
  for (seed_at_work = seed; time(nullptr) < end; ++seed_at_work) {
    const std::vector<uint8_t> input = random_input(seed_at_work);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  printf("%llu inputs, none failed\n", static_cast<unsigned long long>(seed_at_work - seed));
  return seed_at_work == seed ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 4 && strcmp(argv[1], "--write") == 0) {
    for (uint64_t seed = 0; seed < strtoull(argv[3], nullptr, 10); ++seed) {
      write(std::string(argv[2]) + "/" + std::to_string(seed), random_input(seed));
    }
    return 0;
  }
  if (argc >= 2 && argc <= 3 && is_number(argv[1])) {
    return run_random(atol(argv[1]), argc == 3 ? strtoull(argv[2], nullptr, 10) : 1);
  }
  for (int i = 1; i < argc; ++i) {
    const std::vector<uint8_t> input = read(argv[i]);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  return argc < 2 ? 2 : 0;
}
