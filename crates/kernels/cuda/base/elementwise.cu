// Sums, casts and copies of parts.
#include "real.cuh"

template <class A, class B>
__device__ void add(const A* a, const B* b, A* y, size_t n) {
  constexpr int N = Pack<A>::N;
  size_t at = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (at >= n) return;
  if (at + N > n) {
    for (; at < n; at++) y[at] = real<A>(f32(a[at]) + f32(b[at]));
    return;
  }
  Pack<A> p = load(a + at);
#pragma unroll
  for (int k = 0; k < N; k++) p.v[k] = real<A>(f32(p.v[k]) + f32(b[at + k]));
  store(y + at, p);
}
// Both in 16-byte packs.
template <class T>
__device__ void add_same(const T* a, const T* b, T* y, size_t n) {
  constexpr int N = Pack<T>::N;
  size_t at = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (at >= n) return;
  if (at + N > n) {
    for (; at < n; at++) y[at] = real<T>(f32(a[at]) + f32(b[at]));
    return;
  }
  Pack<T> p = load(a + at), q = load(b + at);
#pragma unroll
  for (int k = 0; k < N; k++) p.v[k] = real<T>(f32(p.v[k]) + f32(q.v[k]));
  store(y + at, p);
}
extern "C" __global__ void add_f32_f32(const float* a, const float* b, float* y, size_t n) { add_same(a, b, y, n); }
extern "C" __global__ void add_bf16_bf16(const bf16* a, const bf16* b, bf16* y, size_t n) { add_same(a, b, y, n); }
extern "C" __global__ void add_bf16_f32(const bf16* a, const float* b, bf16* y, size_t n) { add(a, b, y, n); }

// y = a x.
template <class T>
__device__ void scale(float a, const T* x, T* y, size_t n) {
  constexpr int N = Pack<T>::N;
  size_t at = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (at >= n) return;
  if (at + N > n) {
    for (; at < n; at++) y[at] = real<T>(a * f32(x[at]));
    return;
  }
  Pack<T> p = load(x + at);
#pragma unroll
  for (int k = 0; k < N; k++) p.v[k] = real<T>(a * f32(p.v[k]));
  store(y + at, p);
}
extern "C" __global__ void scale_f32(float a, const float* x, float* y, size_t n) { scale(a, x, y, n); }
extern "C" __global__ void scale_bf16(float a, const bf16* x, bf16* y, size_t n) { scale(a, x, y, n); }

// Eight values per thread.
template <class A, class B>
__device__ void cast(const A* x, B* y, size_t n) {
  size_t at = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
  if (at >= n) return;
  if (at + 8 > n) {
    for (; at < n; at++) y[at] = real<B>(f32(x[at]));
    return;
  }
  union {
    Pack<A> p[8 / Pack<A>::N];
    A v[8];
  } in;
  union {
    Pack<B> p[8 / Pack<B>::N];
    B v[8];
  } out;
#pragma unroll
  for (int i = 0; i < 8 / Pack<A>::N; i++) in.p[i] = load(x + at + i * Pack<A>::N);
#pragma unroll
  for (int k = 0; k < 8; k++) out.v[k] = real<B>(f32(in.v[k]));
#pragma unroll
  for (int i = 0; i < 8 / Pack<B>::N; i++) store(y + at + i * Pack<B>::N, out.p[i]);
}
extern "C" __global__ void narrow_bf16(const float* x, bf16* y, size_t n) { cast(x, y, n); }
extern "C" __global__ void widen_f32(const bf16* x, float* y, size_t n) { cast(x, y, n); }

// Part of the columns of a matrix: y (rows, n) = x (rows, width) from column `first` on. Zeros of the others, or back, with `y` the wide one.
template <class T>
__device__ void columns(const T* x, T* y, size_t rows, size_t width, size_t first, size_t n) {
  size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < rows * n) y[i] = x[i / n * width + first + i % n];
}
template <class T, class Zero>
__device__ void spread(const T* x, T* y, size_t rows, size_t width, size_t first, size_t n, Zero zero) {
  size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows * width) return;
  size_t c = i % width;
  y[i] = c >= first && c < first + n ? x[i / width * n + c - first] : zero;
}
// Units of 2, 4 and 16 bytes.
extern "C" __global__ void columns_2(const uint16_t* x, uint16_t* y, size_t rows, size_t width, size_t first, size_t n) { columns(x, y, rows, width, first, n); }
extern "C" __global__ void columns_4(const uint32_t* x, uint32_t* y, size_t rows, size_t width, size_t first, size_t n) { columns(x, y, rows, width, first, n); }
extern "C" __global__ void columns_16(const uint4* x, uint4* y, size_t rows, size_t width, size_t first, size_t n) { columns(x, y, rows, width, first, n); }
extern "C" __global__ void spread_2(const uint16_t* x, uint16_t* y, size_t rows, size_t width, size_t first, size_t n) { spread(x, y, rows, width, first, n, uint16_t(0)); }
extern "C" __global__ void spread_4(const uint32_t* x, uint32_t* y, size_t rows, size_t width, size_t first, size_t n) { spread(x, y, rows, width, first, n, uint32_t(0)); }
extern "C" __global__ void spread_16(const uint4* x, uint4* y, size_t rows, size_t width, size_t first, size_t n) { spread(x, y, rows, width, first, n, make_uint4(0, 0, 0, 0)); }

// Sums of columns over a share of the rows of x (rows, width): partial (blocks in y, width). Blocks of (32, 8) threads; V columns per thread.
template <class T, int V>
__device__ void column_sum(const T* x, float* partial, size_t rows, int width) {
  __shared__ float shared[8][32 * V + 1];
  int c = (blockIdx.x * 32 + threadIdx.x) * V;
  float sum[V] = {};
  if (c < width)
    for (size_t row = blockIdx.y * 8 + threadIdx.y; row < rows; row += gridDim.y * 8) {
      if (V == 1) {
        sum[0] += f32(x[row * width + c]);
        continue;
      }
      Pack<T> p = load(x + row * width + c);
#pragma unroll
      for (int k = 0; k < V; k++) sum[k] += f32(p.v[k]);
    }
#pragma unroll
  for (int k = 0; k < V; k++) shared[threadIdx.y][threadIdx.x * V + k] = sum[k];
  __syncthreads();
  int thread = threadIdx.y * 32 + threadIdx.x;
  for (int i = thread; i < 32 * V; i += 256) {
    int column = blockIdx.x * 32 * V + i;
    if (column >= width) continue;
    float all = 0;
    for (int w = 0; w < 8; w++) all += shared[w][i];
    partial[size_t(blockIdx.y) * width + column] = all;
  }
}
extern "C" __global__ void column_sum_f32(const float* x, float* partial, size_t rows, int width) { column_sum<float, 4>(x, partial, rows, width); }
extern "C" __global__ void column_sum_bf16(const bf16* x, float* partial, size_t rows, int width) { column_sum<bf16, 8>(x, partial, rows, width); }
extern "C" __global__ void column_sum_f32_any(const float* x, float* partial, size_t rows, int width) { column_sum<float, 1>(x, partial, rows, width); }
extern "C" __global__ void column_sum_bf16_any(const bf16* x, float* partial, size_t rows, int width) { column_sum<bf16, 1>(x, partial, rows, width); }

// The sum of the rows of partial (parts, width), in order: the first `split` columns go to `a`, the others to `b`; added to what is there where
// the flag says so. Blocks of (32, 8) threads.
extern "C" __global__ void reduce_parts(const float* partial, float* a, float* b, int parts, int width, int split, int add_a, int add_b) {
  __shared__ float shared[8][33];
  int c = blockIdx.x * 32 + threadIdx.x;
  float sum = 0;
  if (c < width)
    for (int p = threadIdx.y; p < parts; p += 8) sum += partial[size_t(p) * width + c];
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y || c >= width) return;
  float all = 0;
  for (int w = 0; w < 8; w++) all += shared[w][threadIdx.x];
  float* out = c < split ? a : b;
  int add = c < split ? add_a : add_b;
  if (!out) return;
  if (c >= split) c -= split;
  out[c] = add ? out[c] + all : all;
}

// out[0] = factor times the sum of n numbers, in a fixed order. One block of 1,024 threads.
extern "C" __global__ void total(const float* x, float* out, size_t n, float factor) {
  float sum = 0;
  for (size_t i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) out[0] = sum * factor;
}
