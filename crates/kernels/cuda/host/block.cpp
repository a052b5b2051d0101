// Runs the threads of a block on one thread of the host. A thread is a plain call until it waits; what waits keeps its stack as a fiber, and
// the others go on on another one. The order in which threads run is a schedule; `CUDA_HOST_SCHEDULE` names one, else launches take turns:
// 0 in order, 1 reversed, 2 to 4 one warp as far as it goes before the next.
#include "runtime.h"

#include <sys/mman.h>

#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

#ifndef __x86_64__
#error "the switch between fibers is written for x86-64"
#endif
#ifdef __SANITIZE_THREAD__
extern "C" {
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void* __tsan_get_current_fiber();
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#define TSAN(x) x
#define UNCHECKED __attribute__((no_sanitize("thread")))
#else
#define TSAN(x)
#define UNCHECKED
#endif

namespace cuda_host {
__thread uint3 thread_index, block_index;
__thread dim3 block_size, grid_size;

extern "C" void cuda_host_switch(void** from, void* to);
asm(R"(.text
.globl cuda_host_switch
cuda_host_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi); movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");

namespace {
enum State { FRESH, READY, AT_BLOCK, AT_WARP, DONE };
// A stack on which threads run one after another until one of them waits.
struct Fiber {
  void* sp = nullptr;
  void* tsan = nullptr;
  char* stack = nullptr;
};
struct Thread {
  uint3 index;
  int id;
  State state;
  unsigned mask;  // of the warp operation that it waits in
  int predicate;
  int exchanges;  // whole-warp exchanges so far: which of two rows of slots is in use
  Fiber* fiber;
};
constexpr size_t STACK = 64 << 10;

// All that one host thread needs to run blocks.
struct Block {
  std::vector<Thread> threads;
  std::vector<int> order;
  size_t next = 0;        // in `order`: the first thread that has not begun, while none has waited
  bool waited = false;    // whether any thread has waited
  Thread* current = nullptr;
  Fiber* running = nullptr;
  std::vector<Fiber*> idle, all;
  void* scheduler = nullptr;
  void* scheduler_tsan = nullptr;
  const Call* call = nullptr;
  uint64_t slots[32][3][32];  // per warp: two rows for whole warps, one for parts of one
  int total = 0;
  // How many threads can run, per warp; how many are done, and wait for the block.
  int ready[32];
  size_t done = 0, waiting = 0;
  // The warps in the order of the schedule.
  std::vector<int> warps;
  // What ThreadSanitizer orders by. A barrier alternates between two, because a fast thread arrives at the next one before a slow one has left.
  char start = 0, end = 0, block_barrier[2] = {}, warp_barrier[32][2] = {};
  int block_round = 0, warp_round[32] = {};

  ~Block() {
    for (Fiber* f : all) munmap(f->stack, STACK), delete f;
  }
};
// Through a plain pointer: an object with a destructor is looked up at every use.
__thread Block* here;
thread_local std::unique_ptr<Block> owner;

UNCHECKED void begin(Thread& t) {
  here->current = &t;
  thread_index = t.index;
  t.fiber = here->running;
}

// Goes back to the scheduler; returns when it resumes this fiber.
UNCHECKED void leave(Fiber* f) {
  TSAN(__tsan_switch_to_fiber(here->scheduler_tsan, 1);)
  cuda_host_switch(&f->sp, here->scheduler);
}

UNCHECKED void fiber_main() {
  for (;;) {
    Fiber* self = here->running;
    TSAN(__tsan_acquire(&here->start);)
    (*here->call)();
    TSAN(__tsan_release(&here->end);)
    here->current->state = DONE;
#ifndef __SANITIZE_THREAD__
    // While nobody has waited, the next thread follows on the same stack without a switch. ThreadSanitizer would take them for one thread.
    if (!here->waited && here->next < here->order.size()) {
      begin(here->threads[here->order[here->next++]]);
      continue;
    }
    here->idle.push_back(self);
#endif
    leave(self);
  }
}

UNCHECKED Fiber* fresh_fiber() {
  if (!here->idle.empty()) {
    Fiber* f = here->idle.back();
    here->idle.pop_back();
    return f;
  }
  Fiber* f = new Fiber;
  f->stack = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (f->stack == MAP_FAILED) abort();
  void** sp = (void**)(f->stack + STACK);
  *--sp = nullptr;
  *--sp = (void*)fiber_main;
  f->sp = sp - 6;
  TSAN(f->tsan = __tsan_create_fiber(0);)
  here->all.push_back(f);
  return f;
}

UNCHECKED void wait(State state) {
  here->current->state = state;
  here->waited = true;
  leave(here->current->fiber);
}

UNCHECKED void run(Thread& t) {
  if (t.state == FRESH) {
    here->running = fresh_fiber();
    begin(t);
  } else {
    here->running = t.fiber;
    here->current = &t;
    thread_index = t.index;
  }
  t.state = READY;
  TSAN(__tsan_release(&here->start); __tsan_switch_to_fiber(here->running->tsan, 1);)
  cuda_host_switch(&here->scheduler, here->running->sp);
}

unsigned live_lanes(size_t warp) {
  size_t left = here->threads.size() - 32 * warp;
  return left >= 32 ? ~0u : (1u << left) - 1;
}

// Lets go on the lanes of a warp that all wait in the same operation.
UNCHECKED bool release_warp(size_t warp) {
  bool any = false;
  Thread* lanes = &here->threads[32 * warp];
  unsigned live = live_lanes(warp), seen = 0;
  for (int l = 0; l < 32; l++) {
    if (!((live & ~seen) >> l & 1) || lanes[l].state != AT_WARP) continue;
    unsigned mask = lanes[l].mask & live;
    seen |= mask;
    bool all = true;
    for (int k = 0; k < 32; k++)
      if (mask >> k & 1) all &= lanes[k].state == AT_WARP && lanes[k].mask == lanes[l].mask;
    if (!all) continue;
    for (int k = 0; k < 32; k++)
      if (mask >> k & 1) lanes[k].state = READY, here->ready[warp]++;
    here->warp_round[warp] ^= 1;
    any = true;
  }
  return any;
}

UNCHECKED void count(const Thread& t) {
  if (t.state == FRESH || t.state == READY) here->ready[t.id / 32]++;
  here->done += t.state == DONE, here->waiting += t.state == AT_BLOCK;
}

UNCHECKED void run_counted(Thread& t) {
  here->ready[t.id / 32]--;
  run(t);
  count(t);
}

// Every thread as far as it goes, or one warp.
UNCHECKED bool step(bool warp_first) {
  bool ran = false;
  if (!warp_first) {
    for (int i : here->order) {
      Thread& t = here->threads[i];
      if (t.state == FRESH || t.state == READY) run_counted(t), ran = true;
    }
    for (int w : here->warps) ran |= release_warp(w);
    return ran;
  }
  for (int w : here->warps) {
    if (!here->ready[w]) continue;
    size_t last = std::min<size_t>(32 * w + 32, here->threads.size());
    for (size_t i = 32 * w; i < last; i++) {
      Thread& t = here->threads[i];
      if (t.state == FRESH || t.state == READY) run_counted(t);
    }
    release_warp(w);
    return true;
  }
  return false;
}

void stuck(const std::string& name) {
  fprintf(stderr, "cuda_host: %s: the threads of block (%u, %u, %u) wait for each other for ever:", name.c_str(), block_index.x, block_index.y,
          block_index.z);
  int shown = 0;
  for (auto& t : here->threads) {
    if (t.state == DONE || shown++ >= 40) continue;
    fprintf(stderr, " %d at %s", t.id, t.state == AT_BLOCK ? "__syncthreads" : "a warp operation");
  }
  fprintf(stderr, "\n");
}

UNCHECKED bool run_block(const std::string& name, bool warp_first) {
  TSAN(here->scheduler_tsan = __tsan_get_current_fiber();)
  for (auto& t : here->threads) t.state = FRESH, t.exchanges = 0, t.predicate = 0;
  here->next = 0, here->waited = false;
  // Plain calls, as long as no thread waits.
  run(here->threads[here->order[here->next++]]);
  std::fill(std::begin(here->ready), std::end(here->ready), 0);
  here->done = here->waiting = 0;
  for (auto& t : here->threads) count(t);
  while (here->done < here->threads.size()) {
    bool moved = step(warp_first);
    if (here->waiting && here->waiting + here->done == here->threads.size()) {
      here->total = 0, here->block_round ^= 1, here->waiting = 0;
      for (auto& t : here->threads)
        if (t.state == AT_BLOCK) here->total += t.predicate, t.state = READY, here->ready[t.id / 32]++;
      moved = true;
    }
    if (!moved) {
      stuck(name);
      return false;
    }
  }
#ifdef __SANITIZE_THREAD__
  __tsan_acquire(&here->end);
  here->idle = here->all;
  for (Fiber* f : here->all) __tsan_destroy_fiber(f->tsan), f->tsan = __tsan_create_fiber(0);
#endif
  return true;
}

// Threads of the block in the order of a schedule.
void arrange(uint64_t schedule, dim3 block) {
  int n = block.x * block.y * block.z;
  here->threads.resize(n);
  for (int i = 0; i < n; i++) {
    here->threads[i] = {};
    here->threads[i].id = i;
    here->threads[i].index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
  }
  here->order.resize(n);
  std::iota(here->order.begin(), here->order.end(), 0);
  here->warps.resize((n + 31) / 32);
  std::iota(here->warps.begin(), here->warps.end(), 0);
  if (schedule == 1) std::reverse(here->order.begin(), here->order.end());
  if (schedule < 2) return;
  auto rank = [&](int warp) { return (warp + 1) * (2654435761u * schedule | 1) % 1009; };
  std::stable_sort(here->warps.begin(), here->warps.end(), [&](int x, int y) { return rank(x) < rank(y); });
  std::stable_sort(here->order.begin(), here->order.end(), [&](int x, int y) { return rank(x / 32) < rank(y / 32); });
}

std::vector<void* (*)()>& shared_arrays() {
  static std::vector<void* (*)()> v;
  return v;
}
// Whether the bytes behind the first `used` of shared memory are as they were filled.
bool untouched_after(size_t used) {
  for (auto array : shared_arrays()) {
    auto* p = (unsigned char*)array() + used;
    if (std::any_of(p, p + SHARED_WINDOW, [](unsigned char c) { return c != 0xff; })) return false;
  }
  return true;
}

std::mutex names;
std::string current_kernel;
}  // namespace

SharedArray::SharedArray(void* (*of_this_thread)()) { shared_arrays().push_back(of_this_thread); }

std::string running() {
  char at[200];
  snprintf(at, sizeof at, ", block (%u, %u, %u), thread (%u, %u, %u)", block_index.x, block_index.y, block_index.z, thread_index.x,
           thread_index.y, thread_index.z);
  return current_kernel.empty() ? "no kernel" : current_kernel + at;
}

UNCHECKED void sync_block() {
  [[maybe_unused]] char* barrier = &here->block_barrier[here->block_round];
  TSAN(__tsan_release(barrier);)
  wait(AT_BLOCK);
  TSAN(__tsan_acquire(barrier);)
}
UNCHECKED int sync_count(int predicate) {
  here->current->predicate = predicate != 0;
  sync_block();
  here->current->predicate = 0;
  return here->total;
}
UNCHECKED void sync_warp(unsigned mask) {
  int w = here->current->id / 32;
  here->current->mask = mask;
  [[maybe_unused]] char* barrier = &here->warp_barrier[w][here->warp_round[w]];
  TSAN(__tsan_release(barrier);)
  wait(AT_WARP);
  TSAN(__tsan_acquire(barrier);)
}
int lane() { return here->current->id & 31; }

// Whole warps alternate between two rows of slots: nobody can be two exchanges ahead, so one barrier is enough.
UNCHECKED uint64_t exchange(unsigned mask, uint64_t value, int source) {
  Thread* me = here->current;
  auto& rows = here->slots[me->id / 32];
  bool whole = mask == ~0u;
  uint64_t* row = rows[whole ? me->exchanges++ & 1 : 2];
  row[me->id & 31] = value;
  sync_warp(mask);
  uint64_t got = row[source & 31];
  if (!whole) sync_warp(mask);
  return got;
}
UNCHECKED const uint64_t* share(uint64_t value) {
  Thread* me = here->current;
  uint64_t* row = here->slots[me->id / 32][me->exchanges++ & 1];
  row[me->id & 31] = value;
  sync_warp(~0u);
  return row;
}
UNCHECKED unsigned ballot(unsigned mask, int predicate) {
  Thread* me = here->current;
  uint64_t* row = here->slots[me->id / 32][2];
  row[me->id & 31] = predicate != 0;
  sync_warp(mask);
  unsigned all = 0, lanes = mask & live_lanes(me->id / 32);
  for (int i = 0; i < 32; i++)
    if (lanes >> i & 1) all |= unsigned(row[i] & 1) << i;
  sync_warp(mask);
  return all;
}

bool run_grid(const std::string& name, const Call& call, dim3 grid, dim3 block, size_t shared) {
  static const uint64_t forced = setting("CUDA_HOST_SCHEDULE", ~0ull);
  static const uint64_t hosts = setting("CUDA_HOST_THREADS", std::max(1u, std::thread::hardware_concurrency()));
  static std::atomic<uint64_t> turn{0};
  uint64_t schedule = forced == ~0ull ? turn++ % 5 : forced;
  uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  {
    std::lock_guard<std::mutex> lock(names);
    current_kernel = name;
  }
  std::atomic<uint64_t> at{0};
  std::atomic<bool> good{true};
  auto some = [&] {
    if (!here) owner = std::make_unique<Block>(), here = owner.get();
    block_size = block, grid_size = grid, here->call = &call;
    arrange(schedule, block);
    constexpr uint64_t PIECE = 8;
    for (uint64_t first; good && (first = at.fetch_add(PIECE)) < blocks;) {
      for (uint64_t k = first; k < std::min(first + PIECE, blocks); k++) {
        uint64_t i = schedule == 1 ? blocks - 1 - k : k;
        block_index = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / (uint64_t(grid.x) * grid.y))};
        if (shared)
          for (auto array : shared_arrays()) memset(array(), 0xff, shared + SHARED_WINDOW);
        if (!run_block(name, schedule >= 2)) {
          good = false;
          // Its fibers hold half-run threads: they are never used again.
          here->idle.clear();
          break;
        }
        if (shared && !untouched_after(shared)) {
          complain(ILLEGAL_ADDRESS, "%s wrote past its %zu bytes of shared memory", name.c_str(), shared);
          good = false;
        }
      }
    }
  };
  // Small grids are not worth another thread.
  uint64_t threads = blocks * block.x * block.y * block.z;
  if (hosts > 1 && blocks > 8 && threads > 16384) {
    std::vector<std::thread> more;
    for (uint64_t i = 1; i < hosts; i++) more.emplace_back(some);
    some();
    for (auto& t : more) t.join();
  } else {
    some();
  }
  std::lock_guard<std::mutex> lock(names);
  current_kernel.clear();
  return good;
}
}  // namespace cuda_host
