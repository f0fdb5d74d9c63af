// What this processor can do at most, to hold measured times against: operations per second of one
// instruction in registers, and bytes per second of reading memory in four streams.
//
// A shared library of its own, for benchmark/attention/native.py. It also has the threads that the
// kernel is given there.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

struct Peak {
  const char* name;
  bool (*usable)();
  // Runs the instruction `turns` * kChains times in independent chains.
  void (*run)(int64_t turns);
  // Operations of one turn: a multiplication and an addition count as two.
  double operations;
};

constexpr int kChains = 12;

#define QFA_TARGET(sets) __attribute__((target(sets)))

#if defined(__x86_64__)

// One instruction of each of twelve chains; registers 14 and 15 hold operands.
#define QFA_TWELVE(a, r) \
  a(r, 0) a(r, 1) a(r, 2) a(r, 3) a(r, 4) a(r, 5) a(r, 6) a(r, 7) a(r, 8) a(r, 9) a(r, 10) a(r, 11)
#define QFA_CLOBBERS                                                                       \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define QFA_CLEAR(r, i) "vpxor %%xmm" #i ", %%xmm" #i ", %%xmm" #i "\n"
#define QFA_CLEAR_ALL QFA_TWELVE(QFA_CLEAR, x) QFA_CLEAR(x, 14) QFA_CLEAR(x, 15)

#define QFA_FMA(r, i) "vfmadd231ps %%" #r "15, %%" #r "14, %%" #r #i "\n"
#define QFA_VEX_DPBUSD(r, i) "%{vex%} vpdpbusd %%" #r "15, %%" #r "14, %%" #r #i "\n"
#define QFA_EVEX_DPBUSD(r, i) "%{evex%} vpdpbusd %%" #r "15, %%" #r "14, %%" #r #i "\n"
#define QFA_DPBF16(r, i) "vdpbf16ps %%" #r "15, %%" #r "14, %%" #r #i "\n"
// Bytes without VNNI: products in pairs, pairs of pairs, sum.
#define QFA_MADDUBS(r, i)                    \
  "vpmaddubsw %%" #r "15, %%" #r "14, %%" #r \
  "12\n"                                     \
  "vpmaddwd %%" #r "15, %%" #r "12, %%" #r   \
  "13\n"                                     \
  "vpaddd %%" #r "13, %%" #r #i ", %%" #r #i "\n"

#define QFA_LOOP(name, sets, step, r)                                      \
  QFA_TARGET(sets) void name(int64_t turns) {                              \
    __asm__ volatile(QFA_CLEAR_ALL "1:\n" QFA_TWELVE(step, r) "dec %0\n" \
                     "jnz 1b\n"                                           \
                     "vzeroupper\n"                                       \
                     : "+r"(turns)                                        \
                     :                                                    \
                     : "cc", QFA_CLOBBERS); \
  }

QFA_LOOP(fma_ymm, "avx2,fma", QFA_FMA, ymm)
QFA_LOOP(fma_zmm, "avx512f", QFA_FMA, zmm)
QFA_LOOP(maddubs_ymm, "avx2", QFA_MADDUBS, ymm)
QFA_LOOP(dpbusd_ymm, "avxvnni", QFA_VEX_DPBUSD, ymm)
QFA_LOOP(dpbusd_zmm, "avx512f,avx512vnni", QFA_EVEX_DPBUSD, zmm)
QFA_LOOP(dpbf16_zmm, "avx512f,avx512bf16", QFA_DPBF16, zmm)

struct TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t columns[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Four sums, and two operands on either side.
#define QFA_TILES(instruction)                                                                \
  instruction " %%tmm6, %%tmm4, %%tmm0\n" instruction " %%tmm7, %%tmm4, %%tmm1\n" instruction \
              " %%tmm6, %%tmm5, %%tmm2\n" instruction " %%tmm7, %%tmm5, %%tmm3\n"
#define QFA_TILE_LOOP(name, sets, instruction)                                                     \
  QFA_TARGET(sets) void name(int64_t turns) {                                                      \
    const TileConfig config;                                                                       \
    __asm__ volatile("ldtilecfg %0\n" ::"m"(config));                                              \
    __asm__ volatile(                                                                            \
        "tilezero %%tmm0\ntilezero %%tmm1\ntilezero %%tmm2\ntilezero %%tmm3\n"                   \
        "tilezero %%tmm4\ntilezero %%tmm5\ntilezero %%tmm6\ntilezero %%tmm7\n"                   \
        "1:\n" QFA_TILES(instruction) QFA_TILES(instruction) QFA_TILES(instruction) "dec %0\n" \
        "jnz 1b\n"                                                                               \
        "tilerelease\n"                                                                          \
        : "+r"(turns)                                                                            \
        :                                                                                        \
        : "cc"); \
  }
QFA_TILE_LOOP(tiles_int8, "amx-tile,amx-int8", "tdpbusd")
QFA_TILE_LOOP(tiles_bf16, "amx-tile,amx-bf16", "tdpbf16ps")

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() { return __builtin_cpu_supports("avx512f"); }
bool has_avxvnni() { return __builtin_cpu_supports("avxvnni"); }
bool has_avx512vnni() { return __builtin_cpu_supports("avx512vnni"); }
bool has_avx512bf16() { return __builtin_cpu_supports("avx512bf16"); }
// Linux gives a process the tiles when it asks for them.
bool tiles_granted() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }
bool has_amx_int8() { return __builtin_cpu_supports("amx-int8") && tiles_granted(); }
bool has_amx_bf16() { return __builtin_cpu_supports("amx-bf16") && tiles_granted(); }

const Peak kPeaks[] = {
    {"avx2 fp32", has_avx2, fma_ymm, kChains * 16.0},
    {"avx2 int8", has_avx2, maddubs_ymm, kChains * 64.0},
    {"avxvnni int8", has_avxvnni, dpbusd_ymm, kChains * 64.0},
    {"avx512 fp32", has_avx512, fma_zmm, kChains * 32.0},
    {"avx512vnni int8", has_avx512vnni, dpbusd_zmm, kChains * 128.0},
    {"avx512bf16 bf16", has_avx512bf16, dpbf16_zmm, kChains * 64.0},
    {"amxint8 int8", has_amx_int8, tiles_int8, kChains * 32768.0},
    {"amxint8 bf16", has_amx_bf16, tiles_bf16, kChains * 16384.0},
};

#elif defined(__aarch64__)

#define QFA_TWELVE(a) a(0) a(1) a(2) a(3) a(4) a(5) a(6) a(7) a(8) a(9) a(10) a(11)
#define QFA_CLOBBERS \
  "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v14", "v15"
#define QFA_CLEAR(i) "movi v" #i ".16b, #0\n"
#define QFA_FMLA(i) "fmla v" #i ".4s, v14.4s, v15.4s\n"
#define QFA_SDOT(i) "sdot v" #i ".4s, v14.16b, v15.16b\n"
#define QFA_SMMLA(i) "smmla v" #i ".4s, v14.16b, v15.16b\n"
#define QFA_LOOP(name, sets, step)                                                          \
  QFA_TARGET(sets) void name(int64_t turns) {                                               \
    __asm__ volatile(QFA_TWELVE(QFA_CLEAR) QFA_CLEAR(14)                                    \
                         QFA_CLEAR(15) "1:\n" QFA_TWELVE(step) "subs %0, %0, #1\nb.ne 1b\n" \
                     : "+r"(turns)                                                          \
                     :                                                                      \
                     : "cc", QFA_CLOBBERS);                                                 \
  }
QFA_LOOP(fmla, "arch=armv8-a", QFA_FMLA)
QFA_LOOP(sdot, "arch=armv8.2-a+dotprod", QFA_SDOT)
QFA_LOOP(smmla, "arch=armv8.2-a+dotprod+i8mm", QFA_SMMLA)

#include <sys/auxv.h>
bool always() { return true; }
bool has_sdot() { return (getauxval(AT_HWCAP) >> 20 & 1) != 0; }
bool has_smmla() { return (getauxval(AT_HWCAP2) >> 13 & 1) != 0; }

const Peak kPeaks[] = {
    {"neon fp32", always, fmla, kChains * 8.0},
    {"neondot int8", has_sdot, sdot, kChains * 32.0},
    {"neoni8mm int8", has_smmla, smmla, kChains * 64.0},
};

#else
const Peak kPeaks[] = {{"none", [] { return false; }, [](int64_t) {}, 0.0}};
#endif

// Far enough ahead for DRAM, near enough to stay within a page or two. What the caches near the
// core hold is only slowed down by it.
constexpr size_t kAhead = 2048, kNear = 1 << 20;

// Reads a region in four streams; V is a vector of the compiler.
template <typename V, bool kPrefetch>
inline __attribute__((always_inline)) uint64_t read_streams(const char* data, size_t bytes) {
  const size_t quarter = bytes / 4 / sizeof(V) * sizeof(V);
  V a = {}, b = {}, c = {}, d = {};
  for (size_t i = 0; i < quarter; i += sizeof(V)) {
    const char* p = data + i;
    if (kPrefetch && i % 64 == 0) {
      for (size_t s = 0; s < 4; ++s) __builtin_prefetch(p + s * quarter + kAhead);
    }
    V w, x, y, z;
    memcpy(&w, p, sizeof(V));
    memcpy(&x, p + quarter, sizeof(V));
    memcpy(&y, p + 2 * quarter, sizeof(V));
    memcpy(&z, p + 3 * quarter, sizeof(V));
    a |= w;
    b |= x;
    c |= y;
    d |= z;
  }
  a |= b | c | d;
  return a[0];
}

typedef uint64_t V16 __attribute__((vector_size(16)));
uint64_t read_16(const char* data, size_t bytes) {
  return bytes > kNear ? read_streams<V16, true>(data, bytes)
                       : read_streams<V16, false>(data, bytes);
}

#if defined(__x86_64__)
typedef uint64_t V32 __attribute__((vector_size(32)));
typedef uint64_t V64 __attribute__((vector_size(64)));
QFA_TARGET("avx2") uint64_t read_32(const char* data, size_t bytes) {
  return bytes > kNear ? read_streams<V32, true>(data, bytes)
                       : read_streams<V32, false>(data, bytes);
}
QFA_TARGET("avx512f") uint64_t read_64(const char* data, size_t bytes) {
  return bytes > kNear ? read_streams<V64, true>(data, bytes)
                       : read_streams<V64, false>(data, bytes);
}
#endif

uint64_t read_once(const char* data, size_t bytes) {
#if defined(__x86_64__)
  if (has_avx512()) return read_64(data, bytes);
  if (has_avx2()) return read_32(data, bytes);
#endif
  return read_16(data, bytes);
}

using Task = void (*)(void* arg, size_t index);

// Threads that take tasks of one run after the other. Between two runs they look out for a moment,
// as the pools of runtimes do, and then sleep: whoever is measured next has the processors alone.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { serve(); });
  }

  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
      round_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  size_t threads() const { return workers_.size() + 1; }

  void run(Task task, void* arg, size_t count) {
    {
      const std::lock_guard lock(mutex_);
      task_ = task;
      arg_ = arg;
      count_ = count;
      next_ = 0;
      left_ = count;
      round_.fetch_add(1);
    }
    wake_.notify_all();
    while (take()) {
    }
    look_out([this] { return left_.load() == 0; });
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return left_.load() == 0; });
  }

 private:
  // Runs one task; false if none is left to be begun. A worker that wakes too late finds nothing.
  bool take() {
    Task task;
    void* arg;
    size_t index;
    {
      const std::lock_guard lock(mutex_);
      if (next_ == count_) return false;
      task = task_;
      arg = arg_;
      index = next_++;
    }
    task(arg, index);
    if (left_.fetch_sub(1) == 1) {
      const std::lock_guard lock(mutex_);
      done_.notify_all();
    }
    return true;
  }

  void serve() {
    for (uint64_t seen = 0;;) {
      look_out([&] { return round_.load() != seen; });
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return round_.load() != seen; });
        seen = round_.load();
        if (stop_) return;
      }
      while (take()) {
      }
    }
  }

  template <typename F>
  static void look_out(const F& there) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
    while (!there() && std::chrono::steady_clock::now() < end) {
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> workers_;
  std::atomic<uint64_t> round_ = 0;
  std::atomic<size_t> left_ = 0;
  size_t next_ = 0, count_ = 0;
  bool stop_ = false;
  Task task_ = nullptr;
  void* arg_ = nullptr;
};

struct PeakTask {
  const Peak* peak;
  int64_t turns;
};

struct ReadTask {
  const char* data;
  size_t bytes, parts;
  std::atomic<uint64_t> sum;
};

}  // namespace

extern "C" {

#define QFA_LIMITS_EXPORT __attribute__((visibility("default")))

// The name of a peak, "set format", or null behind the last one.
QFA_LIMITS_EXPORT const char* qfa_limits_peak_name(int32_t index) {
  const int32_t count = static_cast<int32_t>(sizeof(kPeaks) / sizeof(kPeaks[0]));
  return index >= 0 && index < count ? kPeaks[index].name : nullptr;
}

// Operations that `turns` turns on every thread are; 0 if this processor lacks the instruction.
QFA_LIMITS_EXPORT double qfa_limits_peak(void* pool, int32_t index, int64_t turns) {
  PeakTask task = {&kPeaks[index], turns};
  if (!task.peak->usable()) return 0.0;
  Pool* threads = static_cast<Pool*>(pool);
  threads->run(
      [](void* arg, size_t) {
        const PeakTask& t = *static_cast<const PeakTask*>(arg);
        t.peak->run(t.turns);
      },
      &task, threads->threads());
  return task.peak->operations * static_cast<double>(turns) *
         static_cast<double>(threads->threads());
}

// Reads a region once, each thread a part of it.
QFA_LIMITS_EXPORT uint64_t qfa_limits_read(void* pool, const void* data, size_t bytes) {
  Pool* threads = static_cast<Pool*>(pool);
  if (threads->threads() == 1) return read_once(static_cast<const char*>(data), bytes);
  ReadTask task = {static_cast<const char*>(data), bytes, threads->threads(), {0}};
  threads->run(
      [](void* arg, size_t part) {
        ReadTask& t = *static_cast<ReadTask*>(arg);
        const size_t share = t.bytes / t.parts / 64 * 64;
        t.sum += read_once(t.data + part * share, share);
      },
      &task, task.parts);
  return task.sum;
}

QFA_LIMITS_EXPORT void* qfa_limits_pool(int32_t threads) { return new Pool(threads); }

QFA_LIMITS_EXPORT void qfa_limits_release(void* pool) { delete static_cast<Pool*>(pool); }

// The parallel_for of qfa_executor, with a pool as its context.
QFA_LIMITS_EXPORT void qfa_limits_parallel_for(void* pool, Task task, void* arg, size_t count) {
  static_cast<Pool*>(pool)->run(task, arg, count);
}

}  // extern "C"
