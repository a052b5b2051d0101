// CUDA C++ as g++ sees it: qualifiers, thread coordinates, barriers, shuffles, atomics and arithmetic of the device. Included before every
// kernel source; `block.cpp` runs the threads.
#pragma once
#include <math.h>
#include <stdint.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#define CUDA_HOST
#define __CUDA_ARCH__ 900
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __shared__ thread_local
#define __constant__
#define __align__(n) alignas(n)
#ifndef CUDA_HOST_LIST  // the generator looks for these words
#define __global__
#define __launch_bounds__(...)
#endif

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct uint3 {
  unsigned x, y, z;
};
#define CUDA_HOST_VECTOR(T, NAME)                                     \
  struct alignas(2 * sizeof(T)) NAME##2 { T x, y; };                  \
  struct NAME##3 { T x, y, z; };                                      \
  struct alignas(sizeof(T) > 4 ? 16 : 4 * sizeof(T)) NAME##4 { T x, y, z, w; }; \
  inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }          \
  inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }  \
  inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDA_HOST_VECTOR(float, float)
CUDA_HOST_VECTOR(double, double)
CUDA_HOST_VECTOR(int, int)
CUDA_HOST_VECTOR(signed char, char)
CUDA_HOST_VECTOR(unsigned char, uchar)
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace cuda_host {
extern __thread uint3 thread_index, block_index;
extern __thread dim3 block_size, grid_size;

// Barriers and exchanges between the threads of a block.
void sync_block();
int sync_count(int predicate);
void sync_warp(unsigned mask);
int lane();
uint64_t exchange(unsigned mask, uint64_t value, int source);
unsigned ballot(unsigned mask, int predicate);

// Whether a kernel may be given this pointer: null, or inside memory of the device.
bool known(const void* pointer);

// A launch whose arguments have been copied: what a stream keeps until it runs.
using Call = std::function<void()>;
// Copies the arguments that `cuLaunchKernel` was given; null when one is a pointer that is not the device's.
using Bind = Call (*)(void** arguments, int* bad);
struct Kernel {
  Bind bind;
  int max_threads;
};
void add_kernel(const char* module, const char* name, Kernel kernel);

template <auto F>
struct Typed;
template <class... A, void (*F)(A...)>
struct Typed<F> {
  template <class T>
  static bool good(const T& v) {
    if constexpr (std::is_pointer_v<T>) return known((const void*)v);
    return true;
  }
  template <size_t... I>
  static Call bind(void** p, int* bad, std::index_sequence<I...>) {
    auto copied = std::make_shared<std::tuple<std::remove_const_t<A>...>>(*(std::remove_const_t<A>*)p[I]...);
    bool all = true;
    ((good(std::get<I>(*copied)) ? void() : (all ? void(*bad = I) : void(), void(all = false))), ...);
    if (!all) return nullptr;
    return [copied] { std::apply(F, *copied); };
  }
  static Call bind(void** p, int* bad) { return bind(p, bad, std::index_sequence_for<A...>{}); }
};
// Dynamic shared memory: every array is as large as a device's, and some bytes behind it tell whether a kernel wrote past what it asked for.
constexpr size_t MOST_SHARED = 227 << 10, SHARED_WINDOW = 1 << 10, SHARED_BYTES = MOST_SHARED + SHARED_WINDOW;
struct SharedArray {
  SharedArray(void* (*of_this_thread)());
};
struct Registered {
  Registered(const char* module, const char* name, Kernel kernel) { add_kernel(module, name, kernel); }
};

template <class To, class From>
To bits(From f) {
  static_assert(sizeof(To) == sizeof(From));
  To t;
  std::memcpy(&t, &f, sizeof t);
  return t;
}
template <class T>
T exchange_any(unsigned mask, T v, int source) {
  static_assert(sizeof(T) <= 8);
  uint64_t word = 0;
  std::memcpy(&word, &v, sizeof v);
  word = exchange(mask, word, source);
  std::memcpy(&v, &word, sizeof v);
  return v;
}
}  // namespace cuda_host

#define threadIdx (cuda_host::thread_index)
#define blockIdx (cuda_host::block_index)
#define blockDim (cuda_host::block_size)
#define gridDim (cuda_host::grid_size)
constexpr int warpSize = 32;

inline void __syncthreads() { cuda_host::sync_block(); }
inline void __syncwarp(unsigned mask = ~0u) { cuda_host::sync_warp(mask); }
inline int __syncthreads_count(int p) { return cuda_host::sync_count(p); }
inline int __syncthreads_or(int p) { return cuda_host::sync_count(p) != 0; }
inline void __threadfence() {}
inline void __threadfence_block() {}

// A lane outside the segment of `width` lanes, or none, gives the own value.
template <class T>
T __shfl_sync(unsigned m, T v, int from, int width = 32) {
  int l = cuda_host::lane();
  return cuda_host::exchange_any(m, v, (l & ~(width - 1)) | (from & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned m, T v, int x, int width = 32) {
  int l = cuda_host::lane(), s = l ^ x;
  return cuda_host::exchange_any(m, v, s < (l & ~(width - 1)) + width ? s : l);
}
template <class T>
T __shfl_down_sync(unsigned m, T v, int d, int width = 32) {
  int l = cuda_host::lane(), s = l + d;
  return cuda_host::exchange_any(m, v, s < (l & ~(width - 1)) + width ? s : l);
}
template <class T>
T __shfl_up_sync(unsigned m, T v, int d, int width = 32) {
  int l = cuda_host::lane(), s = l - d;
  return cuda_host::exchange_any(m, v, s >= (l & ~(width - 1)) ? s : l);
}
inline unsigned __ballot_sync(unsigned m, int p) { return cuda_host::ballot(m, p); }
inline int __any_sync(unsigned m, int p) { return cuda_host::ballot(m, p) != 0; }
inline int __all_sync(unsigned m, int p) { return cuda_host::ballot(m, p) == m; }

// Blocks run on several threads of the host, so that these are atomic.
template <class T, class F>
T cuda_host_atomic(T* p, F f) {
  T old;
  __atomic_load(p, &old, __ATOMIC_SEQ_CST);
  for (;;) {
    T next = f(old);
    if (__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return old;
  }
}
template <class T, class U>
T atomicAdd(T* p, U v) { return cuda_host_atomic(p, [&](T o) { return T(o + T(v)); }); }
template <class T, class U>
T atomicMax(T* p, U v) { return cuda_host_atomic(p, [&](T o) { return T(v) > o ? T(v) : o; }); }
template <class T, class U>
T atomicMin(T* p, U v) { return cuda_host_atomic(p, [&](T o) { return T(v) < o ? T(v) : o; }); }
template <class T, class U>
T atomicExch(T* p, U v) { return cuda_host_atomic(p, [&](T) { return T(v); }); }
template <class T, class U, class V>
T atomicCAS(T* p, U expected, V v) { return cuda_host_atomic(p, [&](T o) { return o == T(expected) ? T(v) : o; }); }

inline unsigned __float_as_uint(float f) { return cuda_host::bits<unsigned>(f); }
inline int __float_as_int(float f) { return cuda_host::bits<int>(f); }
inline float __uint_as_float(unsigned u) { return cuda_host::bits<float>(u); }
inline float __int_as_float(int i) { return cuda_host::bits<float>(i); }
inline long long __double_as_longlong(double d) { return cuda_host::bits<long long>(d); }
inline double __longlong_as_double(long long l) { return cuda_host::bits<double>(l); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline double rsqrt(double x) { return 1. / sqrt(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678118f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
template <class T>
T __ldg(const T* p) { return *p; }
template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using C = std::common_type_t<A, B>;
  return C(b) < C(a) ? C(b) : C(a);
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using C = std::common_type_t<A, B>;
  return C(a) < C(b) ? C(b) : C(a);
}
using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;
namespace cuda {
namespace std {
using ::std::numeric_limits;
}
}  // namespace cuda
#include "real16.h"
#include "tensor.h"
