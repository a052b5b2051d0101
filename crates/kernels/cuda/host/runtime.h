// What the parts of the emulated driver share.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

#include "cuda_host.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace cuda_host {
// CUresult values that are used here.
enum Result {
  OK = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  NO_BINARY_FOR_GPU = 209,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_FAILED = 719,
};

// One device: whatever touches its queues or its memory holds this.
std::recursive_mutex& device();
// Says what went wrong on stderr, and returns `result`.
int complain(int result, const char* format, ...) __attribute__((format(printf, 2, 3)));
// The number of an environment variable, else `otherwise`.
uint64_t setting(const char* name, uint64_t otherwise);

// block.cpp: runs a grid; false when its threads wait for each other for ever or shared memory was written past its end.
bool run_grid(const std::string& name, const Call& call, dim3 grid, dim3 block, size_t shared);
// What the host is running, for a fault's report.
std::string running();
// memory.cpp
int allocate(uint64_t* p, size_t n);
int release(uint64_t p);
bool pinned(const void* p);
struct Usage {
  size_t live, peak, buffers;
};
Usage usage();
extern "C" int cuMemGetInfo_v2(size_t* left, size_t* total);

// stream.cpp: work is kept until something waits for it.
struct Stream;
Stream* stream_of(void* handle);
int enqueue(void* stream, std::function<int()> work);
int wait_stream(void* stream);
int wait_device();
// An error of work that ran earlier, which every later call returns.
int sticky();

struct Counts {
  long launches = 0, waits = 0, copies_to_host = 0, copies_to_device = 0;
};
Counts& counts();
}  // namespace cuda_host
