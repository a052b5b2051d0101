// Memory of the device: each buffer has mappings of its own, is handed out full of 0xff, and ends at pages that nobody may touch. A touch
// outside ends the program with the kernel, the thread and the buffer.
#include "runtime.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdarg>
#include <map>

namespace cuda_host {
namespace {
constexpr size_t PAGE = 4096, GUARD = 64 << 10, ALIGN = 256;
constexpr unsigned char FRESH = 0xff, SLACK = 0xa5;

struct Buffer {
  size_t size, mapped;
  char* map;
};
// By address; those of the device and those of the host that transfers read without a copy.
std::map<uint64_t, Buffer> buffers, hosts;
std::mutex table;
size_t live, peak;
const size_t CAPACITY = setting("CUDA_HOST_MEMORY", 80ull << 30);

struct sigaction before;

void write_all(const char* s, size_t n) {
  while (n) {
    ssize_t k = write(2, s, n);
    if (k <= 0) return;
    s += k, n -= k;
  }
}

// Names the buffer next to the address that was touched. No lock: the thread that holds it may be the one that faulted.
void fault(int signal, siginfo_t* info, void* context) {
  uint64_t at = (uint64_t)info->si_addr;
  auto after = buffers.upper_bound(at);
  char text[600];
  int n = 0;
  if (after != buffers.begin() && at < std::prev(after)->first + std::prev(after)->second.size + GUARD) {
    auto& [first, buffer] = *std::prev(after);
    n = snprintf(text, sizeof text, "\ncuda_host: %s touched byte %lu of a buffer of %zu bytes\n", running().c_str(), at - first, buffer.size);
  } else if (after != buffers.end() && after->first - at <= GUARD) {
    n = snprintf(text, sizeof text, "\ncuda_host: %s touched %lu bytes before a buffer of %zu bytes\n", running().c_str(), after->first - at,
                 after->second.size);
  } else if (running() != "no kernel") {
    n = snprintf(text, sizeof text, "\ncuda_host: %s touched %p, which is in no buffer: freed, or not the device's\n", running().c_str(),
                 info->si_addr);
  }
  if (n > 0) write_all(text, n);
  sigaction(signal, &before, nullptr);
  (void)context;
}

void watch_faults() {
  static bool once = [] {
    struct sigaction now = {};
    now.sa_sigaction = fault;
    now.sa_flags = SA_SIGINFO | SA_ONSTACK;
    return sigaction(SIGSEGV, &now, &before) == 0;
  }();
  (void)once;
}

std::map<uint64_t, Buffer>::iterator holding(std::map<uint64_t, Buffer>& in, uint64_t p) {
  auto i = in.upper_bound(p);
  if (i == in.begin()) return in.end();
  --i;
  return p <= i->first + i->second.size ? i : in.end();
}
}  // namespace

std::recursive_mutex& device() {
  static std::recursive_mutex m;
  return m;
}

int complain(int result, const char* format, ...) {
  va_list list;
  va_start(list, format);
  fprintf(stderr, "cuda_host: ");
  vfprintf(stderr, format, list);
  fprintf(stderr, "\n");
  va_end(list);
  return result;
}

uint64_t setting(const char* name, uint64_t otherwise) {
  const char* s = getenv(name);
  return s && *s ? strtoull(s, nullptr, 10) : otherwise;
}

bool known(const void* p) {
  std::lock_guard<std::mutex> lock(table);
  return !p || holding(buffers, (uint64_t)p) != buffers.end() || holding(hosts, (uint64_t)p) != hosts.end();
}

int allocate(uint64_t* p, size_t n) {
  std::lock_guard<std::mutex> lock(table);
  watch_faults();
  if (!n) return INVALID_VALUE;
  if (live + n > CAPACITY) return OUT_OF_MEMORY;
  size_t data = (n + ALIGN + PAGE - 1) / PAGE * PAGE;
  size_t mapped = GUARD + data + GUARD;
  char* map = (char*)mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED || mprotect(map + GUARD, data, PROT_READ | PROT_WRITE)) return OUT_OF_MEMORY;
  char* end = map + GUARD + data;
  char* first = (char*)(((uintptr_t)end - n) / ALIGN * ALIGN);
  memset(first, FRESH, n);
  memset(first + n, SLACK, end - first - n);
  buffers[(uint64_t)first] = {n, mapped, map};
  live += n, peak = std::max(peak, live);
  *p = (uint64_t)first;
  return OK;
}

int release(uint64_t p) {
  std::lock_guard<std::mutex> lock(table);
  auto i = buffers.find(p);
  if (i == buffers.end()) return complain(INVALID_VALUE, "%#lx is freed, but is no buffer", p);
  Buffer& b = i->second;
  // Between the last byte and the guard lie up to 255 others.
  int result = OK;
  for (char* c = (char*)p + b.size; c < b.map + b.mapped - GUARD; c++)
    if ((unsigned char)*c != SLACK) {
      result = complain(ILLEGAL_ADDRESS, "a kernel wrote byte %zu of a buffer of %zu bytes", (size_t)(c - (char*)p), b.size);
      break;
    }
  munmap(b.map, b.mapped);
  live -= b.size;
  buffers.erase(i);
  return result;
}

bool pinned(const void* p) {
  std::lock_guard<std::mutex> lock(table);
  return holding(hosts, (uint64_t)p) != hosts.end();
}

Usage usage() {
  std::lock_guard<std::mutex> lock(table);
  return {live, peak, buffers.size()};
}

extern "C" {
int cuMemHostAlloc(void** p, size_t n, unsigned) {
  *p = aligned_alloc(PAGE, (n + PAGE - 1) / PAGE * PAGE);
  if (!*p) return OUT_OF_MEMORY;
  memset(*p, FRESH, n);
  std::lock_guard<std::mutex> lock(table);
  hosts[(uint64_t)*p] = {n, 0, nullptr};
  return OK;
}
int cuMemFreeHost(void* p) {
  // A transfer may still be under way.
  if (int e = wait_device()) return e;
  std::lock_guard<std::mutex> lock(table);
  if (!hosts.erase((uint64_t)p)) return complain(INVALID_VALUE, "%p is freed, but is no pinned memory", p);
  free(p);
  return OK;
}
int cuMemGetInfo_v2(size_t* left, size_t* total) {
  *total = CAPACITY;
  *left = CAPACITY - usage().live;
  return OK;
}
}

// What is left at the end is printed where the harness asks for it.
struct AtExit {
  ~AtExit() {
    if (!getenv("CUDA_HOST_SUMMARY")) return;
    Usage u = usage();
    Counts& c = counts();
    fprintf(stderr, "cuda_host: %ld launches, %ld waits, peak %zu bytes; %zu buffers of %zu bytes left\n", c.launches, c.waits, u.peak, u.buffers,
            u.live);
  }
} at_exit;
}  // namespace cuda_host
