// MAE's reconstruction loss, arXiv 2111.06377, and its gradient: a warp per patch.
#include "real.cuh"

// losses (B, L) are each removed patch's sum of squared differences, 0 for the others; d (B, L, p p C) = factor times the difference.
template <class T>
__device__ void mae(const T* pred, const float* images, const float* mask, T* d, float* losses, int total, int patches, int channels, int height,
                    int width, int p, float factor, int norm_pix) {
  int patch = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x, len = channels * p * p;
  if (patch >= total) return;
  T* out = d + size_t(patch) * len;
  if (mask[patch] == 0.f) {
    for (int j = lane; j < len; j += 32) out[j] = real<T>(0.f);
    if (lane == 0) losses[patch] = 0;
    return;
  }
  int sample = patch / patches, id = patch % patches, across = width / p;
  const float* image = images + size_t(sample) * channels * height * width + size_t(id / across * p) * width + id % across * p;
  // In MAE's order of values: row, column, channel.
  auto pixel = [&](int j) { return image[(size_t(j % channels) * height + j / channels / p) * width + j / channels % p]; };
  float mean = 0, inverse = 1;
  if (norm_pix) {
    float sum = 0, squares = 0;
    for (int j = lane; j < len; j += 32) sum += pixel(j);
    mean = warp_sum(sum) / len;
    for (int j = lane; j < len; j += 32) {
      float v = pixel(j) - mean;
      squares += v * v;
    }
    inverse = 1.f / sqrtf(warp_sum(squares) / (len - 1) + 1e-6f);
  }
  float loss = 0, weight = mask[patch];
  for (int j = lane; j < len; j += 32) {
    float v = f32(pred[size_t(patch) * len + j]) - (pixel(j) - mean) * inverse;
    loss += v * v;
    out[j] = real<T>(v * factor * weight);
  }
  loss = warp_sum(loss);
  if (lane == 0) losses[patch] = loss * weight;
}
#define KERNELS(NAME, T)                                                                                                                         \
  extern "C" __global__ void mae_##NAME(const T* pred, const float* images, const float* mask, T* d, float* losses, int total, int patches,      \
                                        int channels, int height, int width, int p, float factor, int norm_pix) {                                \
    mae(pred, images, mask, d, losses, total, patches, channels, height, width, p, factor, norm_pix);                                            \
  }
KERNELS(bf16, bf16)
KERNELS(f32, float)
