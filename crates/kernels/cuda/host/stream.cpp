// Streams keep their work until something waits for it, and then run no more than is needed: whoever reads before waiting, or forgets that one
// stream must wait for another, gets old bytes or 0xff. Copies from and to memory of the host that is not pinned are finished before they
// return, as on a device.
#include "runtime.h"

#include <deque>
#include <map>
#include <vector>

namespace cuda_host {
// One recording of an event.
struct Mark {
  Stream* on;
  bool reached = false;
};
struct Stream {
  std::deque<std::function<int()>> work;
  // Whether the default stream waits for it.
  bool blocking;
};
struct Event {
  std::shared_ptr<Mark> last;
};

namespace {
// Every stream that there ever was: what a thread leaves behind still runs.
std::vector<std::unique_ptr<Stream>> streams;
int failed;
// Work that a stream keeps at most.
constexpr size_t MOST = 20000;

Stream* new_stream(bool blocking = true) {
  std::lock_guard<std::recursive_mutex> lock(device());
  streams.push_back(std::make_unique<Stream>());
  streams.back()->blocking = blocking;
  return streams.back().get();
}

int run_one(Stream* s) {
  auto work = std::move(s->work.front());
  s->work.pop_front();
  int e = work();
  if (e && !failed) failed = e;
  return failed;
}

int run_until(Stream* s, const std::shared_ptr<Mark>& mark) {
  while (!(mark && mark->reached) && !s->work.empty())
    if (int e = run_one(s)) return e;
  return failed;
}
}  // namespace

Counts& counts() {
  static Counts c;
  return c;
}

int sticky() { return failed; }

Stream* stream_of(void* handle) {
  // The handles 0 and 1 are the one default stream, 2 is the thread's own.
  static Stream* shared = new_stream();
  thread_local Stream* own = nullptr;
  if ((uintptr_t)handle < 2) return shared;
  if ((uintptr_t)handle != 2) return (Stream*)handle;
  if (!own) own = new_stream();
  return own;
}

int enqueue(void* stream, std::function<int()> work) {
  std::lock_guard<std::recursive_mutex> lock(device());
  if (failed) return failed;
  Stream* s = stream_of(stream);
  s->work.push_back(std::move(work));
  return s->work.size() > MOST ? run_until(s, nullptr) : OK;
}

int wait_stream(void* stream) {
  std::lock_guard<std::recursive_mutex> lock(device());
  return run_until(stream_of(stream), nullptr);
}

int wait_device() {
  std::lock_guard<std::recursive_mutex> lock(device());
  // The newest first: nothing but events orders streams.
  for (size_t i = streams.size(); i-- > 0;)
    if (int e = run_until(streams[i].get(), nullptr)) return e;
  return failed;
}

// What a call without a stream waits for: the default stream, and those that it blocks; not those that were made `NON_BLOCKING`.
static int wait_default() {
  std::lock_guard<std::recursive_mutex> lock(device());
  stream_of(nullptr);
  for (size_t i = streams.size(); i-- > 0;)
    if (streams[i]->blocking)
      if (int e = run_until(streams[i].get(), nullptr)) return e;
  return failed;
}

extern "C" {
constexpr unsigned NON_BLOCKING = 1;
int cuStreamCreate(void** s, unsigned flags) { return *s = new_stream(!(flags & NON_BLOCKING)), OK; }
int cuStreamCreateWithPriority(void** s, unsigned flags, int) { return cuStreamCreate(s, flags); }
// What it holds still runs.
int cuStreamDestroy_v2(void*) { return OK; }
int cuStreamSynchronize(void* s) {
  counts().waits++;
  return wait_stream(s);
}
int cuStreamQuery(void* s) {
  std::lock_guard<std::recursive_mutex> lock(device());
  Stream* stream = stream_of(s);
  if (stream->work.empty()) return failed;
  int e = run_one(stream);
  return e ? e : NOT_READY;
}
int cuCtxSynchronize() {
  counts().waits++;
  return wait_device();
}
int cuStreamIsCapturing(void*, int* status) { return *status = 0, OK; }

int cuEventCreate(void** e, unsigned) { return *e = new Event, OK; }
int cuEventDestroy_v2(void* e) { return delete (Event*)e, OK; }
int cuEventRecord(void* e, void* stream) {
  std::lock_guard<std::recursive_mutex> lock(device());
  auto mark = std::make_shared<Mark>(Mark{stream_of(stream)});
  ((Event*)e)->last = mark;
  return enqueue(stream, [mark] { return mark->reached = true, OK; });
}
int cuStreamWaitEvent(void* stream, void* e, unsigned) {
  std::lock_guard<std::recursive_mutex> lock(device());
  auto mark = ((Event*)e)->last;
  if (!mark) return OK;
  return enqueue(stream, [mark] { return run_until(mark->on, mark); });
}
int cuEventSynchronize(void* e) {
  std::lock_guard<std::recursive_mutex> lock(device());
  auto mark = ((Event*)e)->last;
  if (!mark || mark->reached) return failed;
  counts().waits++;
  return run_until(mark->on, mark);
}
int cuEventQuery(void* e) {
  std::lock_guard<std::recursive_mutex> lock(device());
  auto mark = ((Event*)e)->last;
  if (!mark || mark->reached) return failed;
  int error = run_one(mark->on);
  return error ? error : NOT_READY;
}
int cuEventElapsedTime_v2(float* ms, void*, void*) { return *ms = 1.0f, OK; }

int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t n, void* stream) {
  counts().copies_to_device++;
  if (pinned(from)) return enqueue(stream, [=] { return memcpy((void*)to, from, n), OK; });
  auto bytes = std::make_shared<std::vector<char>>((const char*)from, (const char*)from + n);
  return enqueue(stream, [=] { return memcpy((void*)to, bytes->data(), n), OK; });
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t n, void* stream) {
  counts().copies_to_host++;
  int e = enqueue(stream, [=] { return memcpy(to, (void*)from, n), OK; });
  if (e || pinned(to)) return e;
  counts().waits++;
  return wait_stream(stream);
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, void* stream) {
  return enqueue(stream, [=] { return memmove((void*)to, (void*)from, n), OK; });
}
int cuMemcpyPeerAsync(uint64_t to, void*, uint64_t from, void*, size_t n, void* stream) { return cuMemcpyDtoDAsync_v2(to, from, n, stream); }
int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t n) {
  int e = wait_default();
  return e ? e : (memcpy((void*)to, from, n), OK);
}
int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t n) {
  counts().waits++;
  int e = wait_default();
  return e ? e : (memcpy(to, (void*)from, n), OK);
}
int cuMemsetD8Async(uint64_t p, unsigned char c, size_t n, void* stream) {
  return enqueue(stream, [=] { return memset((void*)p, c, n), OK; });
}
int cuMemAlloc_v2(uint64_t* p, size_t n) { return allocate(p, n); }
// A buffer may be used by what follows in the stream: there is nothing to wait for.
// Nothing is a null pointer here, unlike in cuMemAlloc.
int cuMemAllocAsync(uint64_t* p, size_t n, void*) { return n ? allocate(p, n) : (*p = 0, OK); }
int cuMemFree_v2(uint64_t p) {
  int e = wait_device();
  return e ? e : release(p);
}
int cuMemFreeAsync(uint64_t p, void* stream) {
  if (!p) return OK;
  return enqueue(stream, [=] { return release(p); });
}
}
}  // namespace cuda_host
