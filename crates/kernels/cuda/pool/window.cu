// Pools of channels-last images x (B, H, W, C) -> (B, H', W', C).
#include "real.cuh"

struct Geometry {
  int height, width, channels, out_height, out_width, kernel, kernel_width, stride, stride_width, padding, padding_width;
};

// The largest value of each window, and its place in it. A number that is none counts as the largest.
template <class T>
__device__ void max_forward(const T* x, T* y, unsigned char* place, unsigned n, Geometry s) {
  unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= n) return;
  unsigned pixel = at / s.channels, line = pixel / s.out_width;
  int c = at % s.channels, ox = pixel % s.out_width, oy = line % s.out_height;
  size_t sample = line / s.out_height;
  float most = -INFINITY;
  int found = -1;
  for (int i = 0; i < s.kernel; i++) {
    int row = oy * s.stride - s.padding + i;
    if (row < 0 || row >= s.height) continue;
    for (int j = 0; j < s.kernel_width; j++) {
      int column = ox * s.stride_width - s.padding_width + j;
      if (column < 0 || column >= s.width) continue;
      float v = f32(x[((sample * s.height + row) * s.width + column) * s.channels + c]);
      if (found < 0 || v > most || (isnan(v) && !isnan(most))) most = v, found = i * s.kernel_width + j;
    }
  }
  y[at] = real<T>(most), place[at] = (unsigned char)found;
}

// A value's gradient is the sum of those of the windows, in order, that took it.
template <class T>
__device__ void max_backward(const T* g, const unsigned char* place, T* dx, unsigned n, Geometry s) {
  unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= n) return;
  unsigned pixel = at / s.channels, line = pixel / s.width;
  int c = at % s.channels, column = pixel % s.width, row = line % s.height;
  size_t sample = line / s.height;
  float sum = 0;
  for (int i = s.kernel - 1; i >= 0; i--) {
    int down = row + s.padding - i;
    if (down < 0 || down % s.stride || down / s.stride >= s.out_height) continue;
    for (int j = s.kernel_width - 1; j >= 0; j--) {
      int across = column + s.padding_width - j;
      if (across < 0 || across % s.stride_width || across / s.stride_width >= s.out_width) continue;
      size_t from = ((sample * s.out_height + down / s.stride) * s.out_width + across / s.stride_width) * s.channels + c;
      if (place[from] == i * s.kernel_width + j) sum += f32(g[from]);
    }
  }
  dx[at] = real<T>(sum);
}

// One over the values of a window, the border's zeros among them, but nothing beyond it.
__device__ inline float share(int oy, int ox, const Geometry& s) {
  int tall = min(oy * s.stride + s.kernel, s.height + 2 * s.padding) - oy * s.stride;
  int wide = min(ox * s.stride_width + s.kernel_width, s.width + 2 * s.padding_width) - ox * s.stride_width;
  return 1.f / (tall * wide);
}

template <class T>
__device__ void mean_forward(const T* x, T* y, unsigned n, Geometry s) {
  unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= n) return;
  unsigned pixel = at / s.channels, line = pixel / s.out_width;
  int c = at % s.channels, ox = pixel % s.out_width, oy = line % s.out_height;
  size_t sample = line / s.out_height;
  float sum = 0;
  for (int i = 0; i < s.kernel; i++) {
    int row = oy * s.stride - s.padding + i;
    if (row < 0 || row >= s.height) continue;
    for (int j = 0; j < s.kernel_width; j++) {
      int column = ox * s.stride_width - s.padding_width + j;
      if (column >= 0 && column < s.width) sum += f32(x[((sample * s.height + row) * s.width + column) * s.channels + c]);
    }
  }
  y[at] = real<T>(sum * share(oy, ox, s));
}

template <class T>
__device__ void mean_backward(const T* g, T* dx, unsigned n, Geometry s) {
  unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= n) return;
  unsigned pixel = at / s.channels, line = pixel / s.width;
  int c = at % s.channels, column = pixel % s.width, row = line % s.height;
  size_t sample = line / s.height;
  float sum = 0;
  for (int i = s.kernel - 1; i >= 0; i--) {
    int down = row + s.padding - i;
    if (down < 0 || down % s.stride || down / s.stride >= s.out_height) continue;
    for (int j = s.kernel_width - 1; j >= 0; j--) {
      int across = column + s.padding_width - j;
      if (across < 0 || across % s.stride_width || across / s.stride_width >= s.out_width) continue;
      int oy = down / s.stride, ox = across / s.stride_width;
      sum += f32(g[((sample * s.out_height + oy) * s.out_width + ox) * s.channels + c]) * share(oy, ox, s);
    }
  }
  dx[at] = real<T>(sum);
}

#define GEOMETRY                                                                                                                             \
  int height, int width, int channels, int out_height, int out_width, int kernel, int kernel_width, int stride, int stride_width, int padding, \
      int padding_width
#define SIZES Geometry{height, width, channels, out_height, out_width, kernel, kernel_width, stride, stride_width, padding, padding_width}
#define KERNELS(NAME, T)                                                                                                                     \
  extern "C" __global__ void max_pool_forward_##NAME(const T* x, T* y, unsigned char* place, unsigned n, GEOMETRY) {                           \
    max_forward(x, y, place, n, SIZES);                                                                                                      \
  }                                                                                                                                          \
  extern "C" __global__ void max_pool_backward_##NAME(const T* g, const unsigned char* place, T* dx, unsigned n, GEOMETRY) {                   \
    max_backward(g, place, dx, n, SIZES);                                                                                                    \
  }                                                                                                                                          \
  extern "C" __global__ void avg_pool_forward_##NAME(const T* x, T* y, unsigned n, GEOMETRY) { mean_forward(x, y, n, SIZES); }                 \
  extern "C" __global__ void avg_pool_backward_##NAME(const T* g, T* dx, unsigned n, GEOMETRY) { mean_backward(g, dx, n, SIZES); }
KERNELS(bf16, bf16)
KERNELS(f32, float)
