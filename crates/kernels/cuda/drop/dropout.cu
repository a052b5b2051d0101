// Dropout and stochastic depth by counter: the masks of `candlelight-kernels` on the CPU, bit for bit, drawn again in the backward pass.
#include "real.cuh"

// Ten rounds of Philox 4x32 (J. K. Salmon et al. 2011).
__device__ inline void philox(uint32_t c[4], uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    uint64_t p0 = uint64_t(c[0]) * 0xD2511F53u, p1 = uint64_t(c[2]) * 0xCD9E8D57u;
    uint32_t c1 = c[1], c3 = c[3];
    c[0] = uint32_t(p1 >> 32) ^ c1 ^ k0, c[1] = uint32_t(p1), c[2] = uint32_t(p0 >> 32) ^ c3 ^ k1, c[3] = uint32_t(p0);
  }
}
// The factors of four neighbours: 0 or 1 / (1 - rate).
__device__ inline void keep4(float keep[4], size_t block, uint32_t k0, uint32_t k1, float rate) {
  uint32_t c[4] = {uint32_t(block), uint32_t(block >> 32), 0, 0};
  philox(c, k0, k1);
  float scale = 1.f / (1.f - rate);
#pragma unroll
  for (int i = 0; i < 4; i++) keep[i] = float(c[i] >> 8) * 5.9604644775390625e-8f < rate ? 0.f : scale;
}

// Four values per thread.
template <class T>
__device__ void dropout(const T* x, T* y, size_t n, uint32_t k0, uint32_t k1, float rate) {
  size_t block = size_t(blockIdx.x) * blockDim.x + threadIdx.x, at = block * 4;
  if (at >= n) return;
  float keep[4];
  keep4(keep, block, k0, k1, rate);
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (at + i < n) y[at + i] = real<T>(f32(x[at + i]) * keep[i]);
}

// Whole samples of `width` values.
template <class T>
__device__ void drop_path(const T* x, T* y, size_t n, size_t width, uint32_t k0, uint32_t k1, float rate) {
  size_t at = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= n) return;
  size_t sample = at / width;
  float keep[4];
  keep4(keep, sample / 4, k0, k1, rate);
  y[at] = real<T>(f32(x[at]) * keep[sample % 4]);
}

#define KERNELS(NAME, T)                                                                                                                     \
  extern "C" __global__ void dropout_##NAME(const T* x, T* y, size_t n, int k0, int k1, float rate) { dropout(x, y, n, k0, k1, rate); }       \
  extern "C" __global__ void drop_path_##NAME(const T* x, T* y, size_t n, size_t width, int k0, int k1, float rate) {                        \
    drop_path(x, y, n, width, k0, k1, rate);                                                                                                 \
  }
KERNELS(bf16, bf16)
KERNELS(f32, float)
