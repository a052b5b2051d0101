// The entry points of libcuda that cudarc and candle call: the device, its context, modules and launches.
#include "runtime.h"

#include <fstream>
#include <iterator>
#include <map>

namespace cuda_host {
namespace {
std::map<std::string, std::map<std::string, Kernel>>& modules() {
  static std::map<std::string, std::map<std::string, Kernel>> m;
  return m;
}
struct Function {
  std::string name;
  Kernel kernel;
  size_t most_shared = 48 << 10;
};
thread_local void* context;
// What `cuDeviceGet` takes: CUDA_HOST_DEVICES=0 is a machine without.
const int devices = setting("CUDA_HOST_DEVICES", 1);
const uint64_t capability = setting("CUDA_HOST_CAPABILITY", 90);
// A program whose kernels are for another GPU.
const bool foreign = setting("CUDA_HOST_FOREIGN", 0);
const bool trace = setting("CUDA_HOST_TRACE", 0);
}  // namespace

void add_kernel(const char* module, const char* name, Kernel kernel) { modules()[module][name] = kernel; }

extern "C" {
int cuInit(unsigned) { return devices ? OK : NO_DEVICE; }
int cuDriverGetVersion(int* v) { return *v = 13000, OK; }
int cuDeviceGetCount(int* n) { return *n = devices, OK; }
int cuDeviceGet(int* d, int i) { return i >= 0 && i < devices ? (*d = i, OK) : INVALID_DEVICE; }
int cuDeviceGetName(char* name, int n, int) { return snprintf(name, n, "a CPU that stands in for a device"), OK; }
int cuDeviceTotalMem_v2(size_t* n, int) {
  size_t left;
  return cuMemGetInfo_v2(&left, n);
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  static const std::map<int, int> known = {
      {1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 2147483647}, {6, 65535}, {7, 65535},  // threads and blocks of a launch
      {8, 48 << 10}, {10, 32}, {12, 65536}, {16, 132}, {39, 2048},                          // shared memory, warp, registers, processors
      {75, int(capability / 10)}, {76, int(capability % 10)}, {81, 228 << 10}, {97, MOST_SHARED}, {115, 1},                       // compute capability, memory pools
  };
  auto i = known.find(attribute);
  *value = i == known.end() ? 0 : i->second;
  return OK;
}
int cuDevicePrimaryCtxRetain(void** c, int device) { return *c = (void*)(uintptr_t)(device + 1), OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
int cuCtxGetCurrent(void** c) { return *c = context, OK; }
int cuCtxSetCurrent(void* c) { return context = c, OK; }
int cuCtxDestroy_v2(void*) { return OK; }
int cuCtxGetDevice(int* d) { return *d = context ? int((uintptr_t)context) - 1 : 0, OK; }

// The stand-in for nvcc writes the name of a source where its code would be.
int cuModuleLoadData(void** module, const void* image) {
  if (foreign) return NO_BINARY_FOR_GPU;
  std::string text((const char*)image), mark = "//CUDA_HOST ";
  if (text.rfind(mark, 0) != 0) return complain(INVALID_IMAGE, "the image was not made by the stand-in for nvcc");
  std::string name = text.substr(mark.size(), text.find_first_of("\r\n", mark.size()) - mark.size());
  auto i = modules().find(name);
  if (i == modules().end()) return complain(INVALID_IMAGE, "no source %s was compiled for the host", name.c_str());
  return *module = &i->second, OK;
}
int cuModuleLoad(void** module, const char* path) {
  std::ifstream file(path);
  std::string text(std::istreambuf_iterator<char>(file), {});
  return file ? cuModuleLoadData(module, text.c_str()) : complain(NOT_FOUND, "cannot read %s", path);
}
int cuModuleUnload(void*) { return OK; }
int cuModuleGetFunction(void** function, void* module, const char* name) {
  auto& kernels = *(std::map<std::string, Kernel>*)module;
  auto i = kernels.find(name);
  if (i == kernels.end()) return complain(NOT_FOUND, "no kernel %s", name);
  return *function = new Function{name, i->second}, OK;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
  constexpr int MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;
  if (attribute != MAX_DYNAMIC_SHARED_SIZE_BYTES) return OK;
  if (value < 0 || size_t(value) > MOST_SHARED) return INVALID_VALUE;
  return ((Function*)function)->most_shared = value, OK;
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream,
                   void** arguments, void**) {
  Function* f = (Function*)function;
  const char* name = f->name.c_str();
  counts().launches++;
  if (trace) fprintf(stderr, "cuda_host: %s, grid (%u, %u, %u), block (%u, %u, %u), shared %u\n", name, gx, gy, gz, bx, by, bz, shared);
  uint64_t threads = uint64_t(bx) * by * bz;
  if (!gx || !gy || !gz || gx > 2147483647u || gy > 65535 || gz > 65535)
    return complain(INVALID_VALUE, "%s: a grid of (%u, %u, %u) blocks; the most are (2147483647, 65535, 65535)", name, gx, gy, gz);
  if (!threads || threads > uint64_t(f->kernel.max_threads) || bx > 1024 || by > 1024 || bz > 64)
    return complain(INVALID_VALUE, "%s: a block of (%u, %u, %u) threads; this kernel may have %d", name, bx, by, bz, f->kernel.max_threads);
  if (shared > f->most_shared)
    return complain(INVALID_VALUE, "%s: %u bytes of shared memory, of which %zu are allowed", name, shared, f->most_shared);
  int bad = 0;
  Call call = f->kernel.bind(arguments, &bad);
  if (!call) return complain(ILLEGAL_ADDRESS, "%s: argument %d is a pointer that is not the device's", name, bad);
  return enqueue(stream, [=] { return run_grid(f->name, call, {gx, gy, gz}, {bx, by, bz}, shared) ? OK : LAUNCH_FAILED; });
}

int cuGetErrorName(int e, const char** s) {
  static thread_local char text[48];
  snprintf(text, sizeof text, "CUDA_ERROR_%d", e);
  return *s = text, OK;
}
int cuGetErrorString(int e, const char** s) {
  static const std::map<int, const char*> texts = {
      {INVALID_VALUE, "invalid argument"},
      {OUT_OF_MEMORY, "out of memory"},
      {NO_DEVICE, "no CUDA-capable device is detected"},
      {INVALID_DEVICE, "invalid device ordinal"},
      {INVALID_IMAGE, "device kernel image is invalid"},
      {NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device"},
      {NOT_FOUND, "named symbol not found"},
      {NOT_READY, "device not ready"},
      {ILLEGAL_ADDRESS, "an illegal memory access was encountered"},
      {LAUNCH_FAILED, "unspecified launch failure"},
  };
  auto i = texts.find(e);
  return *s = i == texts.end() ? "unknown error" : i->second, OK;
}

// The pool keeps what it has; only its use can be asked for.
int cuDeviceGetDefaultMemPool(void** pool, int) { return *pool = (void*)1, OK; }
int cuMemPoolSetAttribute(void*, int, void*) { return OK; }
int cuMemPoolGetAttribute(void*, int attribute, void* value) {
  constexpr int USED_MEM_CURRENT = 7, USED_MEM_HIGH = 8;
  Usage u = usage();
  if (attribute == USED_MEM_CURRENT) return *(uint64_t*)value = u.live, OK;
  if (attribute == USED_MEM_HIGH) return *(uint64_t*)value = u.peak, OK;
  return INVALID_VALUE;
}

// For tests: launches, waits of the host, copies to it and to the device, live bytes, buffers, peak bytes.
void cuda_host_counts(uint64_t out[7]) {
  Counts& c = counts();
  Usage u = usage();
  uint64_t all[7] = {uint64_t(c.launches), uint64_t(c.waits), uint64_t(c.copies_to_host), uint64_t(c.copies_to_device), u.live, u.buffers, u.peak};
  memcpy(out, all, sizeof all);
}
}
}  // namespace cuda_host
