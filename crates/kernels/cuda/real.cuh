// What every kernel uses: values in f32 or bf16, read and written 16 bytes at a time, and sums over warps.
#pragma once
#include <cuda_bf16.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;

// As many values as 16 bytes hold.
template <class T>
struct __align__(16) Pack {
  static constexpr int N = 16 / sizeof(T);
  T v[N];
};

__device__ inline float f32(float x) { return x; }
__device__ inline float f32(bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ inline T real(float x);
template <>
__device__ inline float real<float>(float x) { return x; }
template <>
__device__ inline bf16 real<bf16>(float x) { return __float2bfloat16(x); }

template <class T>
__device__ inline Pack<T> load(const T* p) { return *reinterpret_cast<const Pack<T>*>(p); }
template <class T>
__device__ inline void store(T* p, const Pack<T>& x) { *reinterpret_cast<Pack<T>*>(p) = x; }

// V values at a time: those of 16 bytes where everything is a multiple of them, else one.
template <class T, int V>
struct __align__(sizeof(T) * V) Some {
  T v[V];
};
template <class T, int V>
__device__ inline Some<T, V> some(const T* p) { return *reinterpret_cast<const Some<T, V>*>(p); }
template <class T, int V>
__device__ inline void put(T* p, const Some<T, V>& x) { *reinterpret_cast<Some<T, V>*>(p) = x; }

// N floats, a multiple of four, from an address that is a multiple of 16 bytes: single loads of neighbours would cost as many turns each.
template <int N>
__device__ inline void load_floats(float to[N], const float* from) {
#pragma unroll
  for (int k = 0; k < N; k += 4) {
    Pack<float> p = load(from + k);
#pragma unroll
    for (int j = 0; j < 4; j++) to[k + j] = p.v[j];
  }
}

__device__ inline float warp_sum(float x) {
  for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(~0u, x, d);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int d = 16; d; d >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
  return x;
}

// Sums over a block of at most 1,024 threads in one dimension; every thread gets the result.
__device__ inline float block_sum(float x) {
  __shared__ float parts[33];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
  x = warp_sum(x);
  __syncthreads();
  if (lane == 0) parts[warp] = x;
  __syncthreads();
  if (warp == 0) {
    x = warp_sum(lane < warps ? parts[lane] : 0.f);
    if (lane == 0) parts[32] = x;
  }
  __syncthreads();
  return parts[32];
}
__device__ inline float block_max(float x) {
  __shared__ float parts[33];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
  x = warp_max(x);
  __syncthreads();
  if (lane == 0) parts[warp] = x;
  __syncthreads();
  if (warp == 0) {
    x = warp_max(lane < warps ? parts[lane] : -INFINITY);
    if (lane == 0) parts[32] = x;
  }
  __syncthreads();
  return parts[32];
}
