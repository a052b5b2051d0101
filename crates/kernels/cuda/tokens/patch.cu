// Images (B, C, H, W) as patches, and pixels as numbers.
#include "real.cuh"

// y (B, K, C p p) = patches `ids` (B, K), or all in order where it is null, in a convolution's order of values.
template <class T>
__device__ void patches(const float* x, const uint32_t* ids, T* y, int samples, int k, int channels, int height, int width, int p) {
  size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  int len = channels * p * p;
  if (i >= size_t(samples) * k * len) return;
  int at = int(i % len), column = at % p, row = at / p % p, channel = at / (p * p);
  size_t patch = i / len, sample = patch / k;
  int id = ids ? int(ids[patch]) : int(patch % k), across = width / p;
  y[i] = real<T>(x[((sample * channels + channel) * height + id / across * p + row) * width + id % across * p + column]);
}
extern "C" __global__ void patches_f32(const float* x, const uint32_t* ids, float* y, int samples, int k, int channels, int height, int width, int p) {
  patches(x, ids, y, samples, k, channels, height, width, p);
}
extern "C" __global__ void patches_bf16(const float* x, const uint32_t* ids, bf16* y, int samples, int k, int channels, int height, int width, int p) {
  patches(x, ids, y, samples, k, channels, height, width, p);
}

// Bytes to numbers in torchvision's order: (x / 255 - mean) / std, of channels of `pixels` values.
extern "C" __global__ void normalise(const unsigned char* x, const float* mean, const float* std, float* y, size_t n, int channels, int pixels) {
  size_t i = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
#pragma unroll
  for (int k = 0; k < 4; k++, i++)
    if (i < n) {
      int c = int(i / pixels % channels);
      y[i] = (float(x[i]) / 255.f - mean[c]) / std[c];
    }
}
