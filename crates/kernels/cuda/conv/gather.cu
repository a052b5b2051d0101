// Convolutions of channels-last images as products: patches gathered into a matrix, and added up where they came from.
// x (B, H, W, C), patches (B H' W', width): the kernel's rows, its columns, then channels, and zeros up to `width`.
#include "real.cuh"

struct Geometry {
  int height, width, channels, out_height, out_width, kernel, kernel_width, stride, stride_width, padding, padding_width, dilation, dilation_width;
};

template <class T, int V>
__device__ void gather(const T* x, T* patches, unsigned n, int width, Geometry s) {
  unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= n) return;
  unsigned packs = width / V, pixel = at / packs;
  int c = at % packs * V;
  Some<T, V> p;
#pragma unroll
  for (int k = 0; k < V; k++) p.v[k] = real<T>(0.f);
  int tap = c / s.channels;
  if (tap < s.kernel * s.kernel_width) {
    unsigned line = pixel / s.out_width, sample = line / s.out_height;
    int ox = pixel % s.out_width, oy = line % s.out_height;
    int y = oy * s.stride - s.padding + tap / s.kernel_width * s.dilation;
    int left = ox * s.stride_width - s.padding_width + tap % s.kernel_width * s.dilation_width;
    if (y >= 0 && y < s.height && left >= 0 && left < s.width)
      p = some<T, V>(x + ((size_t(sample) * s.height + y) * s.width + left) * s.channels + c % s.channels);
  }
  put(patches + size_t(pixel) * width + c, p);
}

// dx, the reverse: each value of the image adds up the patches that hold it, in order, and `more` where it is not null.
template <class T, int V>
__device__ void scatter(const T* patches, const T* more, T* x, unsigned n, int width, Geometry s) {
  unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= n) return;
  unsigned packs = s.channels / V, pixel = at / packs, line = pixel / s.width, sample = line / s.height;
  int c = at % packs * V, left = pixel % s.width, y = line % s.height;
  float sum[V];
#pragma unroll
  for (int k = 0; k < V; k++) sum[k] = more ? f32(more[size_t(pixel) * s.channels + c + k]) : 0.f;
  for (int i = 0; i < s.kernel; i++) {
    int down = y + s.padding - i * s.dilation;
    if (down < 0 || down % s.stride || down / s.stride >= s.out_height) continue;
    for (int j = 0; j < s.kernel_width; j++) {
      int across = left + s.padding_width - j * s.dilation_width;
      if (across < 0 || across % s.stride_width || across / s.stride_width >= s.out_width) continue;
      size_t row = (size_t(sample) * s.out_height + down / s.stride) * s.out_width + across / s.stride_width;
      Some<T, V> p = some<T, V>(patches + row * width + (i * s.kernel_width + j) * s.channels + c);
#pragma unroll
      for (int k = 0; k < V; k++) sum[k] += f32(p.v[k]);
    }
  }
  Some<T, V> p;
#pragma unroll
  for (int k = 0; k < V; k++) p.v[k] = real<T>(sum[k]);
  put(x + size_t(pixel) * s.channels + c, p);
}

// PyTorch's weights w (O, C, taps) as rows of patches (O, width).
template <class T>
__device__ void arrange(const float* w, T* rows, size_t n, int channels, int taps, int width) {
  size_t at = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= n) return;
  int c = int(at % width), tap = c / channels;
  rows[at] = real<T>(tap < taps ? w[(at / width * channels + c % channels) * taps + tap] : 0.f);
}
// The reverse, for gradients, which are added to what is there where `add` says so.
template <class T>
__device__ void restore(const T* rows, float* w, size_t n, int channels, int taps, int width, int add) {
  size_t at = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= n) return;
  size_t o = at / taps / channels;
  int c = int(at / taps % channels), tap = int(at % taps);
  float v = f32(rows[o * width + tap * channels + c]);
  w[at] = add ? w[at] + v : v;
}

#define GEOMETRY                                                                                                                             \
  int height, int width, int channels, int out_height, int out_width, int kernel, int kernel_width, int stride, int stride_width, int padding, \
      int padding_width, int dilation, int dilation_width
#define SIZES                                                                                                                                 \
  Geometry { height, width, channels, out_height, out_width, kernel, kernel_width, stride, stride_width, padding, padding_width, dilation,    \
             dilation_width }
#define KERNELS(NAME, T, V)                                                                                                                   \
  extern "C" __global__ void conv_gather_##NAME(const T* x, T* patches, unsigned n, int columns, GEOMETRY) {                                    \
    gather<T, V>(x, patches, n, columns, SIZES);                                                                                              \
  }                                                                                                                                           \
  extern "C" __global__ void conv_scatter_##NAME(const T* patches, const T* more, T* x, unsigned n, int columns, GEOMETRY) {                    \
    scatter<T, V>(patches, more, x, n, columns, SIZES);                                                                                       \
  }
KERNELS(bf16, bf16, 8)
KERNELS(f32, float, 4)
KERNELS(bf16_any, bf16, 1)
KERNELS(f32_any, float, 1)
extern "C" __global__ void conv_arrange_bf16(const float* w, bf16* rows, size_t n, int channels, int taps, int width) {
  arrange(w, rows, n, channels, taps, width);
}
extern "C" __global__ void conv_arrange_f32(const float* w, float* rows, size_t n, int channels, int taps, int width) {
  arrange(w, rows, n, channels, taps, width);
}
extern "C" __global__ void conv_restore_bf16(const bf16* rows, float* w, size_t n, int channels, int taps, int width, int add) {
  restore(rows, w, n, channels, taps, width, add);
}
extern "C" __global__ void conv_restore_f32(const float* rows, float* w, size_t n, int channels, int taps, int width, int add) {
  restore(rows, w, n, channels, taps, width, add);
}
