// Pools of channels-last images x (B, H, W, C) -> (B, H', W', C).
#include "real.cuh"

struct Geometry {
  int height, width, channels, out_height, out_width, kernel, kernel_width, stride, stride_width, padding, padding_width;
};

// Where a value of images (B, H, W, C), or of results, lies.
struct Place {
  int channel, column, row;
  size_t sample;
  __device__ Place(unsigned at, int channels, int width, int height) {
    unsigned pixel = at / channels, line = pixel / width;
    channel = at % channels, column = pixel % width, row = line % height, sample = line / height;
  }
};
// f(where, number) of the values of an image that a result's window holds, in order, with their numbers in the window.
template <class F>
__device__ void values_of(const Place& result, const Geometry& s, F f) {
  for (int i = 0; i < s.kernel; i++) {
    int row = result.row * s.stride - s.padding + i;
    if (row < 0 || row >= s.height) continue;
    for (int j = 0; j < s.kernel_width; j++) {
      int column = result.column * s.stride_width - s.padding_width + j;
      if (column < 0 || column >= s.width) continue;
      f(((result.sample * s.height + row) * s.width + column) * s.channels + result.channel, i * s.kernel_width + j);
    }
  }
}
// f(where, number, row, column) of the results whose windows hold a value of an image, in order, with the value's number in the window.
template <class F>
__device__ void windows_of(const Place& value, const Geometry& s, F f) {
  for (int i = s.kernel - 1; i >= 0; i--) {
    int down = value.row + s.padding - i, row = down / s.stride;
    if (down < 0 || down % s.stride || row >= s.out_height) continue;
    for (int j = s.kernel_width - 1; j >= 0; j--) {
      int across = value.column + s.padding_width - j, column = across / s.stride_width;
      if (across < 0 || across % s.stride_width || column >= s.out_width) continue;
      f(((value.sample * s.out_height + row) * s.out_width + column) * s.channels + value.channel, i * s.kernel_width + j, row, column);
    }
  }
}

// The largest value of each window, and its number in it. A number that is none counts as the largest.
template <class T>
__device__ void max_forward(const T* x, T* y, unsigned char* place, unsigned n, Geometry s) {
  unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= n) return;
  float most = -INFINITY;
  int found = -1;
  values_of(Place(at, s.channels, s.out_width, s.out_height), s, [&](size_t where, int number) {
    float v = f32(x[where]);
    if (found < 0 || v > most || (isnan(v) && !isnan(most))) most = v, found = number;
  });
  y[at] = real<T>(most), place[at] = (unsigned char)found;
}

// A value's gradient is the sum of those of the windows that took it.
template <class T>
__device__ void max_backward(const T* g, const unsigned char* place, T* dx, unsigned n, Geometry s) {
  unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= n) return;
  float sum = 0;
  windows_of(Place(at, s.channels, s.width, s.height), s, [&](size_t where, int number, int, int) {
    if (place[where] == number) sum += f32(g[where]);
  });
  dx[at] = real<T>(sum);
}

// One over the values of a window, the border's zeros among them, but nothing beyond it.
__device__ inline float share(int row, int column, const Geometry& s) {
  int tall = min(row * s.stride + s.kernel, s.height + 2 * s.padding) - row * s.stride;
  int wide = min(column * s.stride_width + s.kernel_width, s.width + 2 * s.padding_width) - column * s.stride_width;
  return 1.f / (tall * wide);
}

template <class T>
__device__ void mean_forward(const T* x, T* y, unsigned n, Geometry s) {
  unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= n) return;
  Place result(at, s.channels, s.out_width, s.out_height);
  float sum = 0;
  values_of(result, s, [&](size_t where, int) { sum += f32(x[where]); });
  y[at] = real<T>(sum * share(result.row, result.column, s));
}

template <class T>
__device__ void mean_backward(const T* g, T* dx, unsigned n, Geometry s) {
  unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= n) return;
  float sum = 0;
  windows_of(Place(at, s.channels, s.width, s.height), s,
             [&](size_t where, int, int row, int column) { sum += f32(g[where]) * share(row, column, s); });
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
