// The emulation's own tests: it runs right kernels under every schedule, and finds the mistakes of wrong ones.
//
//     "$(python3 build.py --self-test --out DIR)" all
//     "$(python3 build.py --self-test --sanitize --out DIR)" race      (and `no_race`): ThreadSanitizer's report, exit code 66
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

extern "C" {
int cuInit(unsigned);
int cuModuleLoadData(void**, const void*);
int cuModuleGetFunction(void**, void*, const char*);
int cuFuncSetAttribute(void*, int, int);
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
int cuMemAllocAsync(uint64_t*, size_t, void*);
int cuMemFreeAsync(uint64_t, void*);
int cuMemcpyHtoDAsync_v2(uint64_t, const void*, size_t, void*);
int cuMemcpyDtoHAsync_v2(void*, uint64_t, size_t, void*);
int cuMemHostAlloc(void**, size_t, unsigned);
int cuMemFreeHost(void*);
int cuStreamCreate(void**, unsigned);
int cuStreamSynchronize(void*);
int cuStreamWaitEvent(void*, void*, unsigned);
int cuEventCreate(void**, unsigned);
int cuEventRecord(void*, void*);
void cuda_host_counts(uint64_t*);
int cublasCreate_v2(void**);
int cublasGemmStridedBatchedEx(void*, int, int, int, int, int, const void*, const void*, int, int, long long, const void*, int, int, long long,
                               const void*, void*, int, int, long long, int, int, int);
}

static int failures;
#define CHECK(c)                                            \
  do {                                                      \
    if (!(c)) {                                             \
      printf("%s:%d: %s\n", __FILE__, __LINE__, #c);        \
      failures++;                                           \
    }                                                       \
  } while (0)

static void* function(const char* name) {
  static void* module = nullptr;
  if (!module && cuModuleLoadData(&module, "//CUDA_HOST self_test\n")) abort();
  void* f = nullptr;
  if (cuModuleGetFunction(&f, module, name)) abort();
  return f;
}
template <class... A>
static int launch_on(void* stream, const char* name, unsigned grid, unsigned block, unsigned shared, A... a) {
  void* arguments[] = {&a..., nullptr};
  return cuLaunchKernel(function(name), grid, 1, 1, block, 1, 1, shared, stream, arguments, nullptr);
}
template <class... A>
static int launch(const char* name, unsigned grid, unsigned block, unsigned shared, A... a) {
  return launch_on(nullptr, name, grid, block, shared, a...);
}

struct Buffer {
  uint64_t p = 0;
  explicit Buffer(size_t n) { CHECK(!cuMemAllocAsync(&p, n, nullptr)); }
  ~Buffer() { cuMemFreeAsync(p, nullptr); }
  template <class T>
  std::vector<T> read(size_t n, void* stream = nullptr) {
    std::vector<T> v(n);
    CHECK(!cuMemcpyDtoHAsync_v2(v.data(), p, n * sizeof(T), stream));
    return v;
  }
  template <class T>
  void write(const std::vector<T>& v) {
    CHECK(!cuMemcpyHtoDAsync_v2(p, v.data(), v.size() * sizeof(T), nullptr));
  }
  float* f() { return (float*)p; }
};

// What a program of its own, which may die, says.
static std::string said(const std::function<void()>& f) {
  int ends[2];
  if (pipe(ends)) abort();
  pid_t child = fork();
  if (!child) {
    dup2(ends[1], 2);
    f();
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char part[512];
  for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) text.append(part, n);
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return text;
}
static bool has(const std::string& text, const char* part) {
  if (text.find(part) != std::string::npos) return true;
  printf("expected `%s`, found `%s`\n", part, text.c_str());
  return false;
}

// Five launches are the five schedules in turn.
static int right_sums(const char* kernel) {
  constexpr int BLOCKS = 3, THREADS = 256;
  Buffer x(BLOCKS * THREADS * 4), out(BLOCKS * 4);
  std::vector<float> v(BLOCKS * THREADS);
  for (size_t i = 0; i < v.size(); i++) v[i] = float(i % 2);
  x.write(v);
  int right = 0;
  for (int i = 0; i < 5; i++) {
    CHECK(!launch(kernel, BLOCKS, THREADS, 0, x.f(), out.f()));
    bool good = true;
    for (float s : out.read<float>(BLOCKS)) good &= s == 128 * 1024 + 384;
    right += good;
  }
  return right;
}

static void threads() {
  CHECK(right_sums("two_sums") == 5);
  CHECK(right_sums("two_sums_without_barrier") < 5);
  Buffer out(136 * 4);
  CHECK(!launch("warp_operations", 1, 32, 0, (int*)out.p));
  auto v = out.read<int>(136);
  for (int l = 0; l < 32; l++) {
    CHECK(v[l] == 5 && v[32 + l] == (l < 3 ? l : l - 3));
    CHECK(v[64 + l] == (l % 16 < 13 ? l + 3 : l) && unsigned(v[96 + l]) == 0x49249249u);
  }
  for (int l = 0; l < 8; l++) CHECK(v[128 + l] == (l ^ 1));
  Buffer at(4);
  at.write(std::vector<int>{0});
  CHECK(!launch("count", 300, 128, 0, (int*)at.p));
  CHECK(at.read<int>(1)[0] == 300 * 128);
  CHECK(has(said([] {
              launch("deadlock", 1, 32, 0);
              _exit(cuStreamSynchronize(nullptr) == 719 ? (fprintf(stderr, "launch failed"), 0) : 1);
            }),
            "16 at __syncthreads"));
}

static void memory() {
  Buffer fresh(64);
  for (float f : fresh.read<float>(16)) CHECK(std::isnan(f));
  auto write = [](long at) {
    return [at] {
      uint64_t p;
      cuMemAllocAsync(&p, 100, nullptr);
      launch("write_at", 1, 1, 0, (char*)p, at);
      cuMemFreeAsync(p, nullptr);
      cuStreamSynchronize(nullptr);
    };
  };
  CHECK(said(write(99)).empty());
  CHECK(has(said(write(100)), "wrote byte 100 of a buffer of 100 bytes"));
  CHECK(has(said(write(5000)), "write_at, block (0, 0, 0), thread (0, 0, 0) touched byte 5000 of a buffer of 100 bytes"));
  CHECK(has(said(write(-5000)), "touched 5000 bytes before a buffer of 100 bytes"));
  CHECK(has(said([] { launch("write_shared", 1, 1, 16, 4), cuStreamSynchronize(nullptr); }), "wrote past its 16 bytes of shared memory"));
  CHECK(said([] { launch("write_shared", 1, 1, 16, 3), cuStreamSynchronize(nullptr); }).empty());
  float host = 0;
  CHECK(launch("add_one", 1, 1, 0, &host, 1) == 700);
  uint64_t before[7], after[7];
  cuStreamSynchronize(nullptr);
  cuda_host_counts(before);
  uint64_t kept, freed;
  cuMemAllocAsync(&kept, 1000, nullptr), cuMemAllocAsync(&freed, 500, nullptr), cuMemFreeAsync(freed, nullptr);
  cuStreamSynchronize(nullptr);
  cuda_host_counts(after);
  CHECK(after[4] - before[4] == 1000 && after[5] - before[5] == 1);
  cuMemFreeAsync(kept, nullptr);
}

static void limits() {
  CHECK(launch("count", 1, 1025, 0, (int*)nullptr) == 1 && launch("count", 0, 1, 0, (int*)nullptr) == 1);
  void* arguments[] = {nullptr};
  CHECK(cuLaunchKernel(function("at_most_64"), 1, 65536, 1, 32, 1, 1, 0, nullptr, arguments, nullptr) == 1);
  CHECK(launch("at_most_64", 1, 65, 0) == 1 && !launch("at_most_64", 1, 64, 0));
  CHECK(launch("at_most_64", 1, 32, (48 << 10) + 1) == 1);
  void* f = function("at_most_64");
  CHECK(!cuFuncSetAttribute(f, 8, 227 << 10) && cuFuncSetAttribute(f, 8, (227 << 10) + 1) == 1);
  CHECK(!cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 200 << 10, nullptr, arguments, nullptr));
}

static void streams() {
  void *a, *b, *event;
  CHECK(!cuStreamCreate(&a, 0) && !cuStreamCreate(&b, 0) && !cuEventCreate(&event, 0));
  Buffer x(400), y(400);
  x.write(std::vector<float>(100, 1.f));
  CHECK(!cuStreamSynchronize(nullptr));
  // b copies what a changes: too early without an event, in time with one.
  for (bool ordered : {false, true}) {
    CHECK(!launch_on(a, "add_one", 1, 128, 0, x.f(), 100) && !cuEventRecord(event, a));
    if (ordered) CHECK(!cuStreamWaitEvent(b, event, 0));
    CHECK(!launch_on(b, "copy", 1, 32, 0, (const float*)x.p, y.f(), 100));
    CHECK(y.read<float>(100, b)[99] == (ordered ? 3.f : 1.f));
    CHECK(!cuStreamSynchronize(a));
  }
  // Pinned memory is read when the copy runs, other memory when it is asked for.
  float* pinned;
  std::vector<float> plain(1, 5.f);
  CHECK(!cuMemHostAlloc((void**)&pinned, 4, 0));
  *pinned = 5.f;
  Buffer p(4), q(4);
  CHECK(!cuMemcpyHtoDAsync_v2(p.p, pinned, 4, nullptr) && !cuMemcpyHtoDAsync_v2(q.p, plain.data(), 4, nullptr));
  *pinned = 6.f, plain[0] = 6.f;
  CHECK(p.read<float>(1)[0] == 6.f && q.read<float>(1)[0] == 5.f);
  *pinned = 0.f;
  CHECK(!cuMemcpyDtoHAsync_v2(pinned, q.p, 4, nullptr) && *pinned == 0.f);
  CHECK(!cuStreamSynchronize(nullptr) && *pinned == 5.f && !cuMemFreeHost(pinned));
}

static void products() {
  constexpr int M = 5, N = 3, K = 19, F32 = 0, BF16 = 14;
  std::vector<float> a(M * K), b(K * N), c(M * N, 1.f);
  for (size_t i = 0; i < a.size(); i++) a[i] = float(int(i % 7) - 3);
  for (size_t i = 0; i < b.size(); i++) b[i] = float(int(i % 5) - 2);
  void* handle;
  CHECK(!cublasCreate_v2(&handle));
  float alpha = 2.f, beta = -1.f;
  auto bf16 = [](const std::vector<float>& v) {
    std::vector<uint16_t> h;
    for (float f : v) {
      uint32_t u;
      memcpy(&u, &f, 4);
      h.push_back(u >> 16);
    }
    return h;
  };
  for (bool half : {false, true})
    for (int ta : {0, 1})
      for (int tb : {0, 1}) {
        Buffer da(a.size() * 4), db(b.size() * 4), dc(c.size() * 4);
        if (half)
          da.write(bf16(a)), db.write(bf16(b));
        else
          da.write(a), db.write(b);
        dc.write(c);
        int lda = ta ? K : M, ldb = tb ? N : K, type = half ? BF16 : F32;
        CHECK(!cublasGemmStridedBatchedEx(handle, ta, tb, M, N, K, &alpha, (void*)da.p, type, lda, 0, (void*)db.p, type, ldb, 0, &beta, (void*)dc.p,
                                          F32, M, 0, 1, 68, -1));
        auto got = dc.read<float>(c.size());
        for (int i = 0; i < M; i++)
          for (int j = 0; j < N; j++) {
            float want = -1.f;
            for (int k = 0; k < K; k++) want += 2.f * a[ta ? i * lda + k : k * lda + i] * b[tb ? k * ldb + j : j * ldb + k];
            CHECK(got[j * M + i] == want);
          }
      }
  Buffer d(4);
  CHECK(cublasGemmStridedBatchedEx(handle, 0, 0, M, N, K, &alpha, (void*)d.p, F32, M - 1, 0, (void*)d.p, F32, K, 0, &beta, (void*)d.p, F32, M, 0, 1,
                                   68, -1) == 7);
}

int main(int n, char** arguments) {
  if (cuInit(0)) return 1;
  std::string what = n > 1 ? arguments[1] : "all";
  if (what == "race" || what == "no_race") {
    Buffer out(256);
    CHECK(!launch(what == "race" ? "neighbours_without_barrier" : "neighbours", 1, 64, 256, out.f()));
    out.read<float>(64);
  } else {
    threads(), memory(), limits(), streams(), products();
    if (!failures) printf("the emulation finds what it must\n");
  }
  return failures != 0;
}
